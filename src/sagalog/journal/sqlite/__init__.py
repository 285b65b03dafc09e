"""The embedded journal: one SQLite file in WAL mode, one connection that writes, readers that never wait for it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from ...durations import seconds_of
from ...errors import DefinitionError, InvalidEventError, JournalUnavailableError, SagalogError, SequenceOutOfOrder
from ...text import given
from ..arguments import checks_arguments
from ..checks import check_moment, check_moves, checked, in_sequence, out_of_order, wanted_terms
from ..opening import told_if_slow
from ..protocol import MAX_SEQUENCE_NR, CommitCounts, Finding, MovedDue, PersistentRepr, all_ids
from ..settings import (
    LONGEST,
    Known,
    check_history,
    history_setting,
    milliseconds,
    only_known,
    seconds,
    split_settings,
    yes,
)
from .batch import chunks_of
from .callers import Statements, between, newest, run, store, with_term
from .committer import Committer, NoCommitter
from .due import due, move, postpone
from .examining import findings_of, findings_of_names
from .file import OpenedFile, check_may_read, check_not_inherited
from .listing import (
    PAGE,
    found_by,
    highest,
    ids,
    latest,
    newest_place,
    places_of,
    range_of,
    records_at,
    records_behind,
    tagged_behind,
)
from .reader import Read, Reader
from .rows import check_size, microseconds, record_of
from .schema import ERRORS, check_version, connect, connect_read_only, is_read_only, prepare, translate
from .threads import ConnectionThread
from .writer import SqliteWriter, WriteCall, delete_chain, forget, row_of, touch

T = TypeVar("T")
_SETTINGS: Known = {"history": history_setting, "busy_seconds": seconds, "on_loop_ms": milliseconds, "beside": yes}


def _nothing(_: sqlite3.Connection) -> None:
    """Do nothing, in a transaction of its own."""


def _checked_path(path: object) -> str:
    """Return the path as a text. Raises DefinitionError."""
    if not isinstance(path, (str, os.PathLike)) or isinstance(os.fspath(path), bytes):
        raise DefinitionError(f"path must be a str or a Path, not {path!r}")
    name = str(os.fspath(path))
    if not name.isascii():
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DefinitionError("path contains a lone surrogate, which is not valid Unicode") from None
    if name in ("", ":memory:"):
        raise DefinitionError("SqliteJournal needs a file; use memory:// for a journal in memory")
    return name


@checks_arguments
class SqliteJournal:
    """A journal in one SQLite file, which several processes may share. Durable: WAL with synchronous=FULL.

    `history`: "all" keeps every record until the saga's tombstone is purged, n keeps at least the n before the newest
    (fewer than 2n), 0 only the newest. `busy_timeout`: how long to wait for another process's lock. `on_loop`: commits
    that can be expected to take no longer are made on the event loop's own thread; 0 leaves all to the writer's thread.
    `beside`: a file with tables of your application, and none of the journal's, is given these as well.

    Raises JournalFormatError for a file of another program, a newer version or a damaged one, which it leaves
    untouched, and JournalUnavailableError where it cannot be opened.
    """

    sorted_ids = True
    page_bytes: int = 0
    kept_records: int = 0

    def __init__(
        self,
        path: str | Path,
        *,
        history: str | int = "all",
        busy_timeout: timedelta = timedelta(seconds=5),
        on_loop: timedelta = timedelta(milliseconds=2),
        beside: bool = False,
    ) -> None:
        keep = check_history(history)
        if not isinstance(beside, bool):
            raise DefinitionError(f"beside must be True or False, not {given(beside)}")
        busy_seconds = seconds_of("busy_timeout", busy_timeout, zero=True, most=LONGEST)
        quick_seconds = seconds_of("on_loop", on_loop, zero=True, most=LONGEST)
        self.page_bytes = 4096 if keep is None else 0
        self.kept_records = keep or 0
        self.path: str = _checked_path(path)
        with told_if_slow(self.path):
            prepare(self.path, busy_seconds=busy_seconds, beside=beside)
            self._start(partial(connect, self.path, busy_seconds=busy_seconds), keep, busy_seconds, quick_seconds)

    def __repr__(self) -> str:
        return f"<SqliteJournal in {self.path!r}>"

    def _start(
        self, connection: Callable[..., sqlite3.Connection], keep: int | None, busy_seconds: float, quick_seconds: float
    ) -> None:
        self.read_only: bool = busy_seconds < 0
        self._history = keep
        self._busy_seconds = busy_seconds
        opened: list[sqlite3.Connection] = []
        try:
            for write in [False] if self.read_only else [True, False]:
                opened.append(connection(write=write))
                opened[-1].execute("SELECT count(*) FROM sqlite_master").fetchone()  # now the log is there, too
            check_version(opened[-1], self.path)
            self._file = OpenedFile(self.path)
            if not self.read_only:
                writer = SqliteWriter(opened[0], self._file, keep, busy_seconds=busy_seconds)
        except BaseException as error:
            for one in opened:
                one.close()
            if isinstance(error, ERRORS):
                raise translate(error, self.path) from error
            raise
        self._connections = opened
        self._file.keep(*opened)
        self.commit_counts: CommitCounts = CommitCounts() if self.read_only else writer.counts
        self._writer: Committer = (
            cast("Committer", NoCommitter(self.path))
            if self.read_only
            else Committer(writer, self._file, quick_seconds=quick_seconds)
        )
        reader = Reader(opened[-1], self._file, reopen=partial(connection, write=False) if self.read_only else None)
        self._reader: ConnectionThread[Read] = ConnectionThread("sagalog-reader", reader.serve, reader.close, 256)

    @classmethod
    def for_looking(cls, rest: str) -> SqliteJournal:
        """Open what `from_url` would; where it can only be read (a read-only mount, another user's file), to read it.

        Raises JournalUnavailableError also where the file is not there; it is not made.
        """
        path = rest.partition("?")[0][1:]
        if path and rest.startswith("/"):  # else `from_url` says what is wrong
            check_may_read(path)
        try:
            return cls.from_url(rest)
        except JournalUnavailableError as error:
            if not is_read_only(error):
                raise
        journal = cls.__new__(cls)
        journal.path = _checked_path(path)
        check_not_inherited(journal.path)
        connection = partial(connect_read_only, journal.path)
        journal._start(connection, None, -1, 0)
        return journal

    @classmethod
    def from_url(cls, rest: str, **settings: Any) -> SqliteJournal:
        """Open `sqlite:///relative.db` or `sqlite:////absolute.db`; settings: `?history=10&busy_seconds=5&on_loop_ms=2`."""
        path, _, query = rest.partition("?")
        if not path.startswith("/") or path == "/":
            raise DefinitionError("an SQLite journal's URL is sqlite:///relative.db or sqlite:////absolute/path.db")
        chosen, others = split_settings("sqlite", query, _SETTINGS)
        only_known("sqlite", _SETTINGS, others)
        return cls(path[1:], **{**chosen, **settings})

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        self._file.check_process()
        return self._reader.submit(work)

    async def write_messages(self, messages: Sequence[PersistentRepr], *, atomic: bool = False) -> None:
        records, losers = in_sequence([checked(message) for message in messages])
        if losers and atomic:
            raise SequenceOutOfOrder(losers)
        for record in records:
            check_size(record)
        rows = [row_of(record, microseconds(record.due_at)) for record in records]
        try:
            if len(rows) == 1:
                await self._writer.submit(rows[0])
            elif rows:
                await self._writer.submit(WriteCall(rows, atomic))
        except SequenceOutOfOrder as error:
            losers = (*losers, *error.losers)
        if losers:
            raise out_of_order(messages, losers)

    async def replay_messages(
        self,
        persistence_id: str,
        from_sequence_nr: int = 1,
        to_sequence_nr: int = MAX_SEQUENCE_NR,
        max: int = MAX_SEQUENCE_NR,
    ) -> AsyncIterator[PersistentRepr]:
        if max <= 0 or from_sequence_nr > to_sequence_nr:
            return
        places = await self._read(lambda c: places_of(c, persistence_id, from_sequence_nr, to_sequence_nr, max))
        for start in range(0, len(places), PAGE):
            for record in await self._read(partial(records_at, places=places[start : start + PAGE])):
                yield record

    async def highest_sequence_nr(self, persistence_id: str, from_sequence_nr: int = 0) -> int:
        return await self._read(lambda c: highest(c, persistence_id))

    async def delete_messages_to(self, persistence_id: str, to_sequence_nr: int) -> None:
        def work(connection: sqlite3.Connection) -> None:
            delete_chain(connection, persistence_id, to_sequence_nr)
            connection.execute(
                """UPDATE instance SET deleted_to = max(deleted_to, min(?, sequence_nr)),
                       due_at = CASE WHEN ? >= sequence_nr THEN NULL ELSE due_at END WHERE persistence_id = ?""",
                (to_sequence_nr, to_sequence_nr, persistence_id),
            )

        await self._writer.submit(work)

    def all_persistence_ids(self) -> AsyncIterator[str]:
        return all_ids(self, "")

    async def events_by_tag(self, tag: str, offset: int = 0) -> AsyncIterator[tuple[int, PersistentRepr]]:
        while True:
            found = await self._read(partial(tagged_behind, tag=tag, place=offset))
            for one in found:
                yield one
            if len(found) < PAGE:
                return
            offset = found[-1][0]

    async def latest_message(self, persistence_id: str) -> PersistentRepr | None:
        self._file.check_process()
        row = await self._reader.submit(persistence_id)
        return record_of(row) if row else None

    async def ids_by_prefix(
        self, prefix: str, *, after: str = "", limit: int = 1000, deleted: bool = False
    ) -> list[str]:
        return await self._read(lambda c: ids(c, prefix, after, limit, deleted))

    async def latest_by_prefix(
        self, prefix: str, *, after: str = "", limit: int = 1000, deleted: bool | None = False
    ) -> list[PersistentRepr]:
        return await self._read(lambda c: latest(c, prefix, after, limit, deleted))

    async def latest_by_terms(
        self, terms: Sequence[str], *, after: str = "", limit: int = 1000
    ) -> tuple[list[PersistentRepr], str]:
        if after and not after.isdecimal():
            raise InvalidEventError("this is not an offset of this journal")
        wanted, place = wanted_terms(terms), int(after or 0)
        found, place = await self._read(lambda c: found_by(c, wanted, place, limit))
        return found, str(place) if place else ""

    async def newest_offset(self) -> int:
        return await self._read(newest_place)

    async def records_after(self, offset: int, *, limit: int = 1000) -> tuple[list[PersistentRepr], int]:
        return await self._read(lambda c: records_behind(c, offset, limit))

    async def due_ids(self, prefix: str, before: datetime, *, limit: int = 1000) -> list[tuple[str, datetime]]:
        return await self._read(lambda c: due(c, range_of(prefix), before, limit))

    async def claim_due(
        self, prefix: str, before: datetime, until: datetime, *, limit: int = 1000
    ) -> list[tuple[str, datetime]]:
        check_moment(until, "until")

        def work(connection: sqlite3.Connection) -> list[tuple[str, datetime]]:
            found = due(connection, range_of(prefix), before, limit)
            postpone(connection, [persistence_id for persistence_id, _ in found], until)
            return found

        found: list[tuple[str, datetime]] = await self._writer.submit(work)
        return found

    async def write_batch(self, records: Sequence[PersistentRepr]) -> list[SagalogError | None]:
        answers: list[SagalogError | None] = [None] * len(records)
        for chunk in chunks_of(records, answers):
            try:
                lost = await self._writer.write_batch(list(chunk.rows.values()))
            except SagalogError as error:
                for place in chunk.places:
                    answers[place] = error
                continue
            if lost:
                for place, persistence_id in zip(chunk.places, chunk.rows, strict=True):
                    if persistence_id in lost:
                        answers[place] = SequenceOutOfOrder((persistence_id,))
        return answers

    async def write_in_transaction(self, connection: Any, message: PersistentRepr) -> None:
        """Store a record as part of the caller's own transaction on `connection`, to the same file.

        Raises SequenceOutOfOrder, which leaves that transaction usable, for a number that is not the next.
        """
        records, losers = in_sequence([checked(message)])
        if losers:
            raise SequenceOutOfOrder((message.persistence_id,))
        (record,) = records
        check_size(record)
        await self._in_transaction(connection, store(row_of(record, microseconds(record.due_at)), self._history))

    async def latest_in_transaction(self, connection: Any, persistence_id: str) -> PersistentRepr | None:
        """Return the newest record. From then on the caller's transaction holds the lock on the file."""
        row = await self._in_transaction(connection, newest(self.path, persistence_id))
        return record_of(row) if row else None

    async def replay_in_transaction(
        self, connection: Any, persistence_id: str, from_sequence_nr: int, to_sequence_nr: int
    ) -> AsyncIterator[PersistentRepr]:
        """Yield the records that are kept, bounds inclusive, as the caller's transaction sees them."""
        for row in await self._in_transaction(connection, between(persistence_id, from_sequence_nr, to_sequence_nr)):
            yield record_of(row)

    async def ids_in_transaction(
        self, connection: Any, term: str, *, after: str = "", limit: int = 1000
    ) -> tuple[list[str], str]:
        """Return live ids with a term, and the place to go on from. From then on the transaction holds the file's lock."""
        found, place = await self._in_transaction(connection, with_term(self.path, term, int(after or 0), limit))
        return found, str(place or "")

    async def after_writers(self) -> None:
        """Return when every transaction that was being committed has ended.

        A connection says that it is in no transaction as soon as its COMMIT begins. It has the file's lock until that ends.
        """
        await self._writer.submit(_nothing)

    async def _in_transaction(self, connection: Any, statements: Statements) -> Any:
        self._file.check_process()
        try:
            self._file.check_there()
            return await run(connection, statements, self.path, self._busy_seconds)
        except ERRORS as error:
            raise translate(error, self.path) from error

    async def latest_messages(self, persistence_ids: Sequence[str]) -> list[PersistentRepr | None]:
        found: list[PersistentRepr | None] = []
        self._file.check_process()
        for start in range(0, len(persistence_ids), PAGE):
            rows = await self._reader.submit(tuple(persistence_ids[start : start + PAGE]))
            found.extend(record_of(row) if row else None for row in rows)
        return found

    async def move_due(self, moves: Sequence[MovedDue]) -> list[bool]:
        check_moves(moves)
        if not moves:
            return []
        moved: list[bool] = await self._writer.submit(lambda connection: move(connection, moves))
        return moved

    async def purge(self, tombstones: Sequence[tuple[str, int]]) -> None:
        for start in range(0, len(tombstones), PAGE):  # others have their turn in between
            page = tombstones[start : start + PAGE]
            await self._writer.submit(partial(forget, tombstones=page))

    async def examine(self) -> list[Finding]:
        findings = await self._read(partial(findings_of, read_only=self.read_only))
        if self.read_only:
            findings.append(Finding("writable", "warn", "this process can only read the file"))
        else:
            try:
                await self._writer.submit(touch)
            except SagalogError as error:
                findings.append(Finding("writable", "fail", f"writes are refused: {error}", "see what it says"))
        return [*findings, *findings_of_names(self._file)]

    async def open(self) -> None:
        """Nothing: the constructor has opened it."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._file.forked:  # the connections and their threads are the parent's
            return
        await self._writer.close()
        await self._reader.close()
        self._file.close(*self._connections)


__all__ = ["SqliteJournal"]
