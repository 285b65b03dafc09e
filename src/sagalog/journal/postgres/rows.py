"""Between rows of the tables and records."""

from __future__ import annotations

from typing import Any

import msgspec

from ..protocol import PersistentRepr

# Tags as a text: a caller's connection may have a codec of its own for jsonb.
COLUMNS = (
    "r.persistence_id, r.sequence_nr, r.payload, r.manifest, r.writer_uuid, r.deleted, r.tags::text, r.due_at, i.epoch"
)


def record_of(row: Any) -> PersistentRepr:
    """Return the record in a row of COLUMNS."""
    tags = tuple(msgspec.json.decode(row[6])) if row[6] != "[]" else ()
    return PersistentRepr(row[0].decode(), row[1], row[2], row[3], row[4], row[5], tags, row[7], row[8])
