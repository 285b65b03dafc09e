"""Hears of ends that other workers wrote: one task for all calls that wait, and none while none does.

    journal ─► [follower] ─► awaited ─► the calls that wait

What a call begins to wait for is looked up, many at a time. From then on what is new in the journal is read, however many
calls wait, where the journal can be followed. Where it cannot, and for the rare record that a follower misses (purged
before it came to it), some are looked up again at an interval, in turn, and never more than _AT_ONCE.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from itertools import islice

from ..errors import JournalFormatError, JournalUnavailableError, RunnerStoppedError, SagalogError
from ..journal import Journal
from ..journal.protocol import Followable
from ..journal.state_store import SavedState
from ..journal.store import saved_of
from ..logs import about, log, trace_of
from .awaited import Waiter
from .engine import Engine
from .failures import passes_through, told_of_store
from .runtime import SagaRuntime

_MAX_PAUSE = 5.0  # while the journal does not answer
_AGAIN_SECONDS = 5.0  # those that a follower may have missed are looked up again, some at a time
_AT_ONCE = 256  # ids of one lookup
_PAGE = 1000  # records that are followed in one go ...
_PAGES = 20  # ... and how many of these in one interval


class Follower:
    """Follows the journal of a runner, or looks into its stores, while anybody waits."""

    def __init__(self, engine: Engine, journal: Journal | None, runtimes: Iterable[SagaRuntime]) -> None:
        self._engine = engine
        self._journal = journal
        self._runtimes = {one.name: one for one in runtimes}
        self._awaited = engine.awaited
        self._interval = engine.seconds.outcome_poll
        self._offset: int | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._new: dict[Waiter, None] = {}  # not looked up yet
        self._follow_at = self._again_at = 0.0
        self._turns: list[str] = []  # ids that are still to be looked up again, before all of them are once more
        self.trouble: str = ""  # why the journal could not be asked

    def add(self, waiter: Waiter) -> None:
        """Let a call wait."""
        self._awaited.add(waiter)
        self._new[waiter] = None
        self._wake.set()
        if self._task is None:
            self._task = self._engine.spawn_unattended(self._run())
            self._task.add_done_callback(_ended)

    def remove(self, waiter: Waiter) -> None:
        """Its call is over."""
        self._awaited.remove(waiter)
        self._new.pop(waiter, None)
        if not self._awaited:
            self._wake.set()

    async def stop(self) -> None:
        """Fail all calls that wait, and end."""
        self._awaited.fail_all(
            RunnerStoppedError(
                "the runner stopped while a caller waited for an outcome; the instance continues on any other worker"
            )
        )
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait([task], timeout=_MAX_PAUSE)

    async def _run(self) -> None:
        pause = self._interval
        try:
            while self._awaited:
                self._wake.clear()
                try:
                    await self._look()
                except BaseException as error:  # whatever a store raises: each waiting call has its own time limit
                    if passes_through(error):
                        raise
                    pause = min(2 * pause, _MAX_PAUSE)
                    self._complain(told_of_store(error))
                else:
                    self.trouble, pause = "", self._interval
                if self._awaited:
                    await self._sleep(pause)
        finally:  # in the moment in which nobody waits any more: the next call starts a task
            self._task, self._offset = None, None

    def _complain(self, trouble: str) -> None:
        if trouble != self.trouble:
            log.warning("looking for the outcomes that are waited for failed: %s", trouble, extra=about())
        self.trouble = trouble

    async def _sleep(self, seconds: float) -> None:
        if self.trouble:  # nor sooner for calls that come meanwhile
            await asyncio.sleep(seconds)
            return
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _look(self) -> None:
        journal = self._journal
        if journal is None:
            await self._look_into_stores()
            return
        follows = isinstance(journal, Followable)
        if isinstance(journal, Followable) and self._offset is None:
            self._offset = await journal.newest_offset()  # before anybody is looked up: nothing comes in between
        while self._new:
            await self._look_up(journal, list(islice(self._new, _AT_ONCE)))
        now = self._engine.loop.time()
        if now < self._follow_at:  # woken by a call that has come meanwhile
            return
        self._follow_at = now + self._interval / 2
        if isinstance(journal, Followable):
            await self._follow(journal)
        if not follows or now >= self._again_at:
            self._again_at = now + _AGAIN_SECONDS
            await self._look_up(journal, self._in_turn(_AT_ONCE))

    async def _follow(self, journal: Followable) -> None:
        by_id = self._awaited.by_id
        for _ in range(_PAGES):
            assert self._offset is not None
            try:
                records, offset = await journal.records_after(self._offset, limit=_PAGE)
            except JournalUnavailableError:
                raise
            except SagalogError:  # one record that its journal cannot read: look everybody up, and go on behind it
                self._offset = await journal.newest_offset()
                self._new.update((waiter, None) for waiters in by_id.values() for waiter in waiters)
                raise
            for record in records:
                for waiter in list(by_id.get(record.persistence_id, ())):
                    waiter.payload_written(record.payload, record.sequence_nr, deleted=record.deleted)
                    if waiter.missed:
                        self._new[waiter] = None
            done = offset == self._offset or len(records) < _PAGE
            self._offset = offset
            if done:
                return

    async def _look_up(self, journal: Journal, waiters: Sequence[Waiter]) -> None:
        if not waiters:
            return
        asked: dict[str, list[Waiter]] = {}
        for waiter in waiters:
            waiter.looks()
            asked.setdefault(waiter.persistence_id, []).append(waiter)
        try:
            found = await journal.latest_messages(list(asked))
        except JournalFormatError:  # one of them is damaged: the others do not wait for it
            for key, of_one in asked.items():
                await self._look_up_one(journal, key, of_one)
            return
        for of_one, latest in zip(asked.values(), found, strict=True):
            for waiter in of_one:
                self._read(waiter, None if latest is None else saved_of(latest))

    async def _look_up_one(self, journal: Journal, key: str, waiters: Sequence[Waiter]) -> None:
        try:
            (latest,) = await journal.latest_messages([key])
        except JournalFormatError as error:
            for waiter in waiters:
                self._new.pop(waiter, None)
                waiter.damaged(error)
            return
        for waiter in waiters:
            self._read(waiter, None if latest is None else saved_of(latest))

    def _read(self, waiter: Waiter, saved: SavedState | None) -> None:
        if saved is None:
            waiter.read(None, 0, deleted=False)
        else:
            waiter.read(saved.payload, saved.version, deleted=saved.tombstone)
        if not waiter.missed:
            self._new.pop(waiter, None)
        elif not waiter.future.done():  # else nobody is left to look for
            self._new[waiter] = None

    async def _look_into_stores(self) -> None:
        """Look each up by itself: a store has no other way. What this runner writes is told at once."""
        waiters = list(islice(self._new, _AT_ONCE)) or self._in_turn(_AT_ONCE // 8)
        for waiter in waiters:
            waiter.looks()
            self._read(waiter, await self._runtimes[waiter.saga].load(waiter.correlation_id))

    def _in_turn(self, most: int) -> list[Waiter]:
        """Return the next ones to be looked up again."""
        by_id = self._awaited.by_id
        turns = self._turns = self._turns or list(by_id)
        some, self._turns = turns[-most:], turns[:-most]
        return [waiter for one in some for waiter in by_id.get(one, ())]


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        name = type(error).__name__
        log.critical(
            "following the journal for callers that wait failed: %s", name, exc_info=trace_of(error), extra=about()
        )
