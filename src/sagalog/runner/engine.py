"""What the phases of one running runner share."""

from __future__ import annotations

import asyncio
import inspect
import os
import weakref
from collections.abc import Callable, Coroutine
from contextvars import Context
from datetime import datetime, timedelta
from itertools import count
from typing import Any

from ..errors import DefinitionError
from ..logs import about, log, trace_of
from ..waiting import is_set_within, start_task
from .awaited import Awaited
from .clock import Clock, in_utc
from .counters import Counters
from .failures import not_handled, told_of_store
from .settings import InSeconds, RunnerSettings
from .telling import Hooks
from .timing import Timing, timing_of

_OTHER_LOOP = (
    "this runner was started in another event loop, or before this process was forked, and can be used only there: from "
    "another thread use asyncio.run_coroutine_threadsafe(runner.handle(...), its_loop); in a forked process start a "
    "runner of its own; nothing was stored"
)

COMPLAIN_SECONDS = 60.0
STRETCH_SECONDS = 0.005  # how long the event loop is held in one go, however much there is to do


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _forked() -> None:
    """In a forked process, refuse every use of the runner: its event loop has no threads there."""
    for engine in list(_engines):
        engine.loop = _FORKED


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
_FORKED: Any = object()


def has_begun(task: asyncio.Task[Any]) -> bool:
    """Say whether a task has begun to run. One that is cancelled before that runs no line, and nobody is told."""
    work = task.get_coro()
    return not inspect.iscoroutine(work) or inspect.getcoroutinestate(work) != inspect.CORO_CREATED


class Engine:
    """Settings, clock, counters, background tasks and the stop signal; made by `SagaRunner` when it starts."""

    def __init__(
        self,
        settings: RunnerSettings,
        clock: Clock,
        counters: Counters,
        context: Context,
        hooks: Hooks,
        *,
        client: bool = False,
        resources: Any = None,
    ) -> None:
        self._context = context
        self.settings = settings
        self.seconds: InSeconds = InSeconds.of(settings)
        self.clock = clock
        self.client = client  # it takes events, and leaves commands, timers and what is due to the workers
        self.resources = resources
        self.now: Callable[[], datetime] = in_utc(clock)
        self.timing: Timing = timing_of(clock, self.now)
        self.alone: bool = self.timing.alone
        self.retention: timedelta = self.timing.kept_for(settings.retention)
        self.counters = counters
        self.hooks = hooks
        self.lease: timedelta = settings.lease
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        _engines.add(self)
        self.stopping: asyncio.Event = asyncio.Event()
        self.cancelled: bool = False
        self.abandoned: bool = False
        self.awaited: Awaited = Awaited()  # calls that wait until an instance has ended
        self.backlog = 0  # instances that wait for a free place to deliver; kept by lanes.py
        self.transactions: dict[int, Any] = {}  # open ones of callers, by their connection; kept by in_transaction.py
        self._complaints: dict[tuple[str, str], float] = {}  # what failed, and why: logged when, in the loop's time
        self._writes: dict[int, float] = {}  # writes without an answer, and since when, in the loop's time
        self._write_numbers = count()
        # Callers that run a round in their own task, and what `wait_for_tasks` waits for.
        self._lone: dict[asyncio.Task[Any], asyncio.Future[None] | None] = {}
        self.lasting: asyncio.Task[Any] | None = None  # as long as the runner does not stop
        # In the order they began, so that a seed of the simulation always gives the same run; and which of them write.
        self._tasks: dict[asyncio.Task[Any], bool] = {}

    def check_loop(self) -> None:
        """Raise DefinitionError unless this is the event loop in which the runner was started."""
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:  # this process was forked while the loop ran
            here = None
        if here is not self.loop:
            raise DefinitionError(_OTHER_LOOP)

    def spawn(self, work: Coroutine[Any, Any, Any], *, writes: bool = False) -> asyncio.Task[Any]:
        """Run `work` in the background, in the context of the runner's start; its errors are logged.

        `wait_for_tasks` waits for it. With `writes` it is cancelled only as a last resort, because the journal is to answer
        what is on its way to it.
        """
        task = start_task(work, loop=self.loop, context=self._context.copy())
        self._tasks[task] = writes
        task.add_done_callback(self._done)
        return task

    def spawn_unattended(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run `work` as `spawn` does, except that nobody waits for it: who started it ends it, and hears of its errors."""
        return start_task(work, loop=self.loop, context=self._context.copy())

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a background task failed: %s", type(error).__name__, exc_info=trace_of(error), extra=about())

    def complain(self, what: str, error: BaseException, saga: str | None = None) -> str:
        """Log what failed and is tried again: a new reason at once, one that was given before once a minute.

        Return the reason.
        """
        told, now = told_of_store(error), self.loop.time()
        complaints = {of: at for of, at in self._complaints.items() if now - at < COMPLAIN_SECONDS}
        if (what, told) not in complaints:
            self._complaints = {**complaints, (what, told): now}
            log.warning("%s failed: %s", what, told, extra=about(saga=saga))
        return told

    def succeeded(self, what: str) -> None:
        """Forget the complaints about it, so that the next one is logged at once."""
        if self._complaints:
            self._complaints = {of: at for of, at in self._complaints.items() if of[0] != what}

    def cancelled_by_handler(self, error: BaseException) -> bool:
        """Say whether a handler has cancelled the task that runs it; that task then goes on.

        Nobody else cancels a task of the runner before the runner stops, unless it is all of them: as asyncio.run does at
        its end.
        """
        task, lasting = asyncio.current_task(), self.lasting
        if not isinstance(error, asyncio.CancelledError) or self.cancelled or task not in self._tasks:
            return False
        if lasting is not None and (lasting.done() or lasting.cancelling()):
            return False
        while task.uncancel():
            pass
        return True

    def check_not_of_ours(self, what: str) -> None:
        """Raise DefinitionError if a task of this runner makes a call that waits until all of its tasks have ended."""
        if asyncio.current_task() in self._tasks:
            raise DefinitionError(f"{what} waits until every handler has ended, so a handler cannot wait for it")

    def write_begins(self) -> int:
        """Note that a write is on its way; `write_ends` takes what this returns."""
        number = next(self._write_numbers)
        self._writes[number] = self.loop.time()
        return number

    def write_ends(self, number: int) -> None:
        """Note that a write was answered."""
        del self._writes[number]

    @property
    def unanswered_seconds(self) -> float:
        """How long the oldest write has been on its way."""
        oldest = next(iter(self._writes.values()), None)
        return 0.0 if oldest is None else self.loop.time() - oldest

    async def wait_for_tasks(self, seconds: float | None = None) -> None:
        """Return when no background task is left, including those started meanwhile, or after `seconds`."""
        end = None if seconds is None else self.loop.time() + seconds
        while self.busy and (end is None or self.loop.time() < end):
            for task, done in self._lone.items():
                self._lone[task] = done or self.loop.create_future()
            waits = [*self._tasks, *(done for done in self._lone.values() if done is not None)]
            await asyncio.wait(waits, timeout=None if end is None else end - self.loop.time())

    @property
    def busy(self) -> bool:
        """A background task, or a round in a caller's task, is running."""
        return bool(self._tasks or self._lone)

    def cancel_tasks(self) -> None:
        """Cancel all background tasks except those that write. No turn is begun any more."""
        self.cancelled = True
        for task, writing in list(self._tasks.items()):
            if not writing:
                self._cancel(task)

    def abandon(self) -> None:
        """Cancel also the tasks that write, because the journal does not answer."""
        self.cancelled = self.abandoned = True
        for task in (*self._tasks, *self._lone):
            self._cancel(task)

    def lone_begins(self) -> asyncio.Task[Any]:
        """Note that a caller runs a round in its own task; `lone_ends` takes what this returns."""
        task = asyncio.current_task()
        assert task is not None
        self._lone[task] = None
        return task

    def lone_ends(self, task: asyncio.Task[Any]) -> None:
        """Note that the round of that caller is over."""
        done = self._lone.pop(task)
        if done is not None and not done.done():
            done.set_result(None)

    def _cancel(self, task: asyncio.Task[Any]) -> None:
        if has_begun(task):
            task.cancel()
        else:
            self.loop.call_soon(self._cancel, task)

    async def back_off(self, seconds: float) -> None:
        """Wait before another attempt. Raises RunnerStoppedError as soon as the runner stops."""
        if await is_set_within(self.stopping, seconds):
            raise not_handled()
