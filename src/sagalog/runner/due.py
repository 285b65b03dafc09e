"""Work that time brings: timers, commands of workers that died, tombstones whose retention ended.

    store.claim(now) ─► [due] ─► mailbox of each instance (as a claim)

One loop scans the store of each saga: when the next thing known is due, and every `due_poll` for what other workers
saved. What the store gives to one worker comes up again only after the lease, so workers that scan at the same time get
different instances; should two get the same one, they are told apart by version.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from ..errors import RunnerStoppedError, SagaParkedError
from ..logs import log
from .cache import InstanceCache
from .clock import ServerClock
from .controls import ControlsWatch
from .engine import Engine
from .envelope import Claim, Envelope
from .failures import passes_through, told_of_store
from .instance import Instance
from .purging import Purger
from .runtime import SagaRuntime
from .searching import search
from .stranded import Stranded
from .sweeping import Sweeper

_PAGE = 500
_MAX_AT_WORK = 2048  # claimed instances of a saga that are still at work; a scan hands out no more than these
_FEW = 16  # at work: before a claim, one lookup says whether anything else is due
_TIME = "asking the journal's server for the time"
_PAUSES = "reading what is paused"
_AGAIN = timedelta(seconds=1)  # after a scan that failed, however rarely the journal is polled


class DueLoop:
    """Scans for due instances, and hands them to their mailboxes."""

    def __init__(self, engine: Engine, caches: list[InstanceCache], controls: ControlsWatch | None) -> None:
        self._engine = engine
        self._controls = controls
        self._caches = [] if engine.client else caches
        self._scanning = {one.runtime.name: asyncio.Lock() for one in caches}
        self._wake = asyncio.Event()
        self._next: datetime | None = None
        self.scanned_at: float = engine.loop.time()  # when the journal last answered a scan, in the loop's time
        self.trouble: str = ""  # why the last scan failed
        self.handed_out: int = 0  # claims of instances
        self._at_work: dict[str, set[str]] = {one.runtime.name: set() for one in caches}
        self._handed_out: dict[str, dict[str, tuple[datetime, int]]] = {one.runtime.name: {} for one in caches}
        self._full = False  # the loop has to be woken when there is room again
        self._purger = Purger(engine)
        self._sweepers = [Sweeper(engine, one.runtime.name, one.runtime.reservations) for one in self._caches]
        self._stranded = {one.runtime.name: Stranded(engine, one.runtime) for one in caches}
        self._searches = [
            engine.spawn(search(engine, one.runtime, self.notice))
            for one in self._caches
            if one.runtime.scanned is not None
        ]

    def notice(self, due_at: datetime) -> None:
        """Wake up in time for something that was saved as due at `due_at`."""
        if self._next is not None and due_at < self._next:
            self._wake.set()

    async def run(self) -> None:
        """Scan for due work until the runner stops."""
        engine = self._engine
        if engine.timing.in_order:  # timers fire before the next event of their instance and in `settle`
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
                    engine.complain(_TIME, error)
                else:
                    engine.succeeded(_TIME)
            now = engine.now()
            upcoming = now + engine.settings.due_poll
            self._next = upcoming
            trouble = await self._look_at_controls()
            for cache in self._caches:
                saga = cache.runtime.name
                looking = f"saga {saga}: looking for due work"
                try:
                    following = await self.scan(cache, engine.now(), upcoming)
                    if following is not None and following < self._next:
                        self._next = following
                    await self._stranded[saga].take_over(cache)
                except BaseException as error:  # whatever a store raises, the others and the next scan go on
                    if passes_through(error):
                        raise
                    trouble = engine.complain(looking, error, saga)
                    self._next = min(self._next, engine.now() + _AGAIN)  # what is due next is not known
                else:
                    engine.succeeded(looking)
            for sweeper in self._sweepers:
                sweeper.look()
            self.trouble = trouble
            await self._sleep(self._next)

    async def _look_at_controls(self) -> str:
        """See what operators have said since; return why that failed."""
        if self._controls is None:
            return ""
        try:
            await self._controls.look()
        except BaseException as error:
            if passes_through(error):
                raise
            return self._engine.complain(_PAUSES, error)
        self._engine.succeeded(_PAUSES)
        return ""

    async def searched(self) -> None:
        """Return when the stores that cannot find due instances have been searched."""
        if self._searches:
            await asyncio.wait(self._searches)

    async def _sleep(self, until: datetime) -> None:
        engine = self._engine
        waits = [
            asyncio.ensure_future(engine.clock.sleep_until(until)),
            asyncio.ensure_future(self._wake.wait()),
            asyncio.ensure_future(engine.stopping.wait()),
            asyncio.ensure_future(asyncio.sleep(engine.seconds.due_poll)),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def scan(self, cache: InstanceCache, now: datetime, upcoming: datetime | None = None) -> datetime | None:
        """Claim everything due at `now`; return the first moment after it, up to `upcoming`, at which more is due."""
        async with self._scanning[cache.runtime.name]:
            return await self._scan(cache, now, upcoming)

    async def _scan(self, cache: InstanceCache, now: datetime, upcoming: datetime | None) -> datetime | None:
        runtime = cache.runtime
        until = now + self._engine.lease
        seen: set[str] = set()
        hooks = self._engine.hooks
        at_work = self._at_work[runtime.name]
        while not self._engine.stopping.is_set():
            room = min(_PAGE, _MAX_AT_WORK - len(at_work))
            if room <= 0:
                self._full = True
                return None  # an instance that is done wakes the loop
            declined = runtime.declined.ids(now)
            # Those at work are still ours. One that only newer code can handle is stored as due at once, and a claim that
            # comes just then would keep it from a worker with that code for a lease.
            passed_over = declined | at_work if len(at_work) <= _FEW else declined
            claimed: list[tuple[str, datetime]] = []
            if not await self._nothing_else(runtime, now, passed_over):
                claimed = await runtime.due.claim(now, until, limit=room)
            self.scanned_at = self._engine.loop.time()
            if claimed or not seen:  # that nothing more is due is no news
                hooks.scanned(runtime.name, len(claimed), claimed[0][1] if claimed else None, self._engine.now())
            if not claimed:
                return await self._following(runtime, upcoming, declined)
            # What is due again right after its claim waits for a lease, so that it is not claimed again and again.
            ready = [key for key, _ in claimed if key not in seen and key not in declined and key not in at_work]
            seen.update(ready)
            at_work.update(ready)
            for key in ready:
                self._hand_out(cache, key)
            await asyncio.sleep(0)
        return None

    async def hand_out_all(self, cache: InstanceCache, now: datetime) -> None:
        """Hand out what is due at `now`, unless it was handed out for that moment and has not changed since.

        For a runner that is alone on the journal. Nothing is claimed: a claim would hold by a clock that stands still once
        the log ends, so that a run that is killed would keep what it has claimed from the next one.
        """
        runtime = cache.runtime
        at_work, before = self._at_work[runtime.name], self._handed_out[runtime.name]
        found = await runtime.due.due(now, limit=_PAGE + len(before))
        handed_out = self._handed_out[runtime.name] = {key: before[key] for key, _ in found if key in before}
        for key, _ in found:
            if key in at_work:
                continue
            as_it_is = (now, await _version_of(cache, key, look=key in handed_out))
            if handed_out.get(key) != as_it_is:
                handed_out[key] = as_it_is
                at_work.add(key)
                self._hand_out(cache, key)

    async def _nothing_else(self, runtime: SagaRuntime, now: datetime, passed_over: frozenset[str]) -> bool:
        """Say whether all that is due is to be passed over: a claim would only keep it from the other workers."""
        if not passed_over:
            return False
        waiting = await runtime.due.due(now, limit=_PAGE)
        return len(waiting) < _PAGE and all(key in passed_over for key, _ in waiting)

    async def _following(
        self, runtime: SagaRuntime, upcoming: datetime | None, declined: frozenset[str]
    ) -> datetime | None:
        if upcoming is None:
            return None
        following = await runtime.due.due(upcoming, limit=1 + len(declined))
        first = next((at for key, at in following if key not in declined), None)
        again = runtime.declined.first_until
        return first if again is None else again if first is None else min(first, again)

    def _hand_out(self, cache: InstanceCache, correlation_id: str) -> None:
        """Let the next round fire and take over what is due. Nobody waits here: an instance that hangs delays no other."""
        instance = cache.instance(correlation_id)
        if not instance.deliveries.delivering:
            instance.read_again()  # another worker may have dealt with it
        claim = Envelope(Claim(), future=self._engine.loop.create_future())
        assert claim.future is not None
        claim.future.add_done_callback(lambda _: self._claimed(cache, instance, claim))
        instance.poke(claim)
        self.handed_out += 1

    def _claimed(self, cache: InstanceCache, instance: Instance, claim: Envelope) -> None:
        runtime, correlation_id, error = cache.runtime, instance.correlation_id, claim.error
        self._at_work[runtime.name].discard(correlation_id)
        if self._full:
            self._full = False
            self._wake.set()
        if error is None:
            if not instance.cached.loaded:  # a finished one is not kept in memory
                self._purger.add(cache, correlation_id)
        elif isinstance(error, SagaParkedError):  # logged already; another worker's code may be able to read it
            runtime.declined.add(correlation_id, self._engine.now())
        elif not isinstance(error, RunnerStoppedError):
            told = told_of_store(error)
            log.warning(
                "saga %s, id %s: due work waits: %s", runtime.name, correlation_id, told, extra=instance.about()
            )


async def _version_of(cache: InstanceCache, correlation_id: str, *, look: bool) -> int:
    """Return the version of an instance; of one that is not in memory only if it is worth a `look` at the store."""
    known = cache.instances.get(correlation_id)
    if known is not None and known.cached.loaded:
        return known.cached.version
    saved = await cache.runtime.load(correlation_id) if look else None
    return -1 if saved is None else saved.version
