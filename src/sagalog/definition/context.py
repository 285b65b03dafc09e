"""What a handler may ask about the step it is in."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from types import MappingProxyType

import msgspec

from .actions import Gathered

_NONE: Mapping[str, str] = MappingProxyType({})


class StepContext(msgspec.Struct, frozen=True):
    """The current step, for a handler that takes it as its third parameter: `def paid(self, state, event, context)`.

    `now` is aware and in UTC, and comes from the runner's clock: in tests and replays of old logs it is the time there.
    A handler that uses it instead of `datetime.now()` decides the same in each of them. A step that is tried again
    after a failure has a later `now`.
    """

    now: datetime
    correlation_id: str
    message_id: str
    message_at: datetime | None = None  # the event's own time, where its source tells it; in UTC
    trace: str = ""  # of what caused the message, as a hook gave it
    # Of the message, where its source has some.
    headers: Mapping[str, str] = msgspec.field(default_factory=lambda: _NONE)
    gathered: Gathered | None = None  # how it went, where the event is a gather's `then` or `failed`
    phase: Enum | None = None  # that the saga is in as the step begins; None for a saga without phases
