"""A connection of psycopg, used as one of asyncpg: as far as a step within a caller's transaction needs that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import asyncpg

from ...errors import DefinitionError
from ..callers import CallersConnection


def as_asyncpg(connection: Any) -> Any:
    """Return what can be used as a connection of asyncpg. Raises DefinitionError for one to another database."""
    if not isinstance(connection, CallersConnection):
        return connection
    if connection.family == "asyncpg":
        return connection.driver
    if connection.family == "psycopg":
        return PsycopgConnection(connection)
    raise DefinitionError(
        "the journal is in PostgreSQL, and the connection is to an SQLite file: open the runner on sqlite:///that-file, or "
        "give a connection to the journal's database; nothing was stored"
    )


class PsycopgConnection:
    """Runs asyncpg's statements, whose parameters are $1, $2, on a connection of psycopg."""

    def __init__(self, connection: CallersConnection) -> None:
        self._connection = connection

    async def fetchrow(self, statement: str, *values: Any) -> Any:
        """Return the first row, or None."""
        rows = await self.fetch(statement, *values)
        return rows[0] if rows else None

    async def fetch(self, statement: str, *values: Any) -> list[Any]:
        """Return all rows. Raises asyncpg's errors."""
        import psycopg

        try:
            if self._connection.asynchronous:
                cursor: Any = psycopg.AsyncRawCursor(self._connection.driver)
                _prepare(cursor)
                await cursor.execute(statement, values)
                return [] if cursor.description is None else await cursor.fetchall()
            return await self._connection.call(lambda: self._fetch(statement, values))
        except psycopg.Error as error:
            raise _as_asyncpgs(error) from error

    def _fetch(self, statement: str, values: tuple[Any, ...]) -> list[Any]:
        import psycopg

        cursor: Any = psycopg.RawCursor(self._connection.driver)
        _prepare(cursor)
        cursor.execute(statement, values)
        return [] if cursor.description is None else list(cursor.fetchall())

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """A savepoint, which is gone back to when its block raises."""
        await self.fetch("SAVEPOINT sagalog_step")
        try:
            yield
        except BaseException:
            await self.fetch("ROLLBACK TO SAVEPOINT sagalog_step")
            await self.fetch("RELEASE SAVEPOINT sagalog_step")
            raise
        await self.fetch("RELEASE SAVEPOINT sagalog_step")


def _prepare(cursor: Any) -> None:
    """Let a cursor give rows as asyncpg does, whatever the connection is set to."""
    from psycopg.rows import tuple_row
    from psycopg.types.string import TextLoader

    cursor.row_factory = tuple_row
    cursor.adapters.register_loader("jsonb", TextLoader)


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
