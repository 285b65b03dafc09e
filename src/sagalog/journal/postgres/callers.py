"""A connection of psycopg, used as one of asyncpg: as far as a step within a caller's transaction needs that."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import asyncpg

from ...errors import DefinitionError
from ..callers import CallersConnection
from ..protocol import PersistentRepr
from .statements import Statements, write

_YEAR_2000 = datetime(2000, 1, 1, tzinfo=UTC)  # from which PostgreSQL counts moments


def as_asyncpg(connection: Any) -> Any:
    """Return what can be used as a connection of asyncpg. Raises DefinitionError for one to another database."""
    if not isinstance(connection, CallersConnection):
        return connection
    if connection.family == "asyncpg":
        return connection.driver
    if connection.family == "psycopg":
        if connection.driver.pgconn.pipeline_status:
            raise DefinitionError(
                "connection= is in psycopg's pipeline mode, in which results are not available yet; nothing was stored"
            )
        return PsycopgConnection(connection)
    raise DefinitionError(
        "the journal is in PostgreSQL, and the connection is to an SQLite file: open the runner on sqlite:///that-file, or "
        "give a connection to the journal's database; nothing was stored"
    )


async def write_or_undo(connection: Any, statements: Statements, records: Sequence[PersistentRepr]) -> list[str]:
    """Write records within the caller's transaction; return the ids that lost. What raises has changed nothing.

    Above READ COMMITTED a conflict is an error, which would end the transaction but for a savepoint. No statement of the
    application comes between it and ours: it would be undone with ours. asyncpg refuses one, psycopg has a lock.
    """
    if isinstance(connection, PsycopgConnection):
        return await write(connection.with_savepoint(), statements, records)
    async with _savepoint(connection):
        return await write(connection, statements, records)


async def wait_or_undo(connection: Any, statement: str, message: PersistentRepr) -> None:
    """Wait for the transaction that holds the id of a record that lost: in the server, which sees deadlocks."""
    if isinstance(connection, PsycopgConnection):
        await connection.with_savepoint().fetch(statement, message.persistence_id.encode())
        return
    async with _savepoint(connection):
        await connection.fetch(statement, message.persistence_id.encode())


@asynccontextmanager
async def _savepoint(connection: Any) -> AsyncIterator[None]:
    """What fails leaves the transaction as it was before. asyncpg's own refuse a transaction that a BEGIN began."""
    await connection.execute("SAVEPOINT sagalog_step")
    try:
        yield
    except BaseException:
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):  # lost, and the transaction with it
            await connection.execute("ROLLBACK TO SAVEPOINT sagalog_step")
            await connection.execute("RELEASE SAVEPOINT sagalog_step")
        raise
    await connection.execute("RELEASE SAVEPOINT sagalog_step")


class PsycopgConnection:
    """Runs asyncpg's statements, whose parameters are $1, $2, on a connection of psycopg.

    `savepoint`: what fails leaves the transaction as it was before.
    """

    def __init__(self, connection: CallersConnection, *, savepoint: bool = False) -> None:
        self._connection = connection
        self._savepoint = savepoint

    def with_savepoint(self) -> PsycopgConnection:
        """Return the same, with a savepoint around each statement."""
        return PsycopgConnection(self._connection, savepoint=True)

    async def fetchrow(self, statement: str, *values: Any) -> Any:
        """Return the first row, or None."""
        rows = await self.fetch(statement, *values)
        return rows[0] if rows else None

    async def fetch(self, statement: str, *values: Any) -> list[Any]:
        """Return all rows. Raises asyncpg's errors."""
        import psycopg

        try:
            if not self._connection.asynchronous:
                return await self._connection.call(lambda: self._fetch(statement, values))
            driver: Any = self._connection.driver
            cursor: Any = psycopg.AsyncRawCursor(driver)
            _prepare(cursor)
            async with driver.lock:
                await driver.wait(self._executing(driver, cursor, statement, values))
            return [] if cursor.description is None else await cursor.fetchall()
        except psycopg.Error as error:
            raise _as_asyncpgs(error) from error

    def _fetch(self, statement: str, values: tuple[Any, ...]) -> list[Any]:
        import psycopg

        driver: Any = self._connection.driver
        cursor: Any = psycopg.RawCursor(driver)
        _prepare(cursor)
        with driver.lock:
            driver.wait(self._executing(driver, cursor, statement, values))
        return [] if cursor.description is None else list(cursor.fetchall())

    def _executing(
        self, driver: Any, cursor: Any, statement: str, values: tuple[Any, ...]
    ) -> Generator[Any, Any, None]:
        """What psycopg waits for as one thing, under its lock; a cancellation is an error of the statement, too."""
        import psycopg

        if not self._savepoint:
            yield from cursor._execute_gen(statement, values)
            return
        yield from driver._exec_command("SAVEPOINT sagalog_step")
        try:
            yield from cursor._execute_gen(statement, values)
        except psycopg.Error:
            yield from driver._exec_command("ROLLBACK TO SAVEPOINT sagalog_step")
            yield from driver._exec_command("RELEASE SAVEPOINT sagalog_step")
            raise
        yield from driver._exec_command("RELEASE SAVEPOINT sagalog_step")


def _prepare(cursor: Any) -> None:
    """Let a cursor take values and give rows as asyncpg does, whatever the connection and its session are set to.

    As text, a moment looks as DateStyle says, which psycopg reads in some styles only; and within a list psycopg writes
    bytes by the rules of a literal, so that with standard_conforming_strings=off the server took an id for another one.
    """
    from psycopg.pq import Format
    from psycopg.rows import tuple_row

    hexadecimal, moment, json = _adapters()
    cursor.row_factory = tuple_row
    cursor.format = Format.BINARY
    cursor.adapters.register_dumper(bytes, hexadecimal)
    cursor.adapters.register_loader("timestamptz", moment)
    cursor.adapters.register_loader("jsonb", json)


@cache
def _adapters() -> tuple[Any, Any, Any]:
    from psycopg.adapt import Dumper, Loader
    from psycopg.pq import Format

    class Hexadecimal(Dumper):
        oid = 17  # bytea

        def dump(self, obj: Any) -> bytes:
            return b"\\x" + bytes(obj).hex().encode()

    class Moment(Loader):
        format = Format.BINARY

        def load(self, data: Any) -> datetime:
            return _YEAR_2000 + timedelta(microseconds=int.from_bytes(data, "big", signed=True))

    class Json(Loader):
        format = Format.BINARY

        def load(self, data: Any) -> str:
            return bytes(data[1:]).decode()  # behind the version of the format

    return Hexadecimal, Moment, Json


@cache
def _by_sqlstate() -> dict[str, type[Exception]]:
    found: dict[str, type[Exception]] = {}
    for kind in vars(asyncpg).values():
        if isinstance(kind, type) and issubclass(kind, asyncpg.PostgresError) and "sqlstate" in vars(kind):
            found.setdefault(str(vars(kind).get("sqlstate")), kind)
    return found


def _as_asyncpgs(error: Any) -> Exception:
    """Return asyncpg's error for one of psycopg. The server's words are left out: they may quote rows."""
    kind = _by_sqlstate().get(error.sqlstate or "")
    return asyncpg.InterfaceError(type(error).__name__) if kind is None else kind(type(error).__name__)
