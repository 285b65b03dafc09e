"""Whether a caller's connection is to the database of the journal: a step would be stored in another journal otherwise.

Names and numbers do not tell a database from a copy of it. So we lock a random number over a connection of our own, and
see over the caller's that it is taken: locks are of one database on one running server.
"""

from __future__ import annotations

from secrets import randbits
from typing import Any
from weakref import WeakSet

import asyncpg

from ...errors import DefinitionError, JournalUnavailableError, OutcomeUnknownError
from ..callers import CallersConnection
from .callers import as_asyncpg
from .connections import Connections
from .failures import translate_callers

TRY_LOCK = "SELECT pg_try_advisory_xact_lock($1)"


class SameDatabase:
    """Looks once at each connection that it is given."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._seen: WeakSet[Any] = WeakSet()

    async def usable(self, connection: Any) -> Any:
        """Return what can be used as a connection of asyncpg. Raises DefinitionError for one to another database."""
        used = as_asyncpg(connection)
        driver = connection.driver if isinstance(connection, CallersConnection) else connection
        driver = getattr(driver, "_con", None) or driver  # a pool of asyncpg gives out a new object each time
        try:
            if driver in self._seen:
                return used
        except TypeError:  # it cannot be remembered
            await self._check(used)
            return used
        await self._check(used)
        self._seen.add(driver)
        return used

    async def _check(self, used: Any) -> None:
        number = randbits(62)

        async def look(own: Any) -> Any:
            async with own.transaction(isolation="read_committed"):
                await own.execute("SELECT pg_advisory_xact_lock($1)", number)
                try:
                    return await used.fetchrow(TRY_LOCK, number)
                except Exception as error:  # of the caller's connection, and not of ours
                    return error

        try:
            found = await self._connections.writing(look)
        except OutcomeUnknownError as error:  # it has written nothing
            raise JournalUnavailableError(f"{self._connections.where} did not answer; nothing was stored") from error
        if isinstance(found, (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            raise translate_callers(found, self._connections.where) from found
        if isinstance(found, Exception):
            raise found
        if found[0]:
            raise DefinitionError(
                f"the connection is to another database than the journal's, {self._connections.where}: a transaction spans "
                "one database; nothing was stored"
            )
