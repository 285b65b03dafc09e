"""Forgets tombstones whose retention has ended, some at a time.

    due ─► [purging] ─► store

Housekeeping holds up no timer: it runs beside the scan for due work.
"""

from __future__ import annotations

import asyncio
from collections import deque

from ..decision.record import decode_record
from ..logs import about, log
from .cache import InstanceCache
from .engine import Engine
from .failures import passes_through, told_of_store

_AT_ONCE = 100


class Purger:
    """Forgets finished instances that came up as due."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ended: deque[tuple[InstanceCache, str]] = deque()
        self._running = False

    def add(self, cache: InstanceCache, correlation_id: str) -> None:
        """Forget an instance soon, if it is a tombstone whose retention has ended."""
        self._ended.append((cache, correlation_id))
        if not self._running:
            self._running = True
            self._engine.spawn(self._run())

    async def _run(self) -> None:
        try:
            while self._ended and not self._engine.stopping.is_set():
                some = [self._ended.popleft() for _ in range(min(_AT_ONCE, len(self._ended)))]
                await asyncio.gather(*(self._purge(cache, key) for cache, key in some))
        finally:
            self._running = False

    async def _purge(self, cache: InstanceCache, correlation_id: str) -> None:
        runtime = cache.runtime
        if cache.instance(correlation_id).cached.loaded:
            return
        try:
            saved = await runtime.load(correlation_id)
            if saved is None:
                return
            ended = not saved.payload or runtime.retention_ended(decode_record(saved.payload), self._engine.now())
            if ended and (saved.payload or saved.tombstone):
                await runtime.purge(correlation_id, saved)
                self._engine.counters.purged += 1
        except BaseException as error:  # it comes up as due again
            if passes_through(error):
                raise
            log.warning(
                "saga %s, id %s: it could not be purged: %s",
                runtime.name,
                correlation_id,
                told_of_store(error),
                extra=about(saga=runtime.name, correlation_id=correlation_id),
            )
