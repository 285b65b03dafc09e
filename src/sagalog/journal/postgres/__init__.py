"""The journal in PostgreSQL: one statement for each batch, losers told apart, steps inside the caller's transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Self
from urllib.parse import urlencode

import asyncpg

from ...durations import seconds_of
from ...errors import DefinitionError, JournalUnavailableError, SagalogError, SequenceOutOfOrder
from ..arguments import checks_arguments
from ..checks import check_moment, check_moves, in_sequence, out_of_order, wanted_terms
from ..protocol import MAX_SEQUENCE_NR, CommitCounts, Finding, MovedDue, PersistentRepr, all_ids
from ..settings import LONGEST, Known, check_history, history_setting, seconds, split_settings, yes
from ..urls import split_server_url
from .callers import wait_or_undo, write_or_undo
from .connections import Connections
from .due import DueIds
from .examining import findings_of
from .failures import on_callers_connection, translate
from .listing import PostgresListing
from .lookups import Lookups
from .rows import COLUMNS, record_of
from .same_database import SameDatabase
from .schema import MIGRATIONS, check_name, migrate
from .statements import HELD, storable, write_statements
from .writer import PostgresWriter

_SETTINGS: Known = {
    "schema": str,
    "history": history_setting,
    "migrate": yes,
    "pooler": yes,
    "connect_seconds": seconds,
    "timeout_seconds": seconds,
}


@checks_arguments
class PostgresJournal:
    """A journal in a PostgreSQL database, for any number of workers on any number of machines.

    `dsn`: as asyncpg takes it. `schema`: where the tables are; `migrate`: make or migrate them at open. `history`: "all"
    keeps every record until the saga's tombstone is purged, n the n before the newest, 0 only the newest. `pooler`: there
    is a transaction-mode pooler in between, so no statement stays prepared. `connect_timeout`: how long to try to
    (re)connect before a call fails. `timeout`: how long to wait for an answer.

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
        connect_timeout: timedelta = timedelta(seconds=10),
        timeout: timedelta = timedelta(seconds=30),
    ) -> None:
        keep = check_history(history)
        for name, flag in (("migrate", migrate), ("pooler", pooler)):
            if not isinstance(flag, bool):
                raise DefinitionError(f"{name} must be True or False, not {flag!r}")
        self.page_bytes = 4096 if keep is None else 0
        self.kept_records: int = keep or 0
        self.schema: str = check_name(schema)
        self._connections = Connections(
            dsn,
            self.schema,
            migrate=migrate,
            pooler=pooler,
            connect_seconds=seconds_of("connect_timeout", connect_timeout, most=LONGEST),
            timeout_seconds=seconds_of("timeout", timeout, most=LONGEST),
        )
        self._statements = write_statements(self.schema, keep)
        self._writer = PostgresWriter(self._connections, self._statements)
        self._newest = f"""SELECT {COLUMNS} FROM {self.schema}.instance i JOIN {self.schema}.record r
                           USING (persistence_id, sequence_nr) WHERE i.persistence_id = ANY($1)"""
        self._of_one = f"""SELECT {COLUMNS} FROM {self.schema}.record r JOIN {self.schema}.instance i USING (persistence_id)
                           WHERE r.persistence_id = $1 AND r.sequence_nr BETWEEN $2 AND $3 ORDER BY r.sequence_nr"""
        self._purge = f"""WITH held AS MATERIALIZED (
                SELECT i.persistence_id
                FROM unnest($1::bytea[], $2::bigint[]) AS given (persistence_id, sequence_nr)
                JOIN {self.schema}.instance i USING (persistence_id, sequence_nr)
                WHERE i.deleted AND NOT i.hidden FOR UPDATE OF i SKIP LOCKED
            ), gone AS (
                DELETE FROM {self.schema}.instance i USING held WHERE i.persistence_id = held.persistence_id
                RETURNING i.persistence_id)
            DELETE FROM {self.schema}.record r USING gone WHERE r.persistence_id = gone.persistence_id"""
        self._same_database = SameDatabase(self._connections)
        self._with_term = f"""SELECT persistence_id FROM {self.schema}.instance WHERE terms @> $1::text[]
                              AND persistence_id > $2::bytea AND NOT deleted AND NOT hidden
                              ORDER BY persistence_id LIMIT $3::bigint"""
        self._wait_first = (
            f"""SELECT pg_advisory_xact_lock(hashtextextended('{self.schema} ' || encode($1::bytea, 'hex'), 0))"""
        )
        self._wait_next = f"SELECT true FROM {self.schema}.instance WHERE persistence_id = $1::bytea FOR UPDATE"
        self._held = HELD.format(s=self.schema)
        self._lookups = Lookups(self._connections.read, self._newest)
        self._due = DueIds(self._connections, self.schema)
        self._listing = PostgresListing(self._connections, self.schema)
        self.commit_counts: CommitCounts = self._writer.counts

    def __repr__(self) -> str:
        return f"<PostgresJournal in {self._connections.where}, schema {self.schema}>"

    @classmethod
    def from_url(cls, rest: str, **settings: Any) -> PostgresJournal:
        """Open `postgresql://user@host/database?schema=sagalog&migrate=true`; others are for asyncpg or the server."""
        split_server_url("postgresql", rest)  # before anything of it may be quoted
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
        return await findings_of(self._connections, self.schema)

    async def write_messages(self, messages: Sequence[PersistentRepr], *, atomic: bool = False) -> None:
        if not self._connections.checked:
            await self._connections.pool()
        self._connections.check_owner()
        records, losers = in_sequence([storable(message) for message in messages])
        if len(records) > 1:
            losers = (*losers, *(clash := _of_two_epochs(records)))
            records = [record for record in records if record.persistence_id not in clash]
        if losers and atomic:
            raise SequenceOutOfOrder(losers)
        if records:
            try:
                await self._writer.submit(records, atomic)
            except SequenceOutOfOrder as error:
                losers = (*losers, *error.losers)
        if losers:
            raise out_of_order(messages, losers)

    async def write_in_transaction(self, connection: Any, message: PersistentRepr) -> None:
        """Store a record as part of the caller's own transaction on `connection`: it holds when that commits.

        Raises SequenceOutOfOrder, which leaves that transaction usable, for a number that is not the next; where somebody
        else's open transaction holds the id, when that has ended.
        """
        records, losers = in_sequence([storable(message)])
        with on_callers_connection(self._connections.where):
            try:
                used = await self._same_database.usable(connection)
                if losers:
                    raise SequenceOutOfOrder((message.persistence_id,))
                if await write_or_undo(used, self._statements, records):
                    await wait_or_undo(used, self._wait_first if message.sequence_nr == 1 else self._wait_next, message)
                    raise SequenceOutOfOrder((message.persistence_id,))
            except asyncpg.DeadlockDetectedError as error:
                raise JournalUnavailableError(
                    f"{message.persistence_id!r}: this transaction and another wait for each other: roll back and "
                    "try again; nothing was stored"
                ) from error
            except asyncpg.SerializationError as error:
                raise SequenceOutOfOrder((message.persistence_id,)) from error

    async def latest_in_transaction(self, connection: Any, persistence_id: str) -> PersistentRepr | None:
        """Return the newest record as the caller's transaction sees it, its own writes included."""
        with on_callers_connection(self._connections.where):
            used = await self._same_database.usable(connection)
            row = await used.fetchrow(self._newest, [persistence_id.encode()])
        return record_of(row) if row else None

    async def replay_in_transaction(
        self, connection: Any, persistence_id: str, from_sequence_nr: int, to_sequence_nr: int
    ) -> AsyncIterator[PersistentRepr]:
        """Yield the records that are kept, bounds inclusive, as the caller's transaction sees them."""
        with on_callers_connection(self._connections.where):
            used = await self._same_database.usable(connection)
            rows = await used.fetch(self._of_one, persistence_id.encode(), from_sequence_nr, to_sequence_nr)
        for row in rows:
            yield record_of(row)

    async def ids_in_transaction(
        self, connection: Any, term: str, *, after: str = "", limit: int = 1000
    ) -> tuple[list[str], str]:
        """Return live ids with a term as the caller's transaction sees it, and the place to go on from."""
        with on_callers_connection(self._connections.where):
            used = await self._same_database.usable(connection)
            rows = await used.fetch(self._with_term, [term], after.encode(), limit + 1)
        found = [row[0].decode() for row in rows[:limit]]
        return found, found[-1] if len(rows) > limit else ""

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
        try:
            if not self._connections.checked:
                await self._connections.pool()
            self._connections.check_owner()
        except SagalogError as error:
            return [error] * len(records)
        return await self._writer.batch(records)

    async def held(self, records: Sequence[PersistentRepr]) -> list[bool]:
        keys = [record.persistence_id.encode() for record in records]
        numbers, epochs = [record.sequence_nr for record in records], [record.epoch for record in records]
        found = {row[0] for row in await self._connections.read(self._held, keys, numbers, epochs)}
        return [key in found for key in keys]

    async def move_due(self, moves: Sequence[MovedDue]) -> list[bool]:
        if not moves:
            return []
        check_moves(moves)
        return await self._due.move(moves)

    async def purge(self, tombstones: Sequence[tuple[str, int]]) -> None:
        if tombstones:
            keys = [persistence_id.encode() for persistence_id, _ in tombstones]
            await self._connections.change((self._purge, (keys, [number for _, number in tombstones])))

    def replay_messages(
        self,
        persistence_id: str,
        from_sequence_nr: int = 1,
        to_sequence_nr: int = MAX_SEQUENCE_NR,
        max: int = MAX_SEQUENCE_NR,
    ) -> AsyncIterator[PersistentRepr]:
        return self._listing.replay(persistence_id, from_sequence_nr, to_sequence_nr, max)

    async def highest_sequence_nr(self, persistence_id: str, from_sequence_nr: int = 0) -> int:
        rows = await self._connections.read(
            f"SELECT sequence_nr FROM {self.schema}.instance WHERE persistence_id = $1", persistence_id.encode()
        )
        return rows[0][0] if rows else 0

    async def latest_message(self, persistence_id: str) -> PersistentRepr | None:
        self._connections.check_owner()
        row = await self._lookups.row(persistence_id.encode())
        return record_of(row) if row else None

    async def latest_messages(self, persistence_ids: Sequence[str]) -> list[PersistentRepr | None]:
        if not persistence_ids:
            return []
        keys = [one.encode() for one in persistence_ids]
        found = {row[0]: record_of(row) for row in await self._connections.read(self._newest, keys)}
        return [found.get(key) for key in keys]

    def all_persistence_ids(self) -> AsyncIterator[str]:
        return all_ids(self, "")

    async def ids_by_prefix(
        self, prefix: str, *, after: str = "", limit: int = 1000, deleted: bool = False
    ) -> list[str]:
        return await self._listing.ids(prefix, after, limit, deleted=deleted)

    async def latest_by_prefix(
        self, prefix: str, *, after: str = "", limit: int = 1000, deleted: bool | None = False
    ) -> list[PersistentRepr]:
        return await self._listing.latest(prefix, after, limit, deleted=deleted)

    async def latest_by_terms(
        self, terms: Sequence[str], *, after: str = "", limit: int = 1000
    ) -> tuple[list[PersistentRepr], str]:
        return await self._listing.found_by(wanted_terms(terms), after, limit)

    async def newest_offset(self) -> int:
        return await self._listing.newest_offset()

    async def records_after(self, offset: int, *, limit: int = 1000) -> tuple[list[PersistentRepr], int]:
        return await self._listing.records_after(offset, limit)

    def events_by_tag(self, tag: str, offset: int = 0) -> AsyncIterator[tuple[int, PersistentRepr]]:
        return self._listing.by_tag(tag, offset)

    async def due_ids(self, prefix: str, before: datetime, *, limit: int = 1000) -> list[tuple[str, datetime]]:
        return await self._due.due(prefix, before, limit)

    async def claim_due(
        self, prefix: str, before: datetime, until: datetime, *, limit: int = 1000
    ) -> list[tuple[str, datetime]]:
        check_moment(until, "until")
        return await self._due.claim(prefix, before, until, limit)

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
        self._connections.check_owner()
        await self._writer.close()
        await self._connections.close()


def _of_two_epochs(records: Sequence[PersistentRepr]) -> set[str]:
    """Return the ids of which a call states two epochs."""
    epochs: dict[str, int] = {}
    return {
        one.persistence_id
        for one in records
        if one.epoch and epochs.setdefault(one.persistence_id, one.epoch) != one.epoch
    }


__all__ = ["PostgresJournal"]
