"""Writing: batches of the engine each at once and by itself, and a group commit for callers who write one by one.

    write_batch ─► statements of up to 256 records, several at a time ─► each record told by itself
    write_messages ─► [writer] ─► one statement for all that waits ─► winners stored, losers named

Each statement is one transaction and one fsync.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any

from ...errors import InvalidEventError, JournalUnavailableError, OutcomeUnknownError, SagalogError, SequenceOutOfOrder
from ...waiting import start_task
from ..checks import checked_batch
from ..protocol import MAX_SEQUENCE_NR, CommitCounts, PersistentRepr
from .connections import Connections
from .statements import MAX_RECORDS, Statements, storable, write

Answer = SagalogError | None


class _WriteInLine:
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


class PostgresWriter:
    """Carries out calls and batches over connections that `connections` gives and makes again when they ended."""

    def __init__(self, connections: Connections, statements: Statements) -> None:
        self._connections = connections
        self._statements = statements
        self._queue: deque[_WriteInLine] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self.counts: CommitCounts = CommitCounts()

    async def batch(self, records: Sequence[PersistentRepr]) -> list[Answer]:
        """Store each record by itself, and say of each what became of it. The ids are distinct."""
        answers: list[Answer] = [None] * len(records)
        good: list[PersistentRepr] = []
        places: list[int] = []
        for place, record in enumerate(checked_batch(records)):
            try:
                if isinstance(record, InvalidEventError):
                    raise record
                good.append(storable(record))
            except InvalidEventError as error:
                answers[place] = error
                continue
            if 0 < record.sequence_nr < MAX_SEQUENCE_NR:
                places.append(place)
            else:
                good.pop()
                answers[place] = SequenceOutOfOrder((record.persistence_id,))
        if len(good) <= MAX_RECORDS:
            found = await self._part(good) if good else []
        else:
            parts = [good[start : start + MAX_RECORDS] for start in range(0, len(good), MAX_RECORDS)]
            found = [one for part in await asyncio.gather(*map(self._part, parts)) for one in part]
        for place, answer in zip(places, found, strict=True):
            answers[place] = answer
        return answers

    async def _part(self, records: Sequence[PersistentRepr]) -> list[Answer]:
        try:
            losers = await self._connections.writing(lambda connection: self._write(connection, records))
        except InvalidEventError as error:  # one of them: nothing of the statement was stored
            if len(records) == 1:
                return [error]
            middle = len(records) // 2
            return [*await self._part(records[:middle]), *await self._part(records[middle:])]
        except SagalogError as error:
            return [error] * len(records)
        if not losers:
            return [None] * len(records)
        lost = set(losers)
        return [SequenceOutOfOrder((one.persistence_id,)) if one.persistence_id in lost else None for one in records]

    def submit(self, records: Sequence[PersistentRepr], atomic: bool) -> asyncio.Future[None]:
        """Queue a call; cancelling its future does not undo it."""
        if self._closed:
            raise JournalUnavailableError("the journal is closed; nothing was stored")
        loop = asyncio.get_running_loop()
        call = _WriteInLine(records, atomic, loop.create_future())
        self._queue.append(call)
        if self._task is None:
            self._task = start_task(self._run())
        return call.future

    async def close(self) -> None:
        """Carry out what waits."""
        self._closed = True
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        try:
            while self._queue:
                calls = self._group()
                try:
                    losers = await self._store(calls)
                except SagalogError as failure:
                    for call in calls:
                        call.fail(failure)
                except BaseException:
                    for call in calls:
                        call.fail(OutcomeUnknownError("writing was interrupted; it may be stored"))
                    raise
                else:
                    for call in calls:
                        call.answer(losers)
        finally:
            self._task = None

    def _group(self) -> list[_WriteInLine]:
        """Take what one statement can do: not two calls for one id, and an atomic call only by itself."""
        first = self._queue.popleft()
        calls, records = [first], len(first.records)
        if first.atomic:
            return calls
        ids = set(first.ids)
        later: list[_WriteInLine] = []
        while self._queue and records < MAX_RECORDS:
            call = self._queue.popleft()
            if call.atomic or not ids.isdisjoint(call.ids):
                later.append(call)
            else:
                calls.append(call)
                records += len(call.records)
            ids.update(call.ids)  # also of what waits: calls for one id keep their order
        self._queue.extendleft(reversed(later))
        return calls

    async def _store(self, calls: list[_WriteInLine]) -> list[str]:
        records = [record for call in calls for record in call.records]
        if not calls[0].atomic:
            return await self._connections.writing(lambda connection: self._write(connection, records))

        async def all_or_nothing(connection: Any) -> list[str]:
            begun = time.perf_counter()
            transaction = connection.transaction(isolation="read_committed")
            await transaction.start()
            losers = await write(connection, self._statements, records)
            await (transaction.rollback() if losers else transaction.commit())
            self.counts.add(len(records), time.perf_counter() - begun)
            return losers

        return await self._connections.writing(all_or_nothing)

    async def _write(self, connection: Any, records: Sequence[PersistentRepr]) -> list[str]:
        begun = time.perf_counter()
        if self._connections.pooler:  # a transaction holds on to one server connection from the parsing to the end
            async with connection.transaction(isolation="read_committed"):
                losers = await write(connection, self._statements, records)
        else:
            losers = await write(connection, self._statements, records)
        self.counts.add(len(records), time.perf_counter() - begun)
        return losers
