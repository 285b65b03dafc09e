"""How far followers may read: up to the newest record before which none can appear any more.

Records get ordinals from a sequence while they are written, and are seen when their transaction commits, so that a lower
one may be seen after a higher one. Every transaction that writes records holds a lock on their table, from before it
takes its first ordinal until it is seen. So: read the newest ordinal; then look who holds such a lock; as soon as all of
these are gone, everything up to that ordinal is seen. Nothing of this depends on transactions' ids, which start anew in
another cluster, nor on transactions elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

_PATIENCE = 50  # looks before it is taken that somebody keeps a transaction open
_PAUSE_SECONDS = 0.004


class Horizon:
    """Finds out how far the records of one schema are complete."""

    def __init__(self, read: Callable[..., Awaitable[list[Any]]], schema: str) -> None:
        self._read = read
        self._newest = f"SELECT {schema}.newest_ordinal()"
        self._writers = f"""SELECT virtualtransaction FROM pg_catalog.pg_locks
            WHERE locktype = 'relation' AND relation = '{schema}.record'::regclass AND mode = 'RowExclusiveLock'
            AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())"""
        self._complete = 0
        self._pending: tuple[int, frozenset[str]] | None = None

    async def reached(self) -> int:
        """Return the ordinal up to which all there will ever be is seen by a query that begins now.

        Where somebody keeps a transaction with a record in it open, that is the one found before it began to be in the way.
        """
        goal = None
        for _ in range(_PATIENCE):
            newest = (await self._read(self._newest))[0][0]
            writers = frozenset(row[0] for row in await self._read(self._writers))
            goal = newest if goal is None else goal
            if not writers:
                self._advance(newest)
            elif self._pending is None:
                self._pending = (newest, writers)
            elif writers.isdisjoint(self._pending[1]):
                self._advance(self._pending[0])
                self._pending = (newest, writers)
            if self._complete >= goal:
                break
            await asyncio.sleep(_PAUSE_SECONDS)
        return self._complete

    def _advance(self, ordinal: int) -> None:
        self._complete = max(self._complete, ordinal)
        self._pending = None
