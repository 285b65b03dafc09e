"""Between rows of the file and records. SQLite keeps any type in any column, so what comes back is looked at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from ...errors import JournalFormatError, PayloadTooLargeError
from ..protocol import FIRST_MOMENT, LAST_MOMENT, PersistentRepr

COLUMNS = (
    "i.persistence_id, r.sequence_nr, r.payload, l.manifest, l.writer_uuid, r.deleted, l.tags, r.due_at, i.epoch, "
    "r.record_id"
)
RECORDS = "record r CROSS JOIN instance i USING (instance_id) CROSS JOIN label l USING (label_id)"
# The place of a newest record that was deleted may be given to a record of another id.
ITS_NEWEST = "r.record_id = i.record_id AND r.instance_id = i.instance_id"
# The newest record of an instance. Where it is missing, or its label, the row is empty: that is damage, and not an instance
# that never was. So it is if the instance has another number than its record: each write would lose against it, for ever.
NEWEST = f"instance i LEFT JOIN record r ON {ITS_NEWEST} LEFT JOIN label l USING (label_id)"
NEWEST_NUMBER = "iif(i.sequence_nr IS r.sequence_nr, r.sequence_nr, NULL)"
NEWEST_COLUMNS = COLUMNS.replace("r.sequence_nr", NEWEST_NUMBER)
THERE = "(r.record_id IS NOT NULL OR i.deleted_to < i.sequence_nr OR i.sequence_nr < 1)"
MAX_BYTES = 900_000_000  # SQLite takes 10**9 for a whole row
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
FIRST, LAST = ((at - _EPOCH) // _MICROSECOND for at in (FIRST_MOMENT, LAST_MOMENT))


def microseconds(at: datetime | None) -> int | None:
    """Return a moment as it is stored: microseconds since 1970."""
    return None if at is None else (at - _EPOCH) // _MICROSECOND


def check_size(message: PersistentRepr) -> None:
    """Raise PayloadTooLargeError for what SQLite cannot keep in a row."""
    if len(message.payload) > MAX_BYTES:
        raise PayloadTooLargeError(f"the record of {message.persistence_id[:100]}", len(message.payload), MAX_BYTES)


def text_of(stored: bytes) -> str | None:
    """Return the text of stored bytes; None if they are damaged."""
    try:
        return stored.decode()
    except UnicodeDecodeError:
        return None


def moment(stored: int) -> datetime:
    """Return the moment of a stored number. Raises JournalFormatError."""
    try:
        return _EPOCH + timedelta(microseconds=stored)
    except (TypeError, OverflowError) as error:
        raise damaged(error) from None


def record_of(row: tuple[Any, ...]) -> PersistentRepr:
    """Return the record in a row of COLUMNS. Raises JournalFormatError."""
    persistence_id, number, payload, manifest, writer, deleted, tags, due_at, epoch = row[:9]
    if (
        type(payload) is not bytes
        or type(persistence_id) is not str
        or type(epoch) is not int
        or type(number) is not int
    ):
        raise damaged(TypeError())
    try:
        tags = msgspec.json.decode(tags, type=tuple[str, ...]) if tags != "[]" else ()
    except (TypeError, ValueError) as error:
        raise damaged(error) from None
    due = None if due_at is None else moment(due_at)
    return PersistentRepr(persistence_id, number, payload, manifest, writer, bool(deleted), tags, due, epoch)


def damaged(error: Exception) -> JournalFormatError:
    """Return the error for a row that is not one of ours."""
    return JournalFormatError(
        f"a row of the SQLite file is damaged ({type(error).__name__}); it was left as it is. Restore a backup."
    )
