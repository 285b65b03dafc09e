"""The statements that store records: of many ids in one, and a shorter one for a single record.

They never wait for anybody's transaction: a row that another one holds counts as lost (that one is about to change it), and
so does an id that another transaction is creating. So no caller of this process, nor a batch of another worker, is
held up by an application that keeps a step in its own transaction open.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from ...errors import InvalidEventError
from ..checks import checked
from ..protocol import PersistentRepr

MAX_RECORDS = 256  # of one statement: each new id takes a place in the server's table of locks

# Microseconds as a whole number: timestamps are encoded by asyncpg twenty times as slowly, its datetime.max is `infinity`,
# and a number of microseconds times an interval is a floating-point product, which is off at the ends of the calendar.
MOMENT = "(timestamptz 'epoch' + ({0} / 1000000) * interval '1 second' + ({0} % 1000000) * interval '1 microsecond')"

_WRITE = """
WITH fresh AS MATERIALIZED (
    SELECT persistence_id, sequence_nr, payload, manifest, writer_uuid, deleted, tags, {moment} AS due_at, epoch, terms
    FROM unnest($1::bytea[], $2::bigint[], $3::bytea[], $4::text[], $5::text[], $6::boolean[], $7::jsonb[], $8::bigint[],
                $9::bigint[], $10::text[])
        AS given (persistence_id, sequence_nr, payload, manifest, writer_uuid, deleted, tags, due, epoch, terms)
), input AS MATERIALIZED (
    {input}
), free AS MATERIALIZED (
    SELECT * FROM input WHERE CASE WHEN first_nr = 1
        THEN pg_try_advisory_xact_lock(hashtextextended('{s} ' || encode(persistence_id, 'hex'), 0)) ELSE false END
), created AS (
    INSERT INTO {s}.instance (persistence_id, sequence_nr, deleted, due_at, epoch, terms)
    SELECT persistence_id, last_nr, deleted, due_at, epoch, CASE WHEN NOT deleted THEN nullif(terms, '{{}}')::text[] END
    FROM free ON CONFLICT DO NOTHING
    RETURNING persistence_id, sequence_nr
), held AS MATERIALIZED (
    SELECT i.persistence_id, input.last_nr, input.deleted, input.due_at, input.epoch, input.terms
    FROM input JOIN {s}.instance i USING (persistence_id)
    WHERE input.first_nr > 1 AND i.sequence_nr = input.first_nr - 1
    AND (input.epoch = 0 OR i.epoch = 0 OR i.epoch = input.epoch)
    FOR UPDATE OF i SKIP LOCKED
), updated AS (
    UPDATE {s}.instance i
    SET sequence_nr = held.last_nr, deleted = held.deleted, hidden = false, due_at = held.due_at,
        epoch = CASE WHEN i.epoch = 0 THEN held.epoch ELSE i.epoch END,
        terms = CASE WHEN NOT held.deleted
                THEN CASE WHEN held.terms IS NULL THEN i.terms ELSE nullif(held.terms, '{{}}')::text[] END END
    FROM held WHERE i.persistence_id = held.persistence_id
    RETURNING i.persistence_id, i.sequence_nr
), won AS MATERIALIZED (
    SELECT * FROM created UNION ALL SELECT * FROM updated
), stored AS (
    INSERT INTO {s}.record (persistence_id, sequence_nr, payload, manifest, writer_uuid, deleted, tags, due_at)
    SELECT persistence_id, fresh.sequence_nr, payload, manifest, writer_uuid, deleted, tags, due_at
    FROM fresh JOIN won USING (persistence_id)
){pruned}
SELECT persistence_id FROM input EXCEPT SELECT persistence_id FROM won
"""
_ONE_EACH = (
    "SELECT persistence_id, sequence_nr AS first_nr, sequence_nr AS last_nr, deleted, due_at, epoch, terms FROM fresh"
)
_SEVERAL = """SELECT DISTINCT ON (persistence_id) persistence_id,
           min(sequence_nr) OVER every AS first_nr, sequence_nr AS last_nr, deleted, due_at, max(epoch) OVER every AS epoch,
           terms
    FROM fresh WINDOW every AS (PARTITION BY persistence_id) ORDER BY persistence_id, sequence_nr DESC"""
_PRUNED = """, pruned AS (
    DELETE FROM {s}.record old USING won
    WHERE old.persistence_id = won.persistence_id AND old.sequence_nr < won.sequence_nr - {keep}
)"""
_FIRST = """
WITH won AS (
    INSERT INTO {s}.instance (persistence_id, sequence_nr, deleted, due_at, epoch, terms)
    SELECT $1::bytea, $2::bigint, $6::boolean, {moment}, $9::bigint,
           CASE WHEN NOT $6::boolean THEN nullif($10::text, '{{}}')::text[] END
    WHERE pg_try_advisory_xact_lock(hashtextextended('{s} ' || encode($1::bytea, 'hex'), 0))
    ON CONFLICT DO NOTHING RETURNING persistence_id, sequence_nr
){pruned}
INSERT INTO {s}.record (persistence_id, sequence_nr, payload, manifest, writer_uuid, deleted, tags, due_at)
SELECT $1::bytea, $2::bigint, $3::bytea, $4::text, $5::text, $6::boolean, $7::text::jsonb, {moment} FROM won RETURNING true
"""
_NEXT = """
WITH held AS MATERIALIZED (
    SELECT persistence_id FROM {s}.instance
    WHERE persistence_id = $1::bytea AND sequence_nr = $2::bigint - 1
    AND ($9::bigint = 0 OR epoch = 0 OR epoch = $9::bigint) FOR UPDATE SKIP LOCKED
), won AS (
    UPDATE {s}.instance i SET sequence_nr = $2::bigint, deleted = $6::boolean, hidden = false, due_at = {moment},
        epoch = CASE WHEN i.epoch = 0 THEN $9::bigint ELSE i.epoch END,
        terms = CASE WHEN NOT $6::boolean
                THEN CASE WHEN $10::text IS NULL THEN i.terms ELSE nullif($10::text, '{{}}')::text[] END END
    FROM held WHERE i.persistence_id = held.persistence_id RETURNING i.persistence_id, i.sequence_nr
){pruned}
INSERT INTO {s}.record (persistence_id, sequence_nr, payload, manifest, writer_uuid, deleted, tags, due_at)
SELECT $1::bytea, $2::bigint, $3::bytea, $4::text, $5::text, $6::boolean, $7::text::jsonb, {moment} FROM won RETURNING true
"""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


HELD = """
SELECT given.persistence_id
FROM unnest($1::bytea[], $2::bigint[], $3::bigint[]) AS given (persistence_id, sequence_nr, epoch)
LEFT JOIN {s}.instance i USING (persistence_id)
WHERE CASE WHEN i.persistence_id IS NULL THEN given.sequence_nr = 1
    ELSE i.sequence_nr = given.sequence_nr - 1 AND (given.epoch = 0 OR i.epoch = 0 OR i.epoch = given.epoch) END
"""


class Statements(NamedTuple):
    """The statements for batches with one record of each id, for those with several of one, and for a single record."""

    one_each: str
    several: str
    first: str
    next: str


def write_statements(schema: str, history: int | None) -> Statements:
    """Return the statements. `history`: how many records before the newest are kept, None for all."""
    pruned = "" if history is None else _PRUNED.format(s=schema, keep=int(history))
    batch, single = MOMENT.format("due"), MOMENT.format("$8::bigint")
    return Statements(
        _WRITE.format(s=schema, input=_ONE_EACH, pruned=pruned, moment=batch),
        _WRITE.format(s=schema, input=_SEVERAL, pruned=pruned, moment=batch),
        _FIRST.format(s=schema, pruned="", moment=single),
        _NEXT.format(s=schema, pruned=pruned, moment=single),
    )


async def write(connection: Any, statements: Statements, records: Sequence[PersistentRepr]) -> list[str]:
    """Run the statement for records whose numbers are without gaps within each id; return the ids that lost."""
    if len(records) == 1:
        (only,) = records
        stored = await connection.fetch(
            statements.first if only.sequence_nr == 1 else statements.next,
            only.persistence_id.encode(),
            only.sequence_nr,
            only.payload,
            only.manifest,
            only.writer_uuid,
            only.deleted,
            _tags(only.tags),
            None if only.due_at is None else microseconds(only.due_at),
            only.epoch,
            _array(only.terms),
        )
        return [] if stored else [only.persistence_id]
    ids = [record.persistence_id for record in records]
    found = await connection.fetch(
        statements.one_each if len(set(ids)) == len(ids) else statements.several,
        [one.encode() for one in ids],
        [record.sequence_nr for record in records],
        [record.payload for record in records],
        [record.manifest for record in records],
        [record.writer_uuid for record in records],
        [record.deleted for record in records],
        [_tags(record.tags) for record in records],
        [None if record.due_at is None else microseconds(record.due_at) for record in records],
        [record.epoch for record in records],
        [_array(terms) for terms in _terms_of(records, ids)],
    )
    return [row[0].decode() for row in found]


def _terms_of(records: Sequence[PersistentRepr], ids: Sequence[str]) -> list[tuple[str, ...] | None]:
    """Return the terms of each record; where a later record of an id says nothing of them, those of the one before."""
    if len(set(ids)) == len(ids):
        return [record.terms for record in records]
    newest: dict[str, tuple[str, ...] | None] = {}
    found: list[tuple[str, ...] | None] = []
    for record in records:
        terms = () if record.deleted else record.terms
        found.append(newest.get(record.persistence_id) if terms is None else terms)
        newest[record.persistence_id] = found[-1]
    return found


def _array(terms: tuple[str, ...] | None) -> str | None:
    """Return terms as the text of an array: one parameter for each record, however many it has."""
    if not terms:
        return None if terms is None else "{}"
    quoted = (term.replace("\\", "\\\\").replace('"', '\\"') for term in terms)
    return "{" + ",".join(f'"{term}"' for term in quoted) + "}"


def microseconds(moment: datetime) -> int:
    """Return a moment as PostgreSQL is told it. Raises InvalidEventError for one that is not aware."""
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise InvalidEventError(f"a time must be an aware datetime, not {type(moment).__name__}; nothing was stored")
    return (moment - _EPOCH) // _MICROSECOND


def storable(message: PersistentRepr) -> PersistentRepr:
    """Return a record that PostgreSQL can store as it is. Raises InvalidEventError."""
    message = checked(message)
    _refuse_nul((message.manifest, message.writer_uuid, *message.tags))
    return message


@lru_cache(maxsize=256)  # a saga's records all have the same
def _refuse_nul(texts: tuple[str, ...]) -> None:
    if any("\x00" in text for text in texts):
        raise InvalidEventError("PostgreSQL cannot store NUL in a manifest, a writer's id or a tag; nothing was stored")


@lru_cache(maxsize=256)
def _tags(tags: tuple[str, ...]) -> str:
    return msgspec.json.encode(tags).decode()
