"""When an incarnation ended, and what is carried on of that into the next one."""

from __future__ import annotations

from datetime import datetime

from .children import NextId, tell_parent
from .entries import ENDS, FINAL, Ended
from .record import SagaRecord

MAX_CARRIED = 4096  # bytes of a result: more would weigh on every step of the next incarnation


def date_end(record: SagaRecord, before: SagaRecord | None, now: datetime, own: str, next_id: NextId) -> None:
    """Note when a record that does not run any more came to stand as it does, and let its parent, if any, be told.

    `before`: the one before this step; `own`: its persistence id. With its end it holds no keys any more.
    """
    if record.parent:
        tell_parent(record, own, next_id)
    if (record.keys or record.unique_keys) and record.status in FINAL:
        record.keys, record.unique_keys = {}, {}
    if record.status not in ENDS:
        record.ended_at = None
    elif before is None or (before.status, before.incarnation) != (record.status, record.incarnation):
        record.ended_at = now


def end_of(record: SagaRecord) -> Ended:
    """Return what the next incarnation carries on of the end of this one."""
    result, left_out = record.result, False
    if result is not None and len(bytes(result.data)) > MAX_CARRIED:
        result, left_out = None, True
    return Ended(record.status, record.ended_at or record.updated_at, record.started_at, result, left_out)
