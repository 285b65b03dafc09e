"""Between rows of the file and records. SQLite keeps any type in any column, so what comes back is looked at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from ...errors import JournalFormatError
from ..protocol import PersistentRepr

COLUMNS = "r.persistence_id, r.sequence_nr, r.payload, r.manifest, r.writer_uuid, r.deleted, r.tags, r.due_at"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(at: datetime | None) -> int | None:
    """Return a moment as it is stored: microseconds since 1970."""
    return None if at is None else (at - _EPOCH) // _MICROSECOND


def moment(stored: int) -> datetime:
    """Return the moment of a stored number. Raises JournalFormatError."""
    try:
        return _EPOCH + timedelta(microseconds=stored)
    except (TypeError, OverflowError) as error:
        raise damaged(error) from None


def record_of(row: tuple[Any, ...]) -> PersistentRepr:
    """Return the record in a row of COLUMNS. Raises JournalFormatError."""
    persistence_id, number, payload, manifest, writer, deleted, tags, due_at = row[:8]
    if type(payload) is not bytes or type(persistence_id) is not str:
        raise damaged(TypeError())
    try:
        tags = msgspec.json.decode(tags, type=tuple[str, ...]) if tags != "[]" else ()
    except (TypeError, ValueError) as error:
        raise damaged(error) from None
    due = None if due_at is None else moment(due_at)
    return PersistentRepr(persistence_id, number, payload, manifest, writer, bool(deleted), tags, due)


def damaged(error: Exception) -> JournalFormatError:
    """Return the error for a row that is not one of ours."""
    return JournalFormatError(
        f"a row of the SQLite file is damaged ({type(error).__name__}); it was left as it is. Restore a backup."
    )
