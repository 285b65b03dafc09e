"""The embedded journal: one SQLite file in WAL mode, one connection that writes, readers that never wait for it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from ...errors import DefinitionError, SagalogError, SequenceOutOfOrder
from ..protocol import (
    MAX_SEQUENCE_NR,
    Finding,
    MovedDue,
    PersistentRepr,
    all_ids,
    check_text,
    checked,
    in_sequence,
    one_by_one,
    out_of_order,
)
from ..settings import Known, check_history, history_setting, only_known, split_settings
from .committer import Committer
from .due import due, postpone
from .reader import Read, Reader
from .rows import COLUMNS, microseconds, record_of
from .schema import ERRORS, connect, prepare, translate
from .threads import ConnectionThread
from .writer import Write, Writer, delete_chain, row_of

T = TypeVar("T")
_PAGE = 256
_SETTINGS: Known = {"history": history_setting, "busy_seconds": float, "on_loop_ms": float}


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
        self.path = str(path)
        if self.path in ("", ":memory:"):
            raise DefinitionError("SqliteJournal needs a file; use memory:// for a journal in memory")
        prepare(self.path, busy_seconds=busy_seconds)
        try:
            writing = connect(self.path, busy_seconds=busy_seconds, write=True)
            try:
                reading = connect(self.path, busy_seconds=busy_seconds, write=False)
            except BaseException:
                writing.close()
                raise
        except ERRORS as error:
            raise translate(error, self.path) from error
        writer = Writer(writing, self.path, keep, busy_seconds=busy_seconds)
        self.commit_counts = writer.counts
        self._writer = Committer(writer, quick_seconds=on_loop_ms / 1000)
        reader = Reader(reading, self.path)
        self._reader: ConnectionThread[Read] = ConnectionThread("sagalog-reader", reader.serve, reader.close, 256)

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
        return self._reader.submit(work)

    async def write_messages(self, messages: Sequence[PersistentRepr], *, atomic: bool = False) -> None:
        records, losers = in_sequence([checked(message) for message in messages])
        if losers and atomic:
            raise SequenceOutOfOrder(losers)
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
                """WITH RECURSIVE chain(record_id, sequence_nr, previous_id, first) AS (
                     SELECT r.record_id, r.sequence_nr, r.previous_id, i.deleted_to + 1
                       FROM instance i JOIN record r USING (record_id) WHERE i.persistence_id = ?
                     UNION ALL
                     SELECT r.record_id, r.sequence_nr, r.previous_id, first
                       FROM chain JOIN record r ON r.record_id = chain.previous_id
                      WHERE chain.sequence_nr > max(first, ?))
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
                    f"SELECT {COLUMNS} FROM record r WHERE record_id IN ({marks}) ORDER BY sequence_nr",  # noqa: S608
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
                    f"""SELECT {COLUMNS}, r.record_id FROM record r JOIN instance i USING (persistence_id)
                         WHERE r.record_id > ? AND r.sequence_nr > i.deleted_to
                           AND EXISTS (SELECT 1 FROM json_each(r.tags) WHERE value = ?)
                         ORDER BY r.record_id LIMIT {_PAGE}""",  # noqa: S608
                    (after, tag),
                ).fetchall()
            )
            for row in rows:
                yield row[8], record_of(row)
            if len(rows) < _PAGE:
                return
            offset = rows[-1][8]

    async def latest_message(self, persistence_id: str) -> PersistentRepr | None:
        if not persistence_id.isascii():
            check_text(persistence_id)
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
                f"""SELECT {COLUMNS} FROM instance i JOIN record r USING (record_id) WHERE i.persistence_id > ?
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
                f"SELECT {COLUMNS}, r.record_id FROM record r WHERE record_id > ? ORDER BY record_id LIMIT ?",  # noqa: S608
                (offset, limit),
            ).fetchall()
        )
        if rows:
            return [record_of(row) for row in rows], rows[-1][8]
        # Where the newest record was purged, its number is given once more: follow on from what is left.
        return [], min(offset, await self.newest_offset())

    async def due_ids(self, prefix: str, before: datetime, *, limit: int = 1000) -> list[tuple[str, datetime]]:
        return await self._read(lambda c: due(c, _within(prefix), before, limit))

    async def claim_due(
        self, prefix: str, before: datetime, until: datetime, *, limit: int = 1000
    ) -> list[tuple[str, datetime]]:
        def work(connection: sqlite3.Connection) -> list[tuple[str, datetime]]:
            found = due(connection, _within(prefix), before, limit)
            postpone(connection, [persistence_id for persistence_id, _ in found], until)
            return found

        found: list[tuple[str, datetime]] = await self._writer.submit(work)
        return found

    async def write_batch(self, records: Sequence[PersistentRepr]) -> list[SagalogError | None]:
        return await one_by_one(self, records)

    async def latest_messages(self, persistence_ids: Sequence[str]) -> list[PersistentRepr | None]:
        return list(await asyncio.gather(*map(self.latest_message, persistence_ids)))

    async def move_due(self, moves: Sequence[MovedDue]) -> list[bool]:
        return [False for _ in moves]

    async def purge(self, tombstones: Sequence[tuple[str, int]]) -> None:
        for persistence_id, sequence_nr in tombstones:
            await self._purge_one(persistence_id, sequence_nr)

    async def _purge_one(self, persistence_id: str, sequence_nr: int) -> None:
        def work(connection: sqlite3.Connection) -> None:
            match = connection.execute(
                """SELECT 1 FROM instance WHERE persistence_id = ? AND sequence_nr = ? AND deleted = 1
                       AND deleted_to < sequence_nr""",
                (persistence_id, sequence_nr),
            ).fetchone()
            if match:
                delete_chain(connection, persistence_id, sequence_nr)
                connection.execute("DELETE FROM instance WHERE persistence_id = ?", (persistence_id,))

        await self._writer.submit(work)

    async def examine(self) -> list[Finding]:
        def work(connection: sqlite3.Connection) -> tuple[str, int]:
            (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            return mode, version

        mode, version = await self._read(work)
        schema = Finding("schema", "ok", f"version {version}, as this code has it")
        if mode == "wal":
            return [Finding("durable", "ok", "SQLite, WAL with synchronous=FULL: durable when a call returns"), schema]
        remedy = "somebody changed it: run `PRAGMA journal_mode=WAL` on the file while no worker runs"
        return [Finding("durable", "fail", f"SQLite with journal_mode={mode}", remedy), schema]

    async def open(self) -> None:
        """Nothing: the constructor has opened it."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._writer.close()
        await self._reader.close()


__all__ = ["SqliteJournal"]
