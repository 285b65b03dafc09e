"""An event as it comes in, and what its sender is told of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from ..decision.message import Outcome


class Incoming(msgspec.Struct, frozen=True):
    """An event as its source delivers it. `message_id` is the same at every delivery; `at` is the event's own time."""

    event: Any
    message_id: str | None = None
    at: datetime | None = None

    def __repr__(self) -> str:  # without the event: it may end in a log
        return f"<Incoming {type(self.event).__name__}, message_id={self.message_id!r}, at={self.at}>"


class Receipt(msgspec.Struct, frozen=True, repr_omit_defaults=True):
    """What became of an accepted event, by saga; it is durable. There are no outcomes if no saga takes such events.

    `instances`: of a saga in which it reached instances by a key, what became of it in each, by correlation id.
    """

    message_id: str
    outcomes: dict[str, Outcome] = {}
    instances: dict[str, dict[str, Outcome]] = {}

    @property
    def handled(self) -> bool:
        """At least one instance changed."""
        return Outcome.HANDLED in self.outcomes.values()

    @property
    def duplicate(self) -> bool:
        """Every saga that the message was for had handled it before."""
        return bool(self.outcomes) and all(outcome is Outcome.DUPLICATE for outcome in self.outcomes.values())

    @property
    def held(self) -> bool:
        """At least one instance is parked, and keeps the event for its repair."""
        return self._any(Outcome.HELD)

    @property
    def kept(self) -> bool:
        """At least one instance keeps the event until its moment comes: a phase that expects it, or what is before it."""
        return self._any(Outcome.KEPT)

    @property
    def already_started(self) -> bool:
        """At least one instance was started by an event of this type already, and its handler says `again="ignore"`."""
        return Outcome.ALREADY_STARTED in self.outcomes.values()

    @property
    def ignored(self) -> bool:
        """No instance took it."""
        return all(outcome in (Outcome.NO_INSTANCE, Outcome.IGNORED) for outcome in self.outcomes.values())

    def _any(self, outcome: Outcome) -> bool:
        return outcome in self.outcomes.values() or any(outcome in one.values() for one in self.instances.values())
