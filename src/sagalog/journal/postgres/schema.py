"""The tables in PostgreSQL: made and migrated, or refused untouched; and what PostgreSQL's errors mean to a caller."""

from __future__ import annotations

import re
from typing import Any

import asyncpg

from ...errors import (
    DefinitionError,
    InvalidEventError,
    JournalFormatError,
    JournalUnavailableError,
    OutcomeUnknownError,
    SagalogError,
)

OLDEST_SERVER = 13
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}\Z")

# One entry for each schema version, from 1; an entry is never changed once it is released. {s} is the schema's name.
#
# Ids are bytea: UTF-8 in byte order is code point order whatever the database's collation, and NUL is allowed.
# `ordinal` orders the records for readers that poll by offset. A transaction's records become visible all at once,
# and a reader sees only those of transactions older than any that still runs, so numbers that begin with the
# transaction's id are never overtaken by one that commits later.
MIGRATIONS = [
    """
    CREATE TABLE {s}.instance (
        persistence_id bytea PRIMARY KEY,
        sequence_nr    bigint NOT NULL,
        deleted        boolean NOT NULL,                -- the newest record is a tombstone
        hidden         boolean NOT NULL DEFAULT false,  -- the newest record was deleted; its number is remembered
        due_at         timestamptz
    ) WITH (fillfactor = 80);
    CREATE INDEX instance_due ON {s}.instance (due_at) WHERE due_at IS NOT NULL;
    CREATE SEQUENCE {s}.record_ordinal AS bigint CACHE 1;
    CREATE TABLE {s}.record (
        persistence_id bytea NOT NULL,
        sequence_nr    bigint NOT NULL,
        payload        bytea NOT NULL,
        manifest       text NOT NULL,
        writer_uuid    text NOT NULL,
        deleted        boolean NOT NULL,
        tags           jsonb NOT NULL,
        due_at         timestamptz,
        xid            xid8 NOT NULL DEFAULT pg_current_xact_id(),
        ordinal        bigint NOT NULL DEFAULT
            (pg_current_xact_id()::text::bigint << 20) | (nextval('{s}.record_ordinal') & 1048575),
        PRIMARY KEY (persistence_id, sequence_nr)
    );
    ALTER TABLE {s}.record ALTER COLUMN payload SET STORAGE EXTERNAL;
    CREATE INDEX record_by_ordinal ON {s}.record USING brin (ordinal) WITH (autosummarize = on);
    CREATE VIEW {s}.saga AS  -- for people: select * from sagalog.saga
        SELECT CASE WHEN position('\\x00'::bytea IN i.persistence_id) > 0 THEN encode(i.persistence_id, 'escape')
                    ELSE convert_from(i.persistence_id, 'UTF8') END AS persistence_id,
               i.sequence_nr, i.due_at, i.deleted, encode(r.payload, 'escape') AS record
        FROM {s}.instance i JOIN {s}.record r USING (persistence_id, sequence_nr);
    """,
]


def check_name(schema: str) -> str:
    """Return a schema's name that needs no quotes. Raises DefinitionError."""
    if not _NAME.match(schema):
        raise DefinitionError(f"a schema's name is lower-case letters, digits and '_', at most 63, not {schema!r}")
    return schema


async def check(connection: Any, schema: str, where: str) -> None:
    """Refuse a server or a schema that this code cannot work with. Raises JournalFormatError; nothing is touched."""
    version = await _version(connection, schema, where)
    if version == 0:
        raise JournalFormatError(
            f"{where} has no journal in schema {schema!r}: make it with `sagalog migrate --journal URL`, or open the "
            "journal with ?migrate=true"
        )
    if version < len(MIGRATIONS):
        raise JournalFormatError(
            f"{where}: schema {schema!r} has version {version}, this code needs {len(MIGRATIONS)}: run "
            "`sagalog migrate --journal URL`"
        )


async def _version(connection: Any, schema: str, where: str) -> int:
    major = connection.get_server_version().major
    if major < OLDEST_SERVER:
        raise JournalFormatError(f"{where} runs PostgreSQL {major}; {OLDEST_SERVER} or newer is needed")
    kind = await connection.fetchval("SELECT to_regclass($1)::text", f"{schema}.sagalog_version")
    if kind is None:
        foreign = await connection.fetchval(
            "SELECT count(*) FROM pg_catalog.pg_tables WHERE schemaname = $1 AND tablename IN ('instance', 'record')",
            schema,
        )
        if foreign:
            raise JournalFormatError(
                f"{where}: schema {schema!r} has tables of another program; it was not touched. Choose another schema."
            )
        return 0
    version: int = await connection.fetchval(f"SELECT version FROM {schema}.sagalog_version")
    if version > len(MIGRATIONS):
        raise JournalFormatError(
            f"{where}: schema {schema!r} has version {version}, this code knows up to {len(MIGRATIONS)}; it was not "
            "touched. Upgrade sagalog."
        )
    return version


async def migrate(connection: Any, schema: str, where: str) -> int:
    """Bring the schema to this code's version, all or nothing; return from which version (0: it was made)."""
    async with connection.transaction():
        # Two that migrate at once do it one after the other; the second finds nothing left to do.
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"sagalog migrate {schema}")
        before = await _version(connection, schema, where)
        if before == 0:
            await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
            await connection.execute(f"CREATE TABLE {schema}.sagalog_version (version int NOT NULL)")
            await connection.execute(f"INSERT INTO {schema}.sagalog_version VALUES (0)")
        for script in MIGRATIONS[before:]:
            await connection.execute(script.format(s=schema))
        await connection.execute(f"UPDATE {schema}.sagalog_version SET version = $1", len(MIGRATIONS))
    return before


_REMEDIES: list[tuple[type[Exception], str]] = [
    (asyncpg.InvalidPasswordError, "the password is wrong: check the URL, or PGPASSWORD"),
    (asyncpg.InvalidAuthorizationSpecificationError, "this user may not log in: check the URL and pg_hba.conf"),
    (asyncpg.InvalidCatalogNameError, "the database does not exist: create it, or check the URL"),
    (asyncpg.InsufficientPrivilegeError, "this user lacks a right: grant it on the schema and its tables"),
    (asyncpg.UndefinedTableError, "the tables are gone: run `sagalog migrate --journal URL`"),
    (asyncpg.OutOfMemoryError, "its table of locks is full: raise max_locks_per_transaction"),
    (asyncpg.DiskFullError, "the disk is full: free some space"),
    (asyncpg.TooManyConnectionsError, "all connections are taken: raise max_connections, or use a pooler"),
    (asyncpg.ReadOnlySQLTransactionError, "it is a read-only replica: connect to the primary"),
    (asyncpg.InvalidSQLStatementNameError, "a pooler loses prepared statements: open the journal with ?pooler=true"),
    (asyncpg.DuplicatePreparedStatementError, "a pooler mixes prepared statements: open the journal with ?pooler=true"),
]
# What the server says about a statement means that it was rolled back, except when it ends the connection at the same
# time: that may happen right behind a commit. Every other error says nothing about what the server has done.
_ENDS = (asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError)
# Trying to connect again makes sense after these.
PASSING = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InternalClientError,  # of a connection that broke off while it was made
    asyncpg.InterfaceError,
    OSError,
    TimeoutError,
    EOFError,
)


def translate(error: Exception, where: str, *, sent: bool = False) -> SagalogError:
    """Return the error of ours that stands for PostgreSQL's. `sent`: a write was sent and its answer is missing."""
    translated = _translated(error, where, sent=sent)
    translated.__cause__ = error
    return translated


def _translated(error: Exception, where: str, *, sent: bool) -> SagalogError:
    if isinstance(error, SagalogError):
        return error
    # The server's own words are left out: its details quote rows.
    name = type(error).__name__
    for kind, remedy in _REMEDIES:
        if isinstance(error, kind):
            return JournalUnavailableError(f"{where}: {remedy} ({name}). Nothing was stored.")
    if isinstance(error, asyncpg.DataError):
        return InvalidEventError(f"{where} refuses a value ({name}); nothing was stored")
    if sent and (isinstance(error, _ENDS) or not isinstance(error, asyncpg.PostgresError)):
        return OutcomeUnknownError(f"{where}: the connection ended before the answer ({name}); it may be stored")
    if isinstance(error, PASSING):
        return JournalUnavailableError(
            f"{where} cannot be reached ({name}): check that it runs, and the host and port. Nothing was stored."
        )
    return JournalUnavailableError(f"{where}: {name}. Nothing was stored.")
