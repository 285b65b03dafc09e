"""The timer of a record that is due, as the message it becomes."""

from __future__ import annotations

from datetime import datetime

from ..step import Draft, Message


def due_timer(draft: Draft, until: datetime) -> Message | None:
    """Return the earliest timer due at `until` or before, as a message. Raises CodecError for an unreadable one.

    Its id names the step that set it, so a replaced timer, and one of an earlier incarnation, is never taken for it.
    """
    record = draft.record
    if record is None or not record.timers:
        return None
    name = min(record.timers, key=lambda name: record.timers[name].due_at)
    timer = record.timers[name]
    if timer.due_at > until:
        return None
    event = None if timer.send else draft.registry.unpack(timer.event)
    return Message(f"{draft.persistence_id}/{timer.id}", event, "timer", name, at=timer.due_at)
