"""Connections to PostgreSQL: made when needed, made again when lost, with patience and a limit to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import asyncpg
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    retry_if_not_exception_type,
    stop_after_delay,
    wait_random_exponential,
)

from ...errors import DefinitionError, JournalUnavailableError, SagalogError
from .schema import PASSING, check, migrate, translate

T = TypeVar("T")


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
        self.where = _where(dsn)
        self.pooler = pooler
        self._dsn = dsn
        self._schema = schema
        self._migrate = migrate
        self._patience = connect_seconds
        self._options: dict[str, Any] = {"command_timeout": timeout_seconds, "timeout": connect_seconds}
        if pooler:
            self._options["statement_cache_size"] = 0
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()
        self._closed = False

    @property
    def checked(self) -> bool:
        """Whether the schema was looked at: `pool` need not be asked any more."""
        return self._pool is not None

    async def pool(self) -> asyncpg.Pool:
        """Return the pool for reads and small changes; the first call connects and checks the schema."""
        if self._closed:
            raise JournalUnavailableError("the journal is closed; nothing was stored")
        if self._pool is None:
            async with self._opening:
                if self._pool is None:
                    await self._trying(self._look)
                    self._pool = await asyncpg.create_pool(
                        self._dsn, min_size=0, max_size=8, reset=_no_reset, **self._options
                    )
        return self._pool

    async def _look(self) -> None:
        """Check the schema, or migrate it, over a connection of its own, which may break off here too."""
        connection = await asyncpg.connect(self._dsn, **self._options)
        try:
            if self._migrate:
                await migrate(connection, self._schema, self.where)
            await check(connection, self._schema, self.where)
        finally:
            connection.terminate()

    async def connect(self) -> Any:
        """Return a new connection; try again for a while where the server is away."""
        return await self._trying(lambda: asyncpg.connect(self._dsn, **self._options))

    async def _trying(self, work: Callable[[], Awaitable[T]]) -> T:
        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(PASSING) & retry_if_not_exception_type(asyncpg.ClientConfigurationError),
                stop=stop_after_delay(self._patience),
                wait=wait_random_exponential(multiplier=0.02, max=1.0),
                reraise=True,
            ):
                with attempt:
                    return await work()
        except SagalogError:
            raise
        except (ValueError, asyncpg.ClientConfigurationError) as error:  # which is an InterfaceError, too
            raise DefinitionError(f"this is not a PostgreSQL URL: {type(error).__name__}") from None
        except Exception as error:
            raise translate(error, self.where) from error
        raise AssertionError("unreachable")

    async def read(self, query: str, *arguments: Any) -> list[Any]:
        """Run a query; it changes nothing, so it is simply run again where the connection ended."""

        async def once() -> list[Any]:
            async with pool.acquire() as connection:
                if self.pooler:
                    async with connection.transaction():
                        return await connection.fetch(query, *arguments)  # type: ignore[no-any-return]
                return await connection.fetch(query, *arguments)  # type: ignore[no-any-return]

        pool = await self.pool()
        return await self._trying(once)

    async def change(self, *queries: tuple[str, tuple[Any, ...]]) -> list[Any]:
        """Run queries in one transaction; return the rows of the last."""
        pool = await self.pool()
        connection = await self._trying(pool.acquire)
        sent = False
        try:
            async with connection.transaction():
                rows: list[Any] = []
                for query, arguments in queries:
                    sent = True
                    rows = await connection.fetch(query, *arguments)
                return rows
        except Exception as error:
            raise translate(error, self.where, sent=sent) from error
        finally:
            await pool.release(connection)

    def close(self) -> None:
        """Close all at once; nothing is under way any more."""
        self._closed = True
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None


async def _no_reset(_: Any) -> None:
    """Leave a connection as it is when it goes back into the pool: the queries here set nothing."""


def _where(dsn: str) -> str:
    """Return the server and database of a URL, without user and password, for messages."""
    try:
        parts = urlsplit(dsn)
        return f"PostgreSQL {parts.hostname or 'localhost'}:{parts.port or 5432}{parts.path}"
    except ValueError:
        return "PostgreSQL"
