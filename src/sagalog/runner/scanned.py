"""A store of four methods cannot find what is due, so the runner remembers that in memory."""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator
from datetime import datetime

from ..journal.state_store import SagaStateStore, SavedState


class ScannedStore:
    """Wraps a store and remembers the `due_at` of every save: enough for one process, which is what is promised.

    searching.py reads all live ids once, in the background, to find the work of an earlier process. Memory: one entry for
    each instance that has something due.
    """

    def __init__(self, store: SagaStateStore) -> None:
        self._store = store
        self._due: dict[str, datetime] = {}
        self._heap: list[tuple[datetime, str]] = []

    async def load(self, correlation_id: str) -> SavedState | None:
        return await self._store.load(correlation_id)

    async def save(
        self,
        correlation_id: str,
        payload: bytes,
        *,
        expected_version: int | None = None,
        due_at: datetime | None = None,
    ) -> int:
        version = await self._store.save(correlation_id, payload, expected_version=expected_version, due_at=due_at)
        self.remember(correlation_id, due_at)
        return version

    async def delete(
        self, correlation_id: str, *, expected_version: int | None = None, tombstone: bytes | None = None
    ) -> None:
        await self._store.delete(correlation_id, expected_version=expected_version, tombstone=tombstone)
        self.remember(correlation_id, None)

    def keys(self) -> AsyncIterator[str]:
        return self._store.keys()

    def remember(self, correlation_id: str, due_at: datetime | None) -> None:
        """Note when an instance next needs attention."""
        if due_at is None:
            self._due.pop(correlation_id, None)
        else:
            self._due[correlation_id] = due_at
            heapq.heappush(self._heap, (due_at, correlation_id))
            if len(self._heap) > 64 + 4 * len(self._due):  # most entries are outdated, so build it anew
                self._heap = [(at, key) for key, at in self._due.items()]
                heapq.heapify(self._heap)

    def remember_if_unknown(self, correlation_id: str, due_at: datetime) -> None:
        """Note what the search found, unless a save since then knows better."""
        if correlation_id not in self._due:
            self.remember(correlation_id, due_at)

    async def due(self, before: datetime, *, limit: int = 1000) -> list[tuple[str, datetime]]:
        found: dict[str, datetime] = {}
        while self._heap and self._heap[0][0] <= before and len(found) < limit:
            at, key = heapq.heappop(self._heap)
            if self._due.get(key) == at:
                found[key] = at
        for key, at in found.items():  # they stay due until they are saved
            heapq.heappush(self._heap, (at, key))
        return list(found.items())

    async def claim(self, before: datetime, until: datetime, *, limit: int = 1000) -> list[tuple[str, datetime]]:
        found = await self.due(before, limit=limit)
        for key, _ in found:
            self.remember(key, until)
        return found
