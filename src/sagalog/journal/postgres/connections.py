"""Connections to PostgreSQL: made when needed, made again when lost, with patience and a limit to it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote

import asyncpg

from ...errors import DefinitionError, JournalUnavailableError, SagalogError
from ...waiting import Attempts, Waiting
from ..opening import told_if_slow
from ..owner import Owner
from ..urls import split_server_url
from .failures import AGAIN, passes, passes_for_reading, refusal_of_tls, translate, translate_login
from .schema import check, migrate

T = TypeVar("T")
_LINES = 8  # connections for batches, and as many for reads: a transaction of each may be under way
_LIBPQ = {
    "host",
    "port",
    "user",
    "password",
    "dbname",
    "database",
    "passfile",
    "service",
    "sslmode",
    "sslcert",
    "sslkey",
}
_LIBPQ |= {"sslrootcert", "sslcrl", "sslpassword", "sslnegotiation", "ssl_min_protocol_version"}
_LIBPQ |= {"ssl_max_protocol_version", "target_session_attrs", "krbsrvname", "gsslib"}

_FILES = {"sslrootcert", "sslcert", "sslkey", "sslcrl"}
_WITHOUT_TLS = {"disable", "allow", "prefer"}
_FILES_BESIDE = ("PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "PGSSLCRL")


class Connections:
    """Gives connections to one database, whose schema is checked (or migrated, if so asked) before the first use."""

    def __init__(
        self,
        dsn: str,
        schema: str,
        *,
        migrate: bool,
        pooler: bool,
        connect_seconds: float,
        timeout_seconds: float,
    ) -> None:
        where, query = _where(dsn)
        self.where: str = where
        self.pooler = pooler
        self._dsn = dsn
        self._schema = schema
        self._migrate = migrate
        self._patience = connect_seconds
        self._needs_tls = dict(query).get("sslmode", os.environ.get("PGSSLMODE", "prefer")) not in _WITHOUT_TLS
        self._files = [(name, path) for name, path in query if name in _FILES and path]
        self._files += [(name, path) for name in _FILES_BESIDE if (path := os.environ.get(name))]
        self._for_server = tuple(sorted({name for name, _ in query} - _LIBPQ))
        self._options: dict[str, Any] = {"command_timeout": timeout_seconds, "timeout": connect_seconds}
        if pooler:
            self._options["statement_cache_size"] = 0
        else:
            # Above that isolation, somebody else's step is an error of the server rather than a lost row. Literals, which
            # only a migration has, are standard SQL.
            self._options["server_settings"] = {
                "default_transaction_isolation": "read committed",
                "standard_conforming_strings": "on",
            }
        if "," in self.where and "target_session_attrs" not in dict(query):
            self._options["target_session_attrs"] = "read-write"
        self._pool: asyncpg.Pool | None = None
        self._owner: Owner | None = None
        self._opening: asyncio.Lock | None = None
        self._lines: list[Any] = []
        self._free = asyncio.Semaphore(_LINES)
        self._closed = False

    @property
    def checked(self) -> bool:
        """Whether the schema was looked at: `pool` need not be asked any more."""
        return self._pool is not None

    def check_owner(self) -> None:
        """Raise DefinitionError where another event loop or process than the one that opened it uses the journal."""
        if self._owner is not None:
            self._owner.check()

    async def pool(self) -> asyncpg.Pool:
        """Return the pool for reads and small changes; the first call connects and checks the schema."""
        if self._closed:
            raise JournalUnavailableError("the journal is closed; nothing was stored")
        self.check_owner()
        if self._pool is None:
            if self._owner is None or self._opening is None:
                self._owner, self._opening = Owner(), asyncio.Lock()
            async with self._opening:
                if self._pool is None:
                    with told_if_slow(self.where):
                        await self.trying(self._look)
                    self._pool = await asyncpg.create_pool(
                        self._dsn, min_size=0, max_size=_LINES, reset=_no_reset, connect=self._connect, **self._options
                    )
        return self._pool

    async def _look(self) -> None:
        """Check the schema, or migrate it, over a connection of its own, which may break off here too."""
        connection = await self._connect(self._dsn, **self._options)
        try:
            if self._migrate:
                await migrate(connection, self._schema, self.where)
            await check(connection, self._schema, self.where)
        finally:
            connection.terminate()

    async def _connect(self, *arguments: Any, **options: Any) -> Any:
        for name, path in self._files:
            if not os.access(path, os.R_OK):  # which the driver tells as it tells a server that is away
                raise DefinitionError(f"{name} is {path!r}, but that file does not exist or cannot be read")
        try:
            return await asyncpg.connect(*arguments, **options)
        except Exception as error:
            if self._needs_tls and (refusal := refusal_of_tls(error, self.where)):
                raise refusal from error
            if passes(error):
                raise
            raise translate_login(error, self.where, self._for_server) from error

    async def connect(self) -> Any:
        """Return a new connection; try again for a while where the server is away."""
        return await self.trying(lambda: self._connect(self._dsn, **self._options))

    async def trying(
        self,
        work: Callable[[], Awaitable[T]],
        again: Callable[[BaseException], bool] = passes,
        *,
        reading: bool = False,
    ) -> T:
        """Do it, with pauses until it is done, what it raises does not pass, or the patience for connecting is over."""
        attempts = Attempts(Waiting(first=0.02, most=1.0, seconds=self._patience))
        while True:
            try:
                return await work()
            except Exception as error:
                if again(error) and await attempts.wait():
                    continue
                if isinstance(error, SagalogError):
                    raise
                raise translate(error, self.where, reading=reading) from error

    async def read(self, query: str, *arguments: Any) -> list[Any]:
        """Run a query; it changes nothing, so it is simply run again where the connection ended."""
        pool = await self.pool()

        async def once() -> list[Any]:
            async with pool.acquire() as connection:
                try:
                    if self.pooler:
                        async with connection.transaction():
                            return await connection.fetch(query, *arguments)  # type: ignore[no-any-return]
                    return await connection.fetch(query, *arguments)  # type: ignore[no-any-return]
                except AGAIN:
                    connection.terminate()
                    raise

        try:
            return await once()
        except Exception as error:
            if not passes_for_reading(error):
                raise translate(error, self.where, reading=True) from error
        return await self.trying(once, passes_for_reading, reading=True)

    async def change(self, *queries: tuple[str, tuple[Any, ...]]) -> list[Any]:
        """Run queries in one transaction; return the rows of the last."""
        await self.pool()

        async def once(connection: Any) -> list[Any]:
            async with connection.transaction(isolation="read_committed"):
                rows: list[Any] = []
                for query, arguments in queries:
                    rows = await connection.fetch(query, *arguments)
                return rows

        return await self.writing(once)

    async def writing(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Give `work` a connection by itself. Raises what says of a write whether it is stored.

        What was rolled back because the connection is a read-only one, or others were in the way, is done again on another.
        """
        try:
            return await self._once(work)
        except AGAIN:
            return await self.trying(lambda: self._once(work), lambda error: isinstance(error, AGAIN))

    async def _once(self, work: Callable[[Any], Awaitable[T]]) -> T:
        async with self._free:
            connection = None
            while self._lines and (connection is None or connection.is_closed()):
                connection = self._lines.pop()
            if connection is None or connection.is_closed():
                connection = await self.connect()
            try:
                done = await work(connection)
            except asyncpg.ReadOnlySQLTransactionError:
                self._drop(connection)
                raise
            except AGAIN:
                self._keep(connection)
                raise
            except asyncpg.PostgresError as error:
                self._keep(connection)
                raise translate(error, self.where, sent=True) from error
            except Exception as error:
                connection.terminate()  # what it was doing is not known
                raise translate(error, self.where, sent=True) from error
            except BaseException:
                connection.terminate()
                raise
            self._keep(connection)
            return done

    def _keep(self, connection: Any) -> None:
        if self._closed or connection.is_in_transaction():  # which nobody would end
            connection.terminate()
        elif not connection.is_closed():
            self._lines.append(connection)

    def _drop(self, connection: Any) -> None:
        """End a connection, and all that may have been opened while the server was as it was for this one."""
        for line in (connection, *self._lines):
            line.terminate()
        self._lines.clear()

    async def close(self) -> None:
        """Finish what is under way, and close all."""
        self._closed = True
        if self._owner is None:
            return
        self._owner.check()
        for _ in range(_LINES):  # whoever writes has one of the places
            await self._free.acquire()
        for _ in range(_LINES):
            self._free.release()
        for line in self._lines:
            line.terminate()
        self._lines.clear()
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None


async def _no_reset(_: Any) -> None:
    """Leave a connection as it is when it goes back into the pool: the queries here set nothing."""


def _where(dsn: str) -> tuple[str, list[tuple[str, str]]]:
    """Return the server and database of a URL, without user and password, for messages; and its settings.

    Raises DefinitionError for what is not a URL of a PostgreSQL server.
    """
    scheme, separator, rest = dsn.partition("://") if isinstance(dsn, str) else ("", "", "")
    if not separator or scheme not in ("postgresql", "postgres"):
        raise DefinitionError("this is not a PostgreSQL URL; write postgresql://user@host/database")
    try:
        url = split_server_url("postgresql", rest)
    except DefinitionError as error:
        raise DefinitionError(f"this is not a PostgreSQL URL: {error}") from None
    query = parse_qsl(url.query, keep_blank_values=True)
    given = dict(query)
    for port in given.get("port", "").split(","):
        if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise DefinitionError("this is not a PostgreSQL URL: its port is not a number from 1 to 65535")
    if url.place:
        places = [one.place if one.port else f"{one.place}:{given.get('port', 5432)}" for one in url.addresses]
    else:
        places = [f"{given.get('host', 'localhost')}:{given.get('port', 5432)}"]
    return f"PostgreSQL {','.join(places)}{unquote(url.path)}", query
