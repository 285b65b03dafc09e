"""Waiting before another attempt: one policy for all who try again, bounded, with a pause, and cancellable.

    attempts = Attempts(Waiting(seconds=10))
    while True:
        try:
            return await work()
        except BusyError:
            if not await attempts.wait():
                raise

Its own few lines rather than a library: the core needs it where nothing but msgspec is installed, on the event loop and in
threads, and under a simulation that gives the time and the randomness.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from contextvars import Context
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

# Counts seconds that nobody can set, and goes on while the machine is suspended, where the system can tell that.
elapsed: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)

_NO_TIME = 1e-6  # seconds: what is left of a sum of pauses may be too little to move a clock that only the pauses move


class CountedTime:
    """A time that a server has told, counted on by seconds that nobody can set, as this machine's clock may be.

    `at_seconds`: when it was told, by `elapsed`; None: just now.
    """

    __slots__ = ("_told", "at_seconds")

    def __init__(self, told: datetime, at_seconds: float | None = None) -> None:
        self._told = told
        self.at_seconds: float = elapsed() if at_seconds is None else at_seconds

    def now(self) -> datetime:
        """Return the server's time."""
        return self._told + timedelta(seconds=elapsed() - self.at_seconds)


class Waiting(msgspec.Struct, frozen=True):
    """How often something is tried, and how long is waited in between.

    The wait before attempt n + 1 is drawn between half and all of `first * factor**(n - 1)` seconds, never more than
    `most` (equal jitter), so that many that failed together do not come back together. There are `attempts` in all, and
    none begins later than `seconds` after the first; None: no such bound. With neither, only a cancellation ends it.
    """

    attempts: int | None = None
    first: float = 0.01
    factor: float = 2.0
    most: float = 0.5
    seconds: float | None = None

    def pause_seconds(self, failures: int, elapsed: float, chance: float) -> float | None:
        """Return how long to wait after so many failures (from 1), or None if that was the last attempt.

        `elapsed`: seconds since the first attempt; `chance`: from 0 to 1.
        """
        if self.attempts is not None and failures >= self.attempts:
            return None
        bound = min(self.most, self.first * self.factor ** min(failures - 1, 60))
        pause = bound * (0.5 + chance / 2)
        if self.seconds is None:
            return pause
        left = self.seconds - elapsed
        return min(pause, left) if left > _NO_TIME else None


class Attempts:
    """The attempts at one thing under a policy. The first one has begun when this is made."""

    def __init__(
        self,
        waiting: Waiting,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._waiting = waiting
        self._clock = clock
        self._chance = chance
        self._begun = clock()
        self.failures: int = 0

    def failed(self) -> float | None:
        """Count a failure; return how long to wait before the next attempt, None if there is none."""
        self.failures += 1
        return self._waiting.pause_seconds(self.failures, self._clock() - self._begun, self._chance())

    def reset(self) -> None:
        """Begin anew: something has changed, so that the failures so far say nothing."""
        self.failures = 0
        self._begun = self._clock()

    async def wait(self) -> bool:
        """Wait before the next attempt; return False at once if that was the last one."""
        pause = self.failed()
        if pause is None:
            return False
        await asyncio.sleep(pause)
        return True

    def wait_in_thread(self) -> bool:
        """As `wait`, where there is no event loop to give way to."""
        pause = self.failed()
        if pause is None:
            return False
        time.sleep(pause)
        return True


async def is_set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event for so long at most, and say whether it is set."""
    if seconds <= 0:  # asyncio would not even look
        await asyncio.sleep(0)
        return event.is_set()
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True


def start_task(
    work: Coroutine[Any, Any, T],
    *,
    loop: asyncio.AbstractEventLoop | None = None,
    context: Context | None = None,
    name: str | None = None,
) -> asyncio.Task[T]:
    """Start a task, by default in the running event loop. It begins with the next turn of the loop, and never before.

    With `asyncio.eager_task_factory`, a task of the loop itself begins at once, so it may have ended before its starter has
    noted that there is one.
    """
    if loop is None:
        loop = asyncio.get_running_loop()
    if loop.get_task_factory() is None:
        return loop.create_task(work, name=name, context=context)
    return asyncio.Task(work, loop=loop, name=name, context=context)


async def end_within(seconds: float, work: Coroutine[Any, Any, None]) -> None:
    """Await it for so long, then cancel it and raise TimeoutError, also where it swallows the cancellation."""
    task = start_task(work)
    try:
        await asyncio.wait([task], timeout=seconds)
    finally:
        task.cancel()
    if not task.done():
        raise TimeoutError
    task.result()
