"""Which timer of a record is next, and the message it becomes."""

from __future__ import annotations

from datetime import datetime

from ..record import SagaRecord
from ..step import Draft, Message


def next_due(record: SagaRecord) -> datetime | None:
    """Return when the first timer that may fire is due.

    Those of a parked instance wait for its repair: an event that is held may cancel them. Scheduled commands leave.
    """
    return min((timer.due_at for timer in record.timers.values() if timer.send or not record.parked), default=None)


def due_timer(draft: Draft, until: datetime) -> Message | None:
    """Return the earliest timer due at `until` or before, as a message. Raises CodecError for an unreadable one.

    Its id names the step that set it, so a replaced timer, and one of an earlier incarnation, is never taken for it.
    """
    record = draft.record
    due_at = None if record is None or not record.timers else next_due(record)
    if record is None or due_at is None or due_at > until:
        return None
    name, timer = next(
        (name, timer)
        for name, timer in record.timers.items()
        if timer.due_at == due_at and (timer.send or not record.parked)
    )
    event = None if timer.send else draft.registry.unpack(timer.event)
    return Message(f"{draft.persistence_id}/{timer.id}", event, "timer", name, at=timer.due_at)
