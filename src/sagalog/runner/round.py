"""Rounds: everything that has arrived goes through the phases together; each phase works on what the last one returns.

    queue ─► load ─► decide ─► commit ─► settle ─► deliver

While a round is written, the next one is decided. An instance that has to wait (for a lookup, an `async def` handler, a
pause) leaves the round with a task of its own, and comes back afterwards. However many instances there are, no stretch
holds the event loop for more than some milliseconds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from contextlib import suppress
from datetime import datetime

from ..errors import OutcomeUnknownError, PayloadTooLargeError, RunnerStoppedError
from ..journal import Journal
from .commit import Write, write_all, write_of, write_one
from .decide import GaveWay, decide, decide_slowly, replays
from .deliver import Dispatcher
from .due import DueLoop
from .engine import STRETCH_SECONDS, Engine
from .envelope import Envelope, Maintenance, takes_over
from .failures import as_exception, cancellations, not_handled, passes_through
from .instance import Instance, Unanswered
from .load import Loader
from .queue import Queue
from .settle import Pause, abandon, give_up, settle, tell
from .turn import Turn, begin, may_begin

_MAX_WRITES = 2  # rounds that are being written
_SLOW_AT_ONCE = 256  # turns that were decided elsewhere, of one round


class Rounds:
    """Drives the rounds of a runner, in a task that lives as long as there is something to do."""

    def __init__(self, engine: Engine, queue: Queue[Instance], dispatcher: Dispatcher, due: DueLoop) -> None:
        self._engine = engine
        self._queue = queue
        self._dispatcher = dispatcher
        self._due = due
        self._loader = Loader(engine, self._loaded)
        self._slowly: set[Turn] = set()  # turns that are decided in tasks of their own ...
        self._slow: deque[Turn] = deque()  # ... and that were
        self._deliveries: deque[Instance] = deque()
        self._drivers = 0
        self._just_now = False  # a caller has run a round since the event loop last turned
        self._coming = False  # a driver is going to take what is ready
        queue.driver = self

    def wake(self) -> None:
        """Start a round soon."""
        if not self._coming and self._drivers < _MAX_WRITES:
            self._coming = True
            self._drivers += 1
            self._engine.spawn(self._drive(), writes=True)

    def idle(self) -> bool:
        """Say whether no round is under way, none was asked for, and none was run just now."""
        return self._drivers == 0 and not self._just_now

    async def run_lone(self, instance: Instance) -> None:
        """Carry one instance through a round of its own, in the task of its caller: a lone caller waits for no task.

        At most once in each turn of the event loop: many that come at once share rounds, which give way to others.
        """
        self._drivers += 1
        self._just_now = True
        self._engine.loop.call_soon(self._loop_turned)
        lone, asked = self._engine.lone_begins(), cancellations()
        try:
            now, before = self._engine.now(), cancellations()
            turns: list[Turn] = []
            if may_begin(instance, now):
                self._begin(instance, turns, now)
            else:
                self._loader.add(instance)
                self._loader.flush()
            if turns:
                await self._uncancel(before)
                await self._commit(turns)
                before = cancellations()
                await self._deliver()
                await self._uncancel(before)
        except asyncio.CancelledError:
            if not self._engine.abandoned or lone.uncancel() > asked:
                raise  # its caller was cancelled; otherwise the journal does not answer, and those who wait are told
        finally:
            self._engine.lone_ends(lone)
            self._drivers -= 1
            if self._has_work:
                self.wake()

    @property
    def _has_work(self) -> bool:
        return bool(self._queue.instances or self._slow or self._deliveries)

    def _loop_turned(self) -> None:
        self._just_now = False

    async def _drive(self) -> None:
        try:
            while self._has_work:
                self._coming = True
                turns = self._decide()
                self._coming = False
                await self._uncancel(0)
                await self._commit(turns)
                await self._deliver()
                await self._uncancel(0)
                if self._queue.instances or self._slow:
                    await asyncio.sleep(0)
        finally:
            self._coming = False
            self._drivers -= 1
            if self._has_work:  # this task was cancelled
                self.wake()

    async def _uncancel(self, before: int) -> None:
        """Go on if a plain handler has cancelled the task that runs it, because that task is not the handler's."""
        task = asyncio.current_task()
        while task is not None and task.cancelling() > before and not self._engine.cancelled:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
            task.uncancel()

    def _decide(self) -> list[Turn]:
        """Decide what is ready, for some milliseconds, and start reading what is not in memory."""
        time = self._engine.loop.time
        give_way_at = time() + STRETCH_SECONDS
        turns = [self._slow.popleft() for _ in range(min(len(self._slow), _SLOW_AT_ONCE))]
        queue, now = self._queue, self._engine.now()
        try:
            while queue.instances:
                instance = queue.take()
                mailbox = instance.mailbox
                if mailbox and mailbox[0].over:
                    instance.leave_only([envelope for envelope in mailbox if not envelope.over])
                if self._engine.cancelled:
                    self._refuse(instance)
                if not mailbox:
                    instance.cache.done(instance)
                elif not may_begin(instance, now):
                    self._loader.add(instance)
                else:
                    self._begin(instance, turns, now)
                if time() > give_way_at:
                    break
        except BaseException:  # the program ends, but what was decided is still written
            self._slow.extend(turns)
            raise
        finally:
            self._loader.flush()
        return turns

    def _begin(self, instance: Instance, turns: list[Turn], now: datetime) -> None:
        if instance.cached.fresh and not takes_over(instance.mailbox[0].content):  # which decide who delivers
            self._deliver_later(instance)
        turn = begin(instance, now)
        try:
            more = decide(turn)
        except BaseException as error:
            self._undecided(turn, error)
            if passes_through(error):
                raise
        else:
            if more is None:
                turns.append(turn)
            else:
                task = self._engine.spawn(self._decide_slowly(turn, more))
                # Its caller may withdraw before the task begins.
                if not (replays(turn) or isinstance(more, GaveWay)):
                    instance.works_on(turn.batch[turn.at], task)

    @staticmethod
    def _undecided(turn: Turn, error: BaseException) -> None:
        """Tell those in a turn what was raised, or put them back if only the task that decided it was cancelled."""
        if passes_through(error):
            abandon(turn)
        else:
            give_up(turn, as_exception(error, "a turn"))
        turn.instance.cache.done(turn.instance)

    def give_up_handlers(self) -> None:
        """Answer all who wait for a handler that ignores its cancellation. What it does later is not stored."""
        left, self._slowly = self._slowly, set()
        for turn in left:
            tell(turn.instance, [*turn.batch, *turn.instance.take_all()], not_handled())

    async def _decide_slowly(self, turn: Turn, first: Awaitable[None] | GaveWay) -> None:
        self._slowly.add(turn)
        try:
            await decide_slowly(turn, first)
        except BaseException as error:
            self._undecided(turn, error)
            withdrawn = isinstance(error, asyncio.CancelledError) and not self._engine.cancelled
            if passes_through(error) and not withdrawn:
                raise
        else:
            if turn in self._slowly:
                self._slow.append(turn)
                self.wake()
        finally:
            self._slowly.discard(turn)

    def _loaded(self, instance: Instance, error: BaseException | None) -> None:
        """Its record was read, or could not be."""
        if error is None:
            self._queue.leave(instance)
            self._queue.add(instance)
            return
        tell(instance, instance.take_all(), error)
        instance.cache.done(instance)

    def _refuse(self, instance: Instance) -> None:
        """The time for stopping has run out: record acceptances only, and refuse the rest."""
        kept: list[Envelope] = []
        refused: list[Envelope] = []
        for envelope in instance.mailbox:
            records = envelope.content is Maintenance.RECORD and not self._engine.abandoned
            (kept if records else refused).append(envelope)
        if refused:
            instance.leave_only(kept)
            tell(instance, refused, not_handled())

    async def _commit(self, turns: list[Turn]) -> None:
        """Write all that was decided in one go, and settle each turn by its own answer."""
        batches: dict[Journal, list[Write]] = {}
        now = self._engine.now()
        for turn in turns:
            try:
                write = (
                    None if turn.stale else write_of(turn, self._dispatcher.declines, self._dispatcher.gates.shut, now)
                )
            except PayloadTooLargeError as error:
                self._settle(turn, None, error)
                continue
            except Exception as error:
                give_up(turn, error)
                turn.instance.cache.done(turn.instance)
                continue
            if write is None:
                self._settle(turn, None, None)
                continue
            turn.reporter.writing()
            journal = turn.instance.runtime.journal
            if journal is None:
                self._engine.spawn(self._write_one(write), writes=True)
            else:
                batches.setdefault(journal, []).append(write)
        for journal, writes in batches.items():
            await self._write(journal, writes)

    async def _write(self, journal: Journal, writes: list[Write]) -> None:
        answers = None
        begun = self._engine.write_begins()
        try:
            answers = await write_all(journal, writes)
        finally:
            self._engine.write_ends(begun)
            if answers is None:
                self._cut_off(writes)
        for write, answer in zip(writes, answers, strict=True):
            self._settle(write.turn, write, answer)

    async def _write_one(self, write: Write) -> None:
        answered = False
        begun = self._engine.write_begins()
        try:
            error = await write_one(write)
            answered = True
        finally:
            self._engine.write_ends(begun)
            if not answered:
                self._cut_off([write])
        self._settle(write.turn, write, error)
        await self._deliver()

    def _cut_off(self, writes: list[Write]) -> None:
        """Settle writes whose task was ended in the middle."""
        for write in writes:
            unknown = OutcomeUnknownError(
                f"{write.turn.instance.persistence_id}: the runner was stopped while the step was being written, so it may "
                "or may not be stored. Send the event again under the same message id."
            )
            if self._engine.cancelled:
                give_up(write.turn, unknown)
                write.turn.instance.cache.done(write.turn.instance)
            else:
                self._settle(write.turn, write, unknown)

    def _look_for(self, write: Write) -> None:
        """Let the commands leave of a write that lands although nobody waits for it."""
        from .landing import look_for  # it is seldom needed

        unknown = write.turn.instance.unknown
        if unknown is None:  # the callers were told already
            unknown = Unanswered(write.version, write.payload, write.new_entries, write.lease_end)
        look_for(write.turn.instance, unknown)

    def _settle(self, turn: Turn, write: Write | None, error: BaseException | None) -> None:
        instance = turn.instance
        if write is not None:
            turn.reporter.written(write.version, write.record, error)
        try:
            pause = settle(turn, write, error)
        except Exception as raised:  # a bug here must not let anybody wait for ever
            give_up(turn, raised)
            pause = None
        if write is not None and write.new_entries and isinstance(error, OutcomeUnknownError):
            self._look_for(write)
        if error is None and not turn.stale and instance.deliveries.carries_out:
            self._dispatcher.cut(instance, turn.draft.record)
        if write is not None and error is None and write.due_at is not None:
            self._due.notice(write.due_at)
        if error is None and instance.cached.loaded:
            self._deliver_later(instance)
        if pause is None:
            instance.cache.done(instance)
        else:
            task = self._engine.spawn(self._pause(instance, pause))
            if pause.envelope is not None:
                instance.works_on(pause.envelope, task)

    async def _pause(self, instance: Instance, pause: Pause) -> None:
        try:
            await self._engine.back_off(pause.seconds)
        except RunnerStoppedError as stopped:
            if pause.envelope is not None:
                pause.envelope.fail(stopped)
        except asyncio.CancelledError:
            if self._engine.cancelled:  # otherwise, its caller has withdrawn
                raise
        finally:
            instance.works_no_more()
            instance.cache.done(instance)

    def _deliver_later(self, instance: Instance) -> None:
        record = instance.cached.record
        if record is not None and record.outbox and not instance.to_deliver:
            instance.to_deliver = True
            self._deliveries.append(instance)

    async def _deliver(self) -> None:
        """Let the commands of stored records leave; plain command handlers are called here."""
        time = self._engine.loop.time
        give_way_at = time() + STRETCH_SECONDS
        while self._deliveries:
            instance = self._deliveries.popleft()
            instance.to_deliver = False
            self._dispatcher.release(instance)
            if time() > give_way_at:
                await asyncio.sleep(0)
                give_way_at = time() + STRETCH_SECONDS
