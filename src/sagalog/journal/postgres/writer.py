"""Group commit: everything that waits goes into one statement, which is one transaction and one fsync.

    write_messages ─► [writer] ─► one statement ─► winners stored, losers named

The statement never waits for anybody's transaction: a row that another one holds counts as lost (that one is about to
change it), and so does an id that another transaction is creating. So no caller of this process, nor a batch of
another worker, is held up by an application that keeps a step in its own transaction open.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from ...errors import JournalUnavailableError, SagalogError, SequenceOutOfOrder
from ..protocol import CommitCounts, PersistentRepr
from .schema import translate

MOST_RECORDS = 256  # of one statement: each new id takes a place in the server's table of locks

_WRITE = """
WITH fresh AS MATERIALIZED (
    SELECT persistence_id, sequence_nr, payload, manifest, writer_uuid, deleted, tags,
           timestamptz 'epoch' + due * interval '1 microsecond' AS due_at
    FROM unnest($1::bytea[], $2::bigint[], $3::bytea[], $4::text[], $5::text[], $6::boolean[], $7::jsonb[], $8::bigint[])
        AS given (persistence_id, sequence_nr, payload, manifest, writer_uuid, deleted, tags, due)
), input AS MATERIALIZED (
    {input}
), free AS MATERIALIZED (
    SELECT * FROM input WHERE CASE WHEN first_nr = 1
        THEN pg_try_advisory_xact_lock(hashtextextended('{s} ' || encode(persistence_id, 'hex'), 0)) ELSE false END
), created AS (
    INSERT INTO {s}.instance (persistence_id, sequence_nr, deleted, due_at)
    SELECT persistence_id, last_nr, deleted, due_at FROM free ON CONFLICT DO NOTHING
    RETURNING persistence_id, sequence_nr
), held AS MATERIALIZED (
    SELECT i.persistence_id, input.last_nr, input.deleted, input.due_at
    FROM input JOIN {s}.instance i USING (persistence_id)
    WHERE input.first_nr > 1 AND i.sequence_nr = input.first_nr - 1
    FOR UPDATE OF i SKIP LOCKED
), updated AS (
    UPDATE {s}.instance i
    SET sequence_nr = held.last_nr, deleted = held.deleted, hidden = false, due_at = held.due_at
    FROM held WHERE i.persistence_id = held.persistence_id
    RETURNING i.persistence_id, i.sequence_nr
), won AS MATERIALIZED (
    SELECT * FROM created UNION ALL SELECT * FROM updated
), stored AS (
    INSERT INTO {s}.record (persistence_id, sequence_nr, payload, manifest, writer_uuid, deleted, tags, due_at)
    SELECT fresh.* FROM fresh JOIN won USING (persistence_id)
){pruned}
SELECT persistence_id FROM input EXCEPT SELECT persistence_id FROM won
"""
_ONE_EACH = "SELECT persistence_id, sequence_nr AS first_nr, sequence_nr AS last_nr, deleted, due_at FROM fresh"
_SEVERAL = """SELECT DISTINCT ON (persistence_id) persistence_id,
           min(sequence_nr) OVER (PARTITION BY persistence_id) AS first_nr, sequence_nr AS last_nr, deleted, due_at
    FROM fresh ORDER BY persistence_id, sequence_nr DESC"""
_PRUNED = """, pruned AS (
    DELETE FROM {s}.record old USING won
    WHERE old.persistence_id = won.persistence_id AND old.sequence_nr < won.sequence_nr - {keep}
)"""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Statements(NamedTuple):
    """The statement for batches with one record of each id, and for those with several of one."""

    one_each: str
    several: str


def write_statements(schema: str, history: int | None) -> Statements:
    """Return the statements. `history`: how many records before the newest are kept, None for all."""
    pruned = "" if history is None else _PRUNED.format(s=schema, keep=int(history))
    return Statements(*(_WRITE.format(s=schema, input=given, pruned=pruned) for given in (_ONE_EACH, _SEVERAL)))


class Call:
    """Records of one `write_messages`, and the future to answer."""

    __slots__ = ("atomic", "future", "ids", "records")

    def __init__(self, records: Sequence[PersistentRepr], atomic: bool, future: asyncio.Future[None]) -> None:
        self.records = records
        self.atomic = atomic
        self.future = future
        self.ids = {record.persistence_id for record in records}

    def answer(self, losers: Collection[str]) -> None:
        """Tell the caller which ids lost, or that all is stored."""
        if self.future.done():
            return
        lost = self.ids.intersection(losers) if losers else None
        if lost:
            order = dict.fromkeys(record.persistence_id for record in self.records)
            self.future.set_exception(SequenceOutOfOrder(tuple(one for one in order if one in lost)))
        else:
            self.future.set_result(None)

    def fail(self, error: SagalogError) -> None:
        """Tell the caller what went wrong."""
        if not self.future.done():
            self.future.set_exception(error)


async def write(connection: Any, statements: Statements, records: Sequence[PersistentRepr]) -> list[str]:
    """Run the statement for records whose numbers are without gaps within each id; return the ids that lost."""
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
        # Not as timestamps, which asyncpg encodes twenty times as slowly.
        [None if record.due_at is None else (record.due_at - _EPOCH) // _MICROSECOND for record in records],
    )
    return [row[0].decode() for row in found]


@lru_cache(maxsize=256)  # a saga's records all have the same
def _tags(tags: tuple[str, ...]) -> str:
    return msgspec.json.encode(tags).decode()


class Writer:
    """Carries out calls in batches over one connection, which `connect` gives and which is made again when it ended."""

    def __init__(
        self, connect: Callable[[], Awaitable[Any]], statements: Statements, where: str, *, pooler: bool
    ) -> None:
        self._connect = connect
        self._statements = statements
        self._where = where
        self._pooler = pooler
        self._connection: Any = None
        self._queue: deque[Call] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self.counts = CommitCounts()

    def submit(self, records: Sequence[PersistentRepr], atomic: bool) -> asyncio.Future[None]:
        """Queue a call; cancelling its future does not undo it."""
        if self._closed:
            raise JournalUnavailableError("the journal is closed; nothing was stored")
        loop = asyncio.get_running_loop()
        call = Call(records, atomic, loop.create_future())
        self._queue.append(call)
        if self._task is None:
            self._task = loop.create_task(self._run())
        return call.future

    async def close(self) -> None:
        """Carry out what waits, then close the connection."""
        self._closed = True
        if self._task is not None:
            await self._task
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _run(self) -> None:
        try:
            while self._queue:
                calls = self._batch()
                sent = False
                try:
                    if self._connection is None or self._connection.is_closed():
                        self._connection = await self._connect()
                    sent, begun = True, time.perf_counter()
                    losers = await self._write(calls)
                    self.counts.add(sum(len(call.records) for call in calls), time.perf_counter() - begun)
                except Exception as error:
                    failure = translate(error, self._where, sent=sent)
                    for call in calls:
                        call.fail(failure)
                    if sent and self._connection is not None and isinstance(error, TimeoutError):
                        self._connection.terminate()  # what it was doing is not known
                else:
                    for call in calls:
                        call.answer(losers)
        finally:
            self._task = None

    def _batch(self) -> list[Call]:
        """Take what one statement can do: not two calls for one id, and an atomic call only by itself."""
        first = self._queue.popleft()
        calls, records = [first], len(first.records)
        if first.atomic:
            return calls
        ids = set(first.ids)
        later: list[Call] = []
        while self._queue and records < MOST_RECORDS:
            call = self._queue.popleft()
            if call.atomic or not ids.isdisjoint(call.ids):
                later.append(call)
            else:
                calls.append(call)
                records += len(call.records)
            ids.update(call.ids)  # also of what waits: calls for one id keep their order
        self._queue.extendleft(reversed(later))
        return calls

    async def _write(self, calls: list[Call]) -> list[str]:
        connection = self._connection
        records = [record for call in calls for record in call.records]
        if calls[0].atomic:
            transaction = connection.transaction()
            await transaction.start()
            losers = await write(connection, self._statements, records)
            await (transaction.rollback() if losers else transaction.commit())
            return losers
        if self._pooler:  # a transaction holds on to one server connection from the parsing to the end
            async with connection.transaction():
                return await write(connection, self._statements, records)
        return await write(connection, self._statements, records)
