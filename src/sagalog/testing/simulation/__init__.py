"""Does your saga survive duplicates, crashes, lost answers and races? Thousands of virtual days of them, from a seed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ...saga import Saga
from .faults import FAULTS
from .run import HANDLER_FAULTS, Run
from .world import Finished, Report, World

ALL_FAULTS = (
    *FAULTS,
    "delivery late",
    "delivered twice",
    "delivered again, later",
    *HANDLER_FAULTS,
    "clock wrong",
)


class SimulationError(AssertionError):
    """A simulated run went wrong. `seed` replays it; the message tells the shortest story that was found."""

    def __init__(self, message: str, seed: int) -> None:
        super().__init__(message)
        self.seed = seed


def simulate(
    sagas: Sequence[Saga[Any] | type[Saga[Any]]],
    world: Callable[[], World],
    *,
    seeds: Iterable[int] = range(200),
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Run the sagas in the world once for each seed, on the real runner; the same seed gives the same run.

    Raises SimulationError for the first seed whose run breaks what `World.check` says, or one of the engine's own
    guarantees; it tells which faults and events are enough for that, and the story.
    """
    made = [saga() if isinstance(saga, type) else saga for saga in sagas]
    happened: Counter[str] = Counter()
    days, count, started = 0.0, 0, time.monotonic()
    for seed in seeds:
        run = Run(made, world(), seed, frozenset(), frozenset())
        wrong = run.execute()
        if wrong is not None:
            raise _shrunk(made, world, seed, run, wrong)
        happened.update(run.chance.happened)
        happened.update(run.counters)
        days, count = days + run.days, count + 1
        if progress is not None:
            progress(count)
    return Report(count, days, time.monotonic() - started, dict(sorted(happened.items())))


def _shrunk(
    sagas: list[Saga[Any]], world: Callable[[], World], seed: int, run: Run, wrong: AssertionError
) -> SimulationError:
    """Leave out faults and events as long as something still goes wrong."""
    off: frozenset[str] = frozenset()
    skip: frozenset[int] = frozenset()
    for fault in ALL_FAULTS:
        smaller = Run(sagas, world(), seed, off | {fault}, skip)
        found = smaller.execute()
        if found is not None:
            off, run, wrong = off | {fault}, smaller, found
    for number in reversed(range(run.events)):
        smaller = Run(sagas, world(), seed, off, skip | {number})
        found = smaller.execute()
        if found is not None:
            skip, run, wrong = skip | {number}, smaller, found
    faults = ", ".join(f"{name} ({count})" for name, count in sorted(run.chance.happened.items())) or "none"
    story = "\n".join(run.story)
    told = f"{wrong}\n\nseed {seed}; faults that it takes: {faults}\n\n     seconds  what happened\n{story}"
    return SimulationError(told, seed)


__all__ = ["ALL_FAULTS", "Finished", "Report", "SimulationError", "World", "simulate"]
