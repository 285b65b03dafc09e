"""What all parts of one simulated run share: its chance, its story, what is stored, and what is wrong."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

from ...definition.saga import Saga
from ...runner import NoInstance, RetryPolicy, RunnerSettings
from .chance import Chance, Without
from .ledger import Ledger
from .outside import Outside
from .world import World


class Situation:
    """`story` is what happened, a line each. `ledger` and `outside` are there from the start of the run."""

    ledger: Ledger
    outside: Outside

    def __init__(self, sagas: list[Saga[Any]], world: World, seed: int, without: Without) -> None:
        self.sagas = sagas
        self.world = world
        self.without = without
        self.chance: Chance = Chance(seed, without)
        self.settings: RunnerSettings = _settings(world, self.chance.random)
        self.story: list[str] = []
        self.counters: Counter[str] = Counter()
        self.skew: float = 0.0  # seconds that a clock was wrong, at most
        self.away_until: float = 0.0  # of the command handlers
        self.raising: dict[tuple[str, type], float] = {}  # event handlers that fail, and until when
        self.wrong: BaseException | None = None
        self.over: asyncio.Event
        self._ticks = itertools.count(1)
        self._tasks: list[asyncio.Task[None]] = []

    def tick(self) -> int:
        """Return the next number: it orders what happens."""
        return next(self._ticks)

    def tell(self, what: str) -> None:
        """Add a line to the story."""
        self.story.append(f"{asyncio.get_running_loop().time():>12.3f}  {what}")

    def blame(self, what: str) -> None:
        """Something is wrong: the run ends."""
        self.give_up(AssertionError(what))

    def give_up(self, error: BaseException) -> None:
        """End the run with that error, unless there was one before."""
        self.wrong = self.wrong or error
        self.over.set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something beside; what it raises ends the run."""

        async def guarded() -> None:
            try:
                await work
            except Exception as error:
                self.give_up(error)

        task = asyncio.ensure_future(guarded())
        self._tasks.append(task)
        return task


def _settings(world: World, draw: random.Random) -> RunnerSettings:
    waits = NoInstance(world.no_instance) is NoInstance.WAIT
    return RunnerSettings(
        # Polls that find nothing are left out (see LoopClock); but events that wait for a starting one need them.
        due_poll=timedelta(seconds=5) if waits else timedelta(days=1),
        outcome_poll=timedelta(seconds=5),
        handler_retry=RetryPolicy(attempts=5, base=timedelta(milliseconds=100), cap=timedelta(seconds=5)),
        dispatch_retry=RetryPolicy(
            attempts=draw.choice([None, 8]), base=timedelta(milliseconds=100), cap=timedelta(seconds=5)
        ),
        retention=draw.choice([timedelta(days=7), timedelta(hours=1)]),
        cache_size=draw.choice([20_000, 1]),
        max_batch=draw.choice([256, 256, 1]),
        no_instance=world.no_instance,
    )
