"""The records of a batch, in chunks of one transaction each, so that others need not wait for long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ...errors import InvalidEventError, SagalogError, SequenceOutOfOrder
from ..checks import checked_batch
from ..protocol import MAX_SEQUENCE_NR, PersistentRepr
from .rows import check_size, microseconds
from .writer import MAX_ROWS, Row, row_of

_CHUNK_BYTES = 16_000_000


class Chunk(NamedTuple):
    """Rows by id, and the place of each in the batch."""

    rows: dict[str, Row]
    places: list[int]


def chunks_of(records: Sequence[PersistentRepr], answers: list[SagalogError | None]) -> Iterator[Chunk]:
    """Yield what can be written, at most one row of an id in a chunk; answer for what cannot."""
    chunk, size = Chunk({}, []), 0
    for place, record in enumerate(checked_batch(records)):
        if isinstance(record, InvalidEventError):
            answers[place] = record
            continue
        try:
            if not 0 < record.sequence_nr < MAX_SEQUENCE_NR:
                raise SequenceOutOfOrder((record.persistence_id,))
            check_size(record)
        except (InvalidEventError, SequenceOutOfOrder) as error:
            answers[place] = error
            continue
        length = len(record.payload)
        if len(chunk.rows) == MAX_ROWS or (chunk.rows and size + length > _CHUNK_BYTES):
            yield chunk
            chunk, size = Chunk({}, []), 0
        chunk.rows[record.persistence_id] = row_of(record, microseconds(record.due_at))
        chunk.places.append(place)
        size += length
    if chunk.rows:
        yield chunk
