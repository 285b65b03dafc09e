"""Newest records: lookups that wait at the same time are one query.

    latest_message ─► [lookups] ─► one query for all that waits ─► each its row, or None

A query of its own for each id costs the worker more than a step does, and a busy one waits for a connection first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Any

from ...waiting import start_task

_AT_ONCE = 2  # queries: the second takes what came while the first is under way
_MAX_IDS = 256  # of one query


class Lookups:
    """Looks ids up by `query`, which takes a list of them as its only parameter and returns rows that begin with the id."""

    def __init__(self, read: Callable[..., Awaitable[list[Any]]], query: str) -> None:
        self._read = read
        self._query = query
        self._waiting: dict[bytes, list[asyncio.Future[Any]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def row(self, persistence_id: bytes) -> Any | None:
        """Return the id's row, not older than this call, or None. Raises what the query raised."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.setdefault(persistence_id, []).append(future)
        if len(self._tasks) < _AT_ONCE:
            self._tasks.add(start_task(self._run()))
        return await future

    async def _run(self) -> None:
        try:
            while self._waiting:
                ids = list(islice(self._waiting, _MAX_IDS))
                await self._look_up({one: self._waiting.pop(one) for one in ids})
        finally:  # in the same moment as nothing waits: whoever comes next starts a task
            self._tasks.discard(asyncio.current_task())

    async def _look_up(self, asked: dict[bytes, list[asyncio.Future[Any]]]) -> None:
        found: dict[bytes, Any] = {}
        failure: Exception | None = None
        try:
            found = {row[0]: row for row in await self._read(self._query, list(asked))}
        except Exception as error:
            failure = error
        for persistence_id, futures in asked.items():
            for future in futures:
                if future.done():  # its caller was cancelled
                    continue
                if failure is None:
                    future.set_result(found.get(persistence_id))
                else:
                    future.set_exception(failure)
