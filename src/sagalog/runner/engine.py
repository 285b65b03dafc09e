"""What the phases of one running runner share."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import copy_context
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ..errors import DefinitionError, RunnerStoppedError
from ..logs import about, log, trace_of
from .clock import Clock, EventClock
from .context import running_handler
from .counters import Counters
from .hooks import Hooks
from .settings import RunnerSettings

if TYPE_CHECKING:
    from .dispatch import Dispatcher
    from .due import DueLoop

_OTHER_LOOP = (
    "this runner was started in another event loop, or before this process was forked, and can be used only there: from "
    "another thread use asyncio.run_coroutine_threadsafe(runner.handle(...), its_loop); in a forked process start a runner "
    "of its own; nothing was stored"
)


class Engine:
    """Settings, clock, counters, background tasks and the stop signal; made by `SagaRunner` when it starts."""

    dispatcher: Dispatcher
    due_loop: DueLoop

    def __init__(self, settings: RunnerSettings, clock: Clock, counters: Counters, hooks: Hooks | None = None) -> None:
        self.settings = settings
        self.clock = clock
        self.event_time = isinstance(clock, EventClock)
        self.counters = counters
        self.hooks = hooks
        self.now = clock.now
        self.lease = timedelta(seconds=settings.lease_seconds)
        self.loop = asyncio.get_running_loop()
        self.stopping = asyncio.Event()
        self.cancelled = False
        self._tasks: dict[asyncio.Task[Any], None] = {}  # in the order they were begun, so that a seed is a story

    def check_loop(self) -> None:
        """Raise DefinitionError unless the event loop that the runner was started in is the one that runs here."""
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:  # this process was forked off while the loop ran
            here = None
        if here is not self.loop:
            raise DefinitionError(_OTHER_LOOP)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run `work` in the background; `wait_for_tasks` waits for it. Its errors are logged."""
        if running_handler.get() is None:
            task = self.loop.create_task(work)
        else:  # no event handler waits for what is done in the background
            context = copy_context()
            context.run(running_handler.set, None)
            task = self.loop.create_task(work, context=context)
        self._tasks[task] = None
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a background task failed: %s", type(error).__name__, exc_info=trace_of(error), extra=about())

    def is_own(self, task: asyncio.Task[Any]) -> bool:
        """Say whether `spawn` made this task."""
        return task in self._tasks

    async def wait_for_tasks(self) -> None:
        """Return when no background task is left, also none that another one started."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    def cancel_tasks(self) -> None:
        """Cancel what still runs in the background; nothing is begun again."""
        self.cancelled = True
        for task in list(self._tasks):
            task.cancel()

    async def back_off(self, seconds: float) -> None:
        """Wait before another try. Raises RunnerStoppedError as soon as the runner stops."""
        try:
            await asyncio.wait_for(self.stopping.wait(), seconds)
        except TimeoutError:
            return
        raise RunnerStoppedError("the runner stopped before the event was handled; nothing of it was stored")
