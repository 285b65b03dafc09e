"""The timer of a record that is due, as the message it becomes."""

from __future__ import annotations

from datetime import datetime

import msgspec

from ..definition.recurring import RuleError, following
from ..errors import CodecError
from .draft import Draft
from .ids import GAP
from .message import Message


def due_timer(draft: Draft, until: datetime, *, since: datetime | None = None) -> Message | None:
    """Return the earliest timer due at `until` or before, as a message.

    Its id names the step that set it, so a replaced timer, and one of an earlier incarnation, is never taken for it.
    A recurring one brings the next of its rule with it. It fires at `until`, and has missed what passed before; or, where
    timers have been looked for `since` then, at its own moment, if that lies not before. Raises CodecError for one that
    this code cannot read, has no handler for, or whose rule it cannot follow: newer code may, or a machine that has what
    it needs.
    """
    found = draft.next_timer()
    if found is None or found[1].due_at > until:
        return None
    name, timer = found
    event = None if timer.send or name.startswith(GAP) else draft.registry.unpack(timer.event)
    if event is not None and not draft.saga.handles_event(event):
        raise CodecError(f"timer {name}: no handler takes {timer.event.type}")
    message = Message(f"{draft.persistence_id}/{timer.id}", event, "timer", name, at=timer.due_at, trace=timer.trace)
    if timer.rule is not None:
        try:
            fires_at = until if since is None else max(timer.due_at, since)
            again, message.missed = following(timer.rule, timer.due_at, fires_at)
        except RuleError as error:
            raise CodecError(f"timer {name} {error}") from None
        message.following = None if again is None else msgspec.structs.replace(timer, due_at=again)
    return message
