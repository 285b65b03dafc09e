"""Work that time brings: timers, commands of workers that died, tombstones whose retention ended.

    store.due(now) ─► [due] ─► mailbox of each instance (as a claim)

One loop for each saga's store. It looks when the next thing known is due, and every `due_poll_seconds` for what other
workers saved. A claim saves a new `due_at` first, so two workers that find the same instance are told apart by version.
"""

from __future__ import annotations

import asyncio
import random
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ..errors import CodecError, JournalError, OutcomeUnknownError, RunnerStoppedError, SagalogError
from ..record import FINAL, decode_record
from .engine import Engine, log
from .envelope import Envelope, Upkeep
from .scanned import ScannedStore
from .timers import next_due

if TYPE_CHECKING:
    from .hosted import Hosted

_PAGE = 500


class DueLoop:
    """Looks for due instances, and hands them to their mailboxes."""

    def __init__(self, engine: Engine, hosted: list[Hosted]) -> None:
        self._engine = engine
        self._hosted = hosted
        self._looking = {one.name: asyncio.Lock() for one in hosted}
        self._wake = asyncio.Event()
        self._next: datetime | None = None
        # Instances that stay due although they were looked at (unreadable, or another worker's): not before then.
        self._postponed: dict[tuple[str, str], float] = {}
        self._scans = [engine.spawn(self._scan(one)) for one in hosted if one.scanned is not None]

    def notice(self, due_at: datetime, now: datetime) -> None:
        """Something was saved that is due at `due_at`: wake up in time."""
        if self._next is not None and due_at < self._next:
            self._wake.set()

    async def run(self) -> None:
        """Look for due work until the runner stops."""
        engine = self._engine
        while not engine.stopping.is_set():
            self._wake.clear()
            now = engine.now()
            upcoming = now + timedelta(seconds=engine.settings.due_poll_seconds)
            self._next = upcoming
            for hosted in self._hosted:
                try:
                    following = await self.look(hosted, engine.now(), upcoming)
                except (JournalError, OutcomeUnknownError) as error:
                    log.warning("saga %s: looking for due work failed: %s", hosted.name, error)
                    continue
                if following is not None and following < self._next:
                    self._next = following
            await self._sleep(self._next)

    async def scanned(self) -> None:
        """Return when the stores that cannot find due instances have been looked through."""
        if self._scans:
            await asyncio.wait(self._scans)

    async def _sleep(self, until: datetime) -> None:
        engine = self._engine
        waits = [
            asyncio.ensure_future(engine.clock.sleep_until(until)),
            asyncio.ensure_future(self._wake.wait()),
            asyncio.ensure_future(engine.stopping.wait()),
            asyncio.ensure_future(asyncio.sleep(engine.settings.due_poll_seconds)),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def look(self, hosted: Hosted, now: datetime, upcoming: datetime | None = None) -> datetime | None:
        """Claim everything due at `now`; return the first moment after it, up to `upcoming`, at which more is due."""
        async with self._looking[hosted.name]:
            return await self._look(hosted, now, upcoming)

    async def _look(self, hosted: Hosted, now: datetime, upcoming: datetime | None) -> datetime | None:
        loop = self._engine.loop
        seen: set[str] = set()
        while not self._engine.stopping.is_set():
            at = loop.time()
            self._postponed = {key: until for key, until in self._postponed.items() if until > at}
            found = await hosted.due.due(upcoming or now, limit=_PAGE + len(self._postponed))
            ready = [
                (key, due_at) for key, due_at in found if due_at <= now and (hosted.name, key) not in self._postponed
            ]
            if not ready:
                later = [due_at for _, due_at in found if due_at > now]
                return min(later, default=None)
            for key, _ in ready:
                if key in seen:  # still due after a claim: not again and again
                    self._postpone(hosted, key)
            ready = [(key, due_at) for key, due_at in ready if key not in seen]
            seen.update(key for key, _ in ready)
            random.shuffle(ready)  # workers that look at the same time begin at different ends
            places = asyncio.Semaphore(self._engine.settings.max_dispatch)
            await asyncio.gather(*(self._claim(hosted, key, places) for key, _ in ready))
        return None

    async def _claim(self, hosted: Hosted, correlation_id: str, places: asyncio.Semaphore) -> None:
        async with places:
            if self._engine.stopping.is_set():
                return
            instance = hosted.instance(correlation_id)
            if not instance.busy:
                instance.loaded = instance.loaded and instance.delivering  # another worker may have dealt with it
            try:
                await instance.submit(Envelope(upkeep=Upkeep.CLAIM))
                await self._purge(hosted, correlation_id)
            except RunnerStoppedError:
                return
            except SagalogError as error:
                log.warning("saga %s, id %s: due work waits: %s", hosted.name, correlation_id, error)
                self._postpone(hosted, correlation_id)

    def _postpone(self, hosted: Hosted, correlation_id: str) -> None:
        until = self._engine.loop.time() + self._engine.settings.lease_seconds
        self._postponed[(hosted.name, correlation_id)] = until

    async def _purge(self, hosted: Hosted, correlation_id: str) -> None:
        """Forget the instance if it is a tombstone whose retention has ended."""
        if hosted.instance(correlation_id).loaded:  # live: a finished one is not kept in memory
            return
        saved = await hosted.load(correlation_id)
        if saved is None:
            return
        ended = not saved.payload or hosted.retention_ended(decode_record(saved.payload), self._engine.now())
        if ended and (saved.payload or saved.tombstone):
            await hosted.purge(correlation_id, saved)
            self._engine.counters.purged += 1

    async def _scan(self, hosted: Hosted) -> None:
        """Look once through a store that cannot find due instances: what an earlier process left is due now."""
        scanned = hosted.scanned
        if scanned is None:
            return
        engine = self._engine
        while not engine.stopping.is_set():
            try:
                await self._scan_once(hosted, scanned)
                return
            except JournalError as error:
                log.warning("saga %s: looking through its store failed, trying again: %s", hosted.name, error)
                await asyncio.sleep(engine.settings.due_poll_seconds)

    async def _scan_once(self, hosted: Hosted, scanned: ScannedStore) -> None:
        engine = self._engine
        async for key in hosted.store.keys():
            if engine.stopping.is_set():
                return
            saved = await hosted.store.load(key)
            if saved is None:
                continue
            try:
                record = decode_record(saved.payload)
            except CodecError as error:
                hosted.unreadable[key] = str(error)
                continue
            due_at = engine.now() if record.outbox and not record.stuck else next_due(record)
            if due_at is None and record.drained and record.status in FINAL:
                due_at = record.updated_at + engine.settings.retention
            if due_at is not None:
                scanned.remember_if_unknown(key, due_at)
                self.notice(due_at, engine.now())
