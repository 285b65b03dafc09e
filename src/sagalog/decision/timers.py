"""The timer of a record that is due, as the message it becomes."""

from __future__ import annotations

from datetime import datetime

from ..errors import CodecError
from .draft import Draft
from .message import Message


def due_timer(draft: Draft, until: datetime) -> Message | None:
    """Return the earliest timer due at `until` or before, as a message.

    Its id names the step that set it, so a replaced timer, and one of an earlier incarnation, is never taken for it.
    Raises CodecError for one that this code cannot read, or has no handler for: newer code may.
    """
    found = draft.next_timer()
    if found is None or found[1].due_at > until:
        return None
    name, timer = found
    event = None if timer.send else draft.registry.unpack(timer.event)
    if event is not None and not draft.saga.handles_event(event):
        raise CodecError(f"timer {name}: no handler takes {timer.event.type}")
    return Message(f"{draft.persistence_id}/{timer.id}", event, "timer", name, at=timer.due_at, trace=timer.trace)
