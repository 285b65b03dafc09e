"""The embedded journal: one SQLite file in WAL mode, one connection that writes, readers that never wait for it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from ...errors import DefinitionError, InvalidEventError, JournalUnavailableError, SagalogError, SequenceOutOfOrder
from ..opening import told_if_slow
from ..protocol import (
    MAX_SEQUENCE_NR,
    CommitCounts,
    Finding,
    MovedDue,
    PersistentRepr,
    all_ids,
    check_moment,
    check_moves,
    check_text,
    checked,
    checked_batch,
    in_sequence,
    out_of_order,
)
from ..settings import Known, check_history, check_seconds, history_setting, only_known, split_settings
from .committer import Committer, NoCommitter
from .due import due, move, postpone
from .file import OpenedFile, check_not_inherited
from .reader import Read, Reader
from .rows import COLUMNS, NEWEST, RECORDS, check_instant, check_size, microseconds, record_of
from .schema import ERRORS, check_version, connect, connect_read_only, is_read_only, prepare, translate
from .threads import ConnectionThread
from .writer import MAX_ROWS, Row, Write, Writer, delete_chain, forget, row_of, touch

T = TypeVar("T")
_PAGE = 256
_SETTINGS: Known = {"history": history_setting, "busy_seconds": float, "on_loop_ms": float}


_MAX_CHUNK = MAX_ROWS
_CHUNK_BYTES = 16_000_000  # of a transaction, so that others need not wait for long


def _checked_path(path: object) -> str:
    """Return the path as a text. Raises DefinitionError."""
    if not isinstance(path, (str, os.PathLike)) or isinstance(os.fspath(path), bytes):
        raise DefinitionError(f"path is a str or a Path, not {path!r}")
    name = str(os.fspath(path))
    if name in ("", ":memory:"):
        raise DefinitionError("SqliteJournal needs a file; use memory:// for a journal in memory")
    return name


def _within(prefix: str) -> tuple[str, list[str]]:
    """Return the condition for ids that start with `prefix`, as a range an index can serve, and its parameters."""
    stem = prefix.rstrip("\U0010ffff")
    if not stem:
        return "+persistence_id >= ?", [prefix]
    successor = ord(stem[-1]) + 1
    if successor == 0xD800:  # surrogates are no characters
        successor = 0xE000
    return "{column} >= ? AND {column} < ?", [prefix, stem[:-1] + chr(successor)]


class SqliteJournal:
    """A journal in one SQLite file, which several processes may share. Durable: WAL with synchronous=FULL.

    `history`: "all" keeps every record until the saga's tombstone is purged, n keeps at least the n before the newest
    (fewer than 2n), 0 only the newest. `busy_seconds`: how long to wait for another process's lock. `on_loop_ms`: commits
    that can be expected to take no longer are made on the event loop's own thread; 0 leaves all to the writer's thread.

    Raises JournalFormatError for a file of another program, a newer version or a damaged one, which it leaves
    untouched, and JournalUnavailableError where it cannot be opened.
    """

    sorted_ids = True

    def __init__(
        self, path: str | Path, *, history: str | int = "all", busy_seconds: float = 5.0, on_loop_ms: float = 2.0
    ) -> None:
        keep = check_history(history)
        check_seconds("busy_seconds", busy_seconds)
        check_seconds("on_loop_ms", on_loop_ms)
        self.path = _checked_path(path)
        with told_if_slow(self.path):
            prepare(self.path, busy_seconds=busy_seconds)
            self._start(partial(connect, self.path, busy_seconds=busy_seconds), keep, busy_seconds, on_loop_ms)

    def _start(
        self, connection: Callable[..., sqlite3.Connection], keep: int | None, busy_seconds: float, on_loop_ms: float
    ) -> None:
        self.read_only = busy_seconds < 0
        opened: list[sqlite3.Connection] = []
        try:
            for write in [False] if self.read_only else [True, False]:
                opened.append(connection(write=write))
                opened[-1].execute("SELECT count(*) FROM sqlite_master").fetchone()  # now the log is there, too
            check_version(opened[-1], self.path)
            self._file = OpenedFile(self.path)
            if not self.read_only:
                writer = Writer(opened[0], self._file, keep, busy_seconds=busy_seconds)
        except BaseException as error:
            for one in opened:
                one.close()
            if isinstance(error, ERRORS):
                raise translate(error, self.path) from error
            raise
        self._connections = opened
        self._file.keep(*opened)
        self.commit_counts = CommitCounts() if self.read_only else writer.counts
        self._writer: Committer = (
            cast("Committer", NoCommitter(self.path))
            if self.read_only
            else Committer(writer, self._file, quick_seconds=on_loop_ms / 1000)
        )
        reader = Reader(opened[-1], self._file)
        self._reader: ConnectionThread[Read] = ConnectionThread("sagalog-reader", reader.serve, reader.close, 256)

    @classmethod
    def for_looking(cls, rest: str) -> SqliteJournal:
        """Open what `from_url` would; where it can only be read (a read-only mount, another user's file), to read it.

        Raises JournalUnavailableError also where the file is not there; it is not made.
        """
        path = rest.partition("?")[0][1:]
        if path and not os.path.exists(path):
            raise JournalUnavailableError(f"{path} does not exist; nothing was made. Is the journal's URL right?")
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
            raise DefinitionError("an SQLite journal is named as sqlite:///relative.db or sqlite:////absolute/path.db")
        given, others = split_settings("sqlite", query, _SETTINGS)
        only_known("sqlite", _SETTINGS, others)
        return cls(path[1:], **{**given, **settings})

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
                await self._writer.submit(Write(rows, atomic))
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
        found = await self._read(
            lambda c: c.execute(
                """WITH RECURSIVE chain(record_id, sequence_nr, previous_id, instance_id, first) AS (
                     SELECT r.record_id, r.sequence_nr, r.previous_id, r.instance_id, i.deleted_to + 1
                       FROM instance i JOIN record r USING (record_id) WHERE i.persistence_id = ?
                     UNION ALL
                     SELECT r.record_id, r.sequence_nr, r.previous_id, r.instance_id, first
                       FROM chain JOIN record r ON r.record_id = chain.previous_id
                      WHERE chain.sequence_nr > max(first, ?)
                        AND r.sequence_nr = chain.sequence_nr - 1 AND r.instance_id = chain.instance_id)
                   SELECT record_id FROM chain WHERE sequence_nr BETWEEN max(first, ?) AND ?
                   ORDER BY sequence_nr LIMIT ?""",
                (persistence_id, from_sequence_nr, from_sequence_nr, to_sequence_nr, max),
            ).fetchall()
        )
        for start in range(0, len(found), _PAGE):
            ids = [row[0] for row in found[start : start + _PAGE]]
            marks = ", ".join("?" * len(ids))
            rows = await self._read(
                lambda c, ids=ids, marks=marks: c.execute(  # type: ignore[misc]
                    f"SELECT {COLUMNS} FROM {RECORDS} WHERE r.record_id IN ({marks}) ORDER BY r.sequence_nr",  # noqa: S608
                    ids,
                ).fetchall()
            )
            for row in rows:
                yield record_of(row)

    async def highest_sequence_nr(self, persistence_id: str, from_sequence_nr: int = 0) -> int:
        row = await self._read(
            lambda c: c.execute(
                "SELECT sequence_nr FROM instance WHERE persistence_id = ?", (persistence_id,)
            ).fetchone()
        )
        return row[0] if row else 0

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
            rows = await self._read(
                lambda c, after=offset: c.execute(  # type: ignore[misc]
                    f"""SELECT {COLUMNS} FROM {RECORDS}
                         WHERE r.record_id > ? AND r.sequence_nr > i.deleted_to AND r.label_id IN
                               (SELECT label_id FROM label, json_each(tags) WHERE value = ?)
                         ORDER BY r.record_id LIMIT {_PAGE}""",  # noqa: S608
                    (after, tag),
                ).fetchall()
            )
            for row in rows:
                yield row[9], record_of(row)
            if len(rows) < _PAGE:
                return
            offset = rows[-1][9]

    async def latest_message(self, persistence_id: str) -> PersistentRepr | None:
        check_text(persistence_id)
        self._file.check_process()
        row = await self._reader.submit(persistence_id)
        return record_of(row) if row else None

    async def ids_by_prefix(
        self, prefix: str, *, after: str = "", limit: int = 1000, deleted: bool = False
    ) -> list[str]:
        within, bounds = _within(prefix)
        rows = await self._read(
            lambda c: c.execute(
                f"""SELECT persistence_id FROM instance WHERE persistence_id > ?
                       AND {within.format(column="persistence_id")} AND deleted = ? AND deleted_to < sequence_nr
                     ORDER BY persistence_id LIMIT ?""",  # noqa: S608
                (after, *bounds, int(deleted), limit),
            ).fetchall()
        )
        return [row[0] for row in rows]

    async def latest_by_prefix(
        self, prefix: str, *, after: str = "", limit: int = 1000, deleted: bool | None = False
    ) -> list[PersistentRepr]:
        within, bounds = _within(prefix)
        rows = await self._read(
            lambda c: c.execute(
                f"""SELECT {COLUMNS} FROM {NEWEST} WHERE i.persistence_id > ?
                       AND {within.format(column="i.persistence_id")} AND i.deleted = ifnull(?, i.deleted)
                       AND i.deleted_to < i.sequence_nr ORDER BY i.persistence_id LIMIT ?""",  # noqa: S608
                (after, *bounds, deleted, limit),
            ).fetchall()
        )
        return [record_of(row) for row in rows]

    async def newest_offset(self) -> int:
        row = await self._read(lambda c: c.execute("SELECT max(record_id) FROM record").fetchone())
        return row[0] or 0

    async def records_after(self, offset: int, *, limit: int = 1000) -> tuple[list[PersistentRepr], int]:
        rows = await self._read(
            lambda c: c.execute(
                f"SELECT {COLUMNS} FROM {RECORDS} WHERE r.record_id > ? ORDER BY r.record_id LIMIT ?",  # noqa: S608
                (offset, limit),
            ).fetchall()
        )
        if rows:
            return [record_of(row) for row in rows], rows[-1][9]
        # Where the newest record was purged, its number is given once more: follow on from what is left.
        return [], min(offset, await self.newest_offset())

    async def due_ids(self, prefix: str, before: datetime, *, limit: int = 1000) -> list[tuple[str, datetime]]:
        check_instant(before, "before")
        return await self._read(lambda c: due(c, _within(prefix), before, limit))

    async def claim_due(
        self, prefix: str, before: datetime, until: datetime, *, limit: int = 1000
    ) -> list[tuple[str, datetime]]:
        check_instant(before, "before")
        check_moment(until, "until")

        def work(connection: sqlite3.Connection) -> list[tuple[str, datetime]]:
            found = due(connection, _within(prefix), before, limit)
            postpone(connection, [persistence_id for persistence_id, _ in found], until)
            return found

        found: list[tuple[str, datetime]] = await self._writer.submit(work)
        return found

    async def write_batch(self, records: Sequence[PersistentRepr]) -> list[SagalogError | None]:
        answers: list[SagalogError | None] = [None] * len(records)
        chunk: dict[str, Row] = {}
        places: list[int] = []
        size = 0
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
            if len(chunk) == _MAX_CHUNK or (chunk and size + length > _CHUNK_BYTES):
                await self._write_chunk(chunk, places, answers)
                chunk, places, size = {}, [], 0
            chunk[record.persistence_id] = row_of(record, microseconds(record.due_at))
            places.append(place)
            size += length
        if chunk:
            await self._write_chunk(chunk, places, answers)
        return answers

    async def _write_chunk(self, chunk: dict[str, Row], places: list[int], answers: list[SagalogError | None]) -> None:
        try:
            lost = await self._writer.write_batch(list(chunk.values()))
        except SagalogError as error:
            for place in places:
                answers[place] = error
            return
        if lost:
            for place, persistence_id in zip(places, chunk, strict=True):
                if persistence_id in lost:
                    answers[place] = SequenceOutOfOrder((persistence_id,))

    async def latest_messages(self, persistence_ids: Sequence[str]) -> list[PersistentRepr | None]:
        found: list[PersistentRepr | None] = []
        for persistence_id in persistence_ids:
            check_text(persistence_id)
        self._file.check_process()
        for start in range(0, len(persistence_ids), _PAGE):
            rows = await self._reader.submit(tuple(persistence_ids[start : start + _PAGE]))
            found.extend(record_of(row) if row else None for row in rows)
        return found

    async def move_due(self, moves: Sequence[MovedDue]) -> list[bool]:
        check_moves(moves)
        if not moves:
            return []
        moved: list[bool] = await self._writer.submit(lambda connection: move(connection, moves))
        return moved

    async def purge(self, tombstones: Sequence[tuple[str, int]]) -> None:
        for persistence_id, _ in tombstones:
            check_text(persistence_id)
        for start in range(0, len(tombstones), _PAGE):  # others have their turn in between
            page = tombstones[start : start + _PAGE]
            await self._writer.submit(partial(forget, tombstones=page))

    async def examine(self) -> list[Finding]:
        def work(connection: sqlite3.Connection) -> tuple[str, int]:
            (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            return mode, version

        mode, version = await self._read(work)
        findings = [Finding("schema", "ok", f"version {version}, as this code has it")]
        if mode == "wal" or self.read_only:
            findings.insert(
                0, Finding("durable", "ok", "SQLite, WAL with synchronous=FULL: durable when a call returns")
            )
        else:
            remedy = "somebody changed it: run `PRAGMA journal_mode=WAL` on the file while no worker runs"
            findings.insert(0, Finding("durable", "fail", f"SQLite with journal_mode={mode}", remedy))
        if self.read_only:
            findings.append(Finding("writable", "warn", "the file can only be read from here"))
        else:
            try:
                await self._writer.submit(touch)
            except SagalogError as error:
                findings.append(Finding("writable", "fail", f"writes are refused: {error}", "see what it says"))
        if self._file.links > 1:
            text = f"the file has {self._file.links} names; SQLite keeps a log for each, and mixes them up"
            findings.append(Finding("name", "warn", text, "open it under one name only, and remove the other links"))
        return findings

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
