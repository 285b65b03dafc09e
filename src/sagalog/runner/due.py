"""Work that time brings: timers, commands of workers that died, tombstones whose retention ended.

    store.claim(now) ─► [due] ─► mailbox of each instance (as a claim)

One loop for each saga's store. It looks when the next thing known is due, and every `due_poll_seconds` for what other
workers saved. What the store gives to one worker comes up again only after the lease, so workers that look at the same
time get different instances; if two have the same one all the same, they are told apart by version.
"""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import datetime, timedelta

from ..decision.record import decode_record
from ..errors import CodecError, RunnerStoppedError, SagaParkedError
from ..logs import about, log
from .cache import InstanceCache
from .clock import ServerClock
from .engine import Engine
from .envelope import Envelope, Maintenance
from .failures import passes_through, told_of_store
from .instance import Instance
from .runtime import SagaRuntime
from .scanned import ScannedStore
from .stranded import Stranded

_PAGE = 500
_MAX_AT_WORK = 2048  # claimed instances of a saga whose work is not over: the scan hands out no more before some are
_FEW = 16  # at work: it is looked whether anything else is due before it is claimed, at the price of one lookup
_COMPLAIN_SECONDS = 60.0
_PURGES = 100  # at once, by themselves: housekeeping holds up no timer


class DueLoop:
    """Looks for due instances, and hands them to their mailboxes."""

    def __init__(self, engine: Engine, caches: list[InstanceCache]) -> None:
        self._engine = engine
        self._caches = caches
        self._looking = {one.runtime.name: asyncio.Lock() for one in caches}
        self._wake = asyncio.Event()
        self._next: datetime | None = None
        self.looked_at = engine.loop.time()  # when the journal last gave an answer to a look, in the loop's time
        self.trouble = ""  # why the last look failed
        self._at_work: dict[str, set[str]] = {one.runtime.name: set() for one in caches}
        self._complained = ("", "", 0.0)
        self._full = False  # somebody has to be told when there is room again
        self._ended: deque[tuple[InstanceCache, str]] = deque()  # claimed, and not live: perhaps to be purged
        self._sweeping = False
        self._stranded = {one.runtime.name: Stranded(engine, one.runtime) for one in caches}
        self._scans = [engine.spawn(self._scan(one.runtime)) for one in caches if one.runtime.scanned is not None]

    def notice(self, due_at: datetime) -> None:
        """Something was saved that is due at `due_at`: wake up in time."""
        if self._next is not None and due_at < self._next:
            self._wake.set()

    async def run(self) -> None:
        """Look for due work until the runner stops."""
        engine = self._engine
        if engine.event_time:  # timers fire before the next event of their instance, and in `settle`: never in between
            await engine.stopping.wait()
            return
        while not engine.stopping.is_set():
            self._wake.clear()
            if isinstance(engine.clock, ServerClock):
                try:
                    await engine.clock.synchronize()
                except BaseException as error:
                    if passes_through(error):
                        raise
                    told = told_of_store(error)
                    log.warning("asking the journal's server for its time failed: %s", told, extra=about())
            now = engine.now()
            upcoming = now + timedelta(seconds=engine.settings.due_poll_seconds)
            self._next = upcoming
            trouble = ""
            for cache in self._caches:
                try:
                    following = await self.look(cache, engine.now(), upcoming)
                    await self._stranded[cache.runtime.name].look(cache)
                except BaseException as error:  # whatever a store raises: the others, and the next look, go on
                    if passes_through(error):
                        raise
                    trouble = told_of_store(error)
                    self._complain(cache.runtime.name, trouble)
                    continue
                if following is not None and following < self._next:
                    self._next = following
            self.trouble = trouble
            await self._sleep(self._next)

    def _complain(self, saga: str, trouble: str) -> None:
        """Say that a look failed: at once where the reason is new, else once a minute."""
        now = self._engine.loop.time()
        if (saga, trouble) == self._complained[:2] and now - self._complained[2] < _COMPLAIN_SECONDS:
            return
        self._complained = (saga, trouble, now)
        log.warning("saga %s: looking for due work failed: %s", saga, trouble, extra=about(saga=saga))

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

    async def look(self, cache: InstanceCache, now: datetime, upcoming: datetime | None = None) -> datetime | None:
        """Claim everything due at `now`; return the first moment after it, up to `upcoming`, at which more is due."""
        async with self._looking[cache.runtime.name]:
            return await self._look(cache, now, upcoming)

    async def _look(self, cache: InstanceCache, now: datetime, upcoming: datetime | None) -> datetime | None:
        runtime = cache.runtime
        until = now + self._engine.lease
        seen: set[str] = set()
        hooks = self._engine.hooks
        at_work = self._at_work[runtime.name]
        while not self._engine.stopping.is_set():
            room = min(_PAGE, _MAX_AT_WORK - len(at_work))
            if room <= 0:
                self._full = True
                return None  # what ends wakes the loop up
            left = runtime.declined.ids(now)
            # Those at work are ours still. One that is to be left to a worker with newer code is stored as due, and a
            # claim that comes just then would keep it from that worker for a lease.
            ours = left | at_work if len(at_work) <= _FEW else left
            claimed = (
                [] if await self._only_left(runtime, now, ours) else await runtime.due.claim(now, until, limit=room)
            )
            self.looked_at = self._engine.loop.time()
            if claimed or not seen:  # the end of what was due is no news
                hooks.scanned(runtime.name, len(claimed), claimed[0][1] if claimed else None, self._engine.now())
            if not claimed:
                return await self._following(runtime, upcoming, left)
            # What is due again right after its claim waits for the lease: not again and again.
            ready = [key for key, _ in claimed if key not in seen and key not in left and key not in at_work]
            seen.update(ready)
            at_work.update(ready)
            if self._engine.event_time and not ready:
                return None
            for key in ready:
                self._hand_out(cache, key)
            await asyncio.sleep(0)
        return None

    async def _due(
        self, runtime: SagaRuntime, now: datetime, until: datetime, left: frozenset[str], room: int, seen: int
    ) -> list[tuple[str, datetime]]:
        """Claim what is due. In event time there is one worker, whose clock stands still: it claims nothing, and looks."""
        if self._engine.event_time:
            return await runtime.due.due(now, limit=room + seen)
        return [] if await self._only_left(runtime, now, left) else await runtime.due.claim(now, until, limit=room)

    async def _only_left(self, runtime: SagaRuntime, now: datetime, left: frozenset[str]) -> bool:
        """Say whether all that is due is left to other workers, or at work here: a claim would only keep it from them."""
        if not left:
            return False
        waiting = await runtime.due.due(now, limit=_PAGE)
        return len(waiting) < _PAGE and all(key in left for key, _ in waiting)

    async def _following(
        self, runtime: SagaRuntime, upcoming: datetime | None, left: frozenset[str]
    ) -> datetime | None:
        if upcoming is None:
            return None
        following = await runtime.due.due(upcoming, limit=1 + len(left))
        first = next((at for key, at in following if key not in left), None)
        again = runtime.declined.first_until
        return first if again is None else again if first is None else min(first, again)

    def _hand_out(self, cache: InstanceCache, correlation_id: str) -> None:
        """Let the next round fire and take over what is due. Nobody waits for it here: one that hangs holds up no other."""
        instance = cache.instance(correlation_id)
        if not instance.delivering:
            instance.read_again()  # another worker may have dealt with it
        claim = Envelope(maintenance=Maintenance.CLAIM, future=self._engine.loop.create_future())
        assert claim.future is not None
        claim.future.add_done_callback(lambda _: self._claimed(cache, instance, claim))
        instance.poke(claim)

    def _claimed(self, cache: InstanceCache, instance: Instance, claim: Envelope) -> None:
        runtime, correlation_id, error = cache.runtime, instance.correlation_id, claim.error
        self._at_work[runtime.name].discard(correlation_id)
        if self._full:
            self._full = False
            self._wake.set()
        if error is None:
            if not instance.loaded:  # a finished one is not kept in memory
                self._ended.append((cache, correlation_id))
                if not self._sweeping:
                    self._sweeping = True
                    self._engine.spawn(self._sweep())
        elif isinstance(error, SagaParkedError):  # said already; another worker's code may be able to read it
            runtime.declined.add(correlation_id, self._engine.now())
        elif not isinstance(error, RunnerStoppedError):
            told = told_of_store(error)
            log.warning(
                "saga %s, id %s: due work waits: %s", runtime.name, correlation_id, told, extra=instance.about()
            )

    async def _sweep(self) -> None:
        """Forget the tombstones whose retention has ended, some at a time."""
        try:
            while self._ended and not self._engine.stopping.is_set():
                some = [self._ended.popleft() for _ in range(min(_PURGES, len(self._ended)))]
                await asyncio.gather(*(self._purge(cache, key) for cache, key in some))
        finally:
            self._sweeping = False

    async def _purge(self, cache: InstanceCache, correlation_id: str) -> None:
        """Forget the instance if it is a tombstone whose retention has ended."""
        runtime = cache.runtime
        if cache.instance(correlation_id).loaded:
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

    async def _scan(self, runtime: SagaRuntime) -> None:
        """Look once through a store that cannot find due instances: what an earlier process left is due now."""
        scanned = runtime.scanned
        if scanned is None:
            return
        engine = self._engine
        while not engine.stopping.is_set():
            try:
                await self._scan_once(runtime, scanned)
                return
            except BaseException as error:
                if passes_through(error):
                    raise
                log.warning(
                    "saga %s: looking through its store failed, trying again: %s",
                    runtime.name,
                    told_of_store(error),
                    extra=about(saga=runtime.name),
                )
                await asyncio.sleep(engine.settings.due_poll_seconds)

    async def _scan_once(self, runtime: SagaRuntime, scanned: ScannedStore) -> None:
        engine = self._engine
        async for key in runtime.store.keys():
            if engine.stopping.is_set():
                return
            saved = await runtime.store.load(key)
            if saved is None:
                continue
            try:
                record = decode_record(saved.payload)
            except CodecError as error:
                runtime.unreadable[key] = str(error)
                continue
            due_at = engine.now() if record.owes_delivery or record.owes_waking else record.next_timer_at
            if due_at is None and record.finished:
                due_at = record.updated_at + engine.retention
            if due_at is not None:
                scanned.remember_if_unknown(key, due_at)
                self.notice(due_at)
