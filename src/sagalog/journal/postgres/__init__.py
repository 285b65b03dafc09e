"""The journal in PostgreSQL: one statement for each batch, losers told apart, steps inside the caller's transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Self
from urllib.parse import urlencode

import asyncpg
import msgspec

from ...errors import InvalidEventError, SagalogError, SequenceOutOfOrder
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
from ..settings import Known, check_history, history_setting, split_settings, yes
from .connections import Connections
from .lookups import Lookups
from .schema import MIGRATIONS, check_name, migrate, translate
from .writer import Writer, write, write_statements

_COLUMNS = "r.persistence_id, r.sequence_nr, r.payload, r.manifest, r.writer_uuid, r.deleted, r.tags, r.due_at"
# Not as a range of ids: where the statistics are old, PostgreSQL reads all of it rather than the few that are due.
_STARTS_SO = "CASE WHEN substring(persistence_id FROM 1 FOR length($1::bytea)) = $1 THEN true ELSE false END"
_PAGE = 256
_SETTINGS: Known = {
    "schema": str,
    "history": history_setting,
    "migrate": yes,
    "pooler": yes,
    "connect_seconds": float,
    "timeout_seconds": float,
}


def _repr(row: Any) -> PersistentRepr:
    tags = tuple(msgspec.json.decode(row[6])) if row[6] != "[]" else ()
    return PersistentRepr(row[0].decode(), row[1], row[2], row[3], row[4], row[5], tags, row[7])


def _within(prefix: str) -> tuple[bytes, bytes]:
    """Return the range of ids that start with `prefix`: the lowest, and the first behind the highest."""
    if not prefix:
        return b"", b"\xff"  # which no UTF-8 begins with
    low = prefix.encode()
    return low, low[:-1] + bytes([low[-1] + 1])


class PostgresJournal:
    """A journal in a PostgreSQL database, for any number of workers on any number of machines.

    `dsn`: as libpq takes it. `schema`: where the tables are; `migrate`: make or migrate them at open. `history`: "all"
    keeps every record until the saga's tombstone is purged, n the n before the newest, 0 only the newest. `pooler`: there
    is a transaction-mode pooler in between, so no statement stays prepared. `connect_seconds`: how long to try to
    (re)connect before a call fails. `timeout_seconds`: how long to wait for an answer.

    Connects at first use, or by `open`, which raises JournalFormatError for a schema that is missing, old, newer, or of
    another program, and JournalUnavailableError where it cannot connect.
    """

    sorted_ids = True

    def __init__(
        self,
        dsn: str,
        *,
        schema: str = "sagalog",
        history: str | int = "all",
        migrate: bool = False,
        pooler: bool = False,
        connect_seconds: float = 10.0,
        timeout_seconds: float = 30.0,
    ) -> None:
        keep = check_history(history)
        self.schema = check_name(schema)
        self._connections = Connections(
            dsn,
            self.schema,
            migrate=migrate,
            pooler=pooler,
            connect_seconds=connect_seconds,
            timeout_seconds=timeout_seconds,
        )
        self._statements = write_statements(self.schema, keep)
        self._writer = Writer(self._connections.connect, self._statements, self._connections.where, pooler=pooler)
        self._newest = f"""SELECT {_COLUMNS} FROM {self.schema}.instance i JOIN {self.schema}.record r
                           USING (persistence_id, sequence_nr) WHERE i.persistence_id = ANY($1)"""
        self._claim = f"""WITH due AS MATERIALIZED (
                SELECT persistence_id, due_at FROM {self.schema}.instance WHERE due_at <= $2 AND {_STARTS_SO}
                ORDER BY due_at, persistence_id LIMIT $4 FOR UPDATE SKIP LOCKED)
            UPDATE {self.schema}.instance i SET due_at = $3 FROM due
            WHERE i.persistence_id = due.persistence_id RETURNING due.persistence_id, due.due_at"""
        self._lookups = Lookups(self._connections.read, self._newest)
        self.commit_counts = self._writer.counts

    @classmethod
    def from_url(cls, rest: str, **settings: Any) -> PostgresJournal:
        """Open `postgresql://user@host/database?schema=sagalog&migrate=true`; other parameters are libpq's."""
        address, _, query = rest.partition("?")
        given, others = split_settings("postgresql", query, _SETTINGS)
        dsn = f"postgresql://{address}{'?' if others else ''}{urlencode(others)}"
        return cls(dsn, **{**given, **settings})

    @classmethod
    async def migrate(cls, rest: str) -> str:
        """Make or migrate the tables that a URL names; return what was done."""
        journal = cls.from_url(rest)
        connections = journal._connections
        connection = await connections.connect()
        try:
            before = await migrate(connection, journal.schema, connections.where)
        except Exception as error:
            raise translate(error, connections.where) from error
        finally:
            connection.terminate()
        if before == len(MIGRATIONS):
            return f"{connections.where}, schema {journal.schema}: at version {before} already"
        made = "made at" if before == 0 else f"migrated from version {before} to"
        return f"{connections.where}, schema {journal.schema}: {made} version {len(MIGRATIONS)}"

    async def open(self) -> None:
        """Connect, and check the schema (or migrate it, if that was asked for). The other calls do it themselves."""
        await self._connections.pool()

    async def server_time(self) -> datetime:
        """Return the server's clock: what all workers can agree on."""
        rows = await self._connections.read("SELECT clock_timestamp()")
        now: datetime = rows[0][0]
        return now

    async def examine(self) -> list[Finding]:
        names = ("fsync", "full_page_writes", "synchronous_commit")
        rows = await self._connections.read(
            "SELECT name, setting, current_setting('server_version') FROM pg_settings WHERE name = ANY($1)", list(names)
        )
        off = sorted(row[0] for row in rows if row[1] == "off")
        where = f"PostgreSQL {rows[0][2]}" if rows else "PostgreSQL"
        schema = Finding("schema", "ok", f"{self.schema}, version {len(MIGRATIONS)}, as this code has it")
        if off:
            text = f"{where} with {', '.join(off)} off: what is committed may be lost when the server's machine fails"
            return [Finding("durable", "fail", text, f"set {', '.join(f'{name} = on' for name in off)}"), schema]
        return [Finding("durable", "ok", f"{where}, {', '.join(names)} on: durable when a call returns"), schema]

    # Writing.

    async def write_messages(self, messages: Sequence[PersistentRepr], *, atomic: bool = False) -> None:
        if not self._connections.checked:
            await self._connections.pool()
        records, losers = in_sequence([_storable(message) for message in messages])
        if losers and atomic:
            raise SequenceOutOfOrder(losers)
        if records:
            try:
                await self._writer.submit(records, atomic)
            except SequenceOutOfOrder as error:
                losers = (*losers, *error.losers)
        if losers:
            raise out_of_order(messages, losers)

    async def write_within(self, connection: Any, message: PersistentRepr) -> None:
        """Store a record as part of the caller's own transaction on `connection` (asyncpg's): it holds when that commits.

        Raises SequenceOutOfOrder, which leaves that transaction usable, for a number that is not the next.
        """
        records, losers = in_sequence([_storable(message)])
        try:
            async with connection.transaction():  # a savepoint: above READ COMMITTED a conflict is an error
                if losers or await write(connection, self._statements, records):
                    raise SequenceOutOfOrder((message.persistence_id,))
        except asyncpg.SerializationError as error:
            raise SequenceOutOfOrder((message.persistence_id,)) from error
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise translate(error, self._connections.where) from error

    async def latest_within(self, connection: Any, persistence_id: str) -> PersistentRepr | None:
        """Return the newest record as the caller's transaction sees it, its own writes included."""
        try:
            row = await connection.fetchrow(self._newest, [persistence_id.encode()])
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise translate(error, self._connections.where) from error
        return _repr(row) if row else None

    async def delete_messages_to(self, persistence_id: str, to_sequence_nr: int) -> None:
        key, highest = persistence_id.encode(), min(to_sequence_nr, MAX_SEQUENCE_NR)
        await self._connections.change(
            (
                f"""UPDATE {self.schema}.instance SET hidden = hidden OR sequence_nr <= $2,
                    due_at = CASE WHEN sequence_nr <= $2 THEN NULL ELSE due_at END WHERE persistence_id = $1""",
                (key, highest),
            ),
            (f"DELETE FROM {self.schema}.record WHERE persistence_id = $1 AND sequence_nr <= $2", (key, highest)),
        )

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
        await self._connections.change(
            (
                f"""WITH gone AS (DELETE FROM {self.schema}.instance
                        WHERE persistence_id = $1 AND sequence_nr = $2 AND deleted AND NOT hidden
                        RETURNING persistence_id)
                    DELETE FROM {self.schema}.record r USING gone WHERE r.persistence_id = gone.persistence_id""",
                (persistence_id.encode(), sequence_nr),
            )
        )

    # Reading.

    async def replay_messages(
        self,
        persistence_id: str,
        from_sequence_nr: int = 1,
        to_sequence_nr: int = MAX_SEQUENCE_NR,
        max: int = MAX_SEQUENCE_NR,
    ) -> AsyncIterator[PersistentRepr]:
        following, left = min(from_sequence_nr, MAX_SEQUENCE_NR), max
        while left > 0 and following <= to_sequence_nr:
            rows = await self._connections.read(
                f"""SELECT {_COLUMNS} FROM {self.schema}.record r WHERE persistence_id = $1
                    AND sequence_nr BETWEEN $2 AND $3 ORDER BY sequence_nr LIMIT $4""",
                persistence_id.encode(),
                following,
                min(to_sequence_nr, MAX_SEQUENCE_NR),
                min(left, _PAGE),
            )
            for row in rows:
                yield _repr(row)
            if len(rows) < _PAGE:
                return
            following, left = rows[-1][1] + 1, left - len(rows)

    async def highest_sequence_nr(self, persistence_id: str, from_sequence_nr: int = 0) -> int:
        rows = await self._connections.read(
            f"SELECT sequence_nr FROM {self.schema}.instance WHERE persistence_id = $1", persistence_id.encode()
        )
        return rows[0][0] if rows else 0

    async def latest_message(self, persistence_id: str) -> PersistentRepr | None:
        check_text(persistence_id)
        row = await self._lookups.row(persistence_id.encode())
        return _repr(row) if row else None

    def all_persistence_ids(self) -> AsyncIterator[str]:
        return all_ids(self, "")

    async def ids_by_prefix(
        self, prefix: str, *, after: str = "", limit: int = 1000, deleted: bool = False
    ) -> list[str]:
        rows = await self._connections.read(
            f"""SELECT persistence_id FROM {self.schema}.instance WHERE persistence_id >= $1 AND persistence_id < $2
                AND persistence_id > $3 AND deleted = $4 AND NOT hidden ORDER BY persistence_id LIMIT $5""",
            *_within(prefix),
            after.encode(),
            deleted,
            limit,
        )
        return [row[0].decode() for row in rows]

    async def latest_by_prefix(
        self, prefix: str, *, after: str = "", limit: int = 1000, deleted: bool | None = False
    ) -> list[PersistentRepr]:
        rows = await self._connections.read(
            f"""SELECT {_COLUMNS} FROM {self.schema}.instance i JOIN {self.schema}.record r
                USING (persistence_id, sequence_nr) WHERE i.persistence_id >= $1 AND i.persistence_id < $2
                AND i.persistence_id > $3 AND i.deleted = coalesce($4, i.deleted) AND NOT i.hidden
                ORDER BY i.persistence_id LIMIT $5""",
            *_within(prefix),
            after.encode(),
            deleted,
            limit,
        )
        return [_repr(row) for row in rows]

    async def newest_offset(self) -> int:
        rows = await self._connections.read("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
        oldest: int = rows[0][0]
        return (oldest << 20) - 1  # an ordinal begins with its transaction's id: see the schema

    async def records_after(self, offset: int, *, limit: int = 1000) -> tuple[list[PersistentRepr], int]:
        rows = await self._connections.read(
            f"""SELECT {_COLUMNS}, r.ordinal FROM {self.schema}.record r WHERE r.ordinal > $1
                AND r.xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY r.ordinal LIMIT $2""",
            offset,
            limit,
        )
        return [_repr(row) for row in rows], rows[-1][8] if rows else offset

    async def due_ids(self, prefix: str, before: datetime, *, limit: int = 1000) -> list[tuple[str, datetime]]:
        rows = await self._connections.read(
            f"""SELECT persistence_id, due_at FROM {self.schema}.instance WHERE due_at <= $2 AND {_STARTS_SO}
                ORDER BY due_at, persistence_id LIMIT $3""",
            prefix.encode(),
            before,
            limit,
        )
        return [(row[0].decode(), row[1]) for row in rows]

    async def claim_due(
        self, prefix: str, before: datetime, until: datetime, *, limit: int = 1000
    ) -> list[tuple[str, datetime]]:
        rows = await self._connections.change((self._claim, (prefix.encode(), before, until, limit)))
        return sorted([(row[0].decode(), row[1]) for row in rows], key=lambda one: one[1])

    async def events_by_tag(self, tag: str, offset: int = 0) -> AsyncIterator[tuple[int, PersistentRepr]]:
        while True:
            rows = await self._connections.read(
                f"""SELECT {_COLUMNS}, r.ordinal FROM {self.schema}.record r WHERE r.ordinal > $1 AND r.tags ? $2
                    AND r.xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY r.ordinal LIMIT {_PAGE}""",
                offset,
                tag,
            )
            for row in rows:
                yield row[8], _repr(row)
            if len(rows) < _PAGE:
                return
            offset = rows[-1][8]

    # Its life.

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._writer.close()
        self._connections.close()


def _storable(message: PersistentRepr) -> PersistentRepr:
    message = checked(message)
    _refuse_nul((message.manifest, message.writer_uuid, *message.tags))
    return message


@lru_cache(maxsize=256)  # a saga's records all have the same
def _refuse_nul(texts: tuple[str, ...]) -> None:
    if any("\x00" in text for text in texts):
        raise InvalidEventError("PostgreSQL keeps no NUL in a manifest, a writer's id or a tag; nothing was stored")


__all__ = ["PostgresJournal"]
