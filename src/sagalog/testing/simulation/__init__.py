"""Does your saga survive duplicates, crashes, lost answers and races? Thousands of virtual days of them, from a seed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ...definition.saga import Saga
from .chance import FAULTS
from .report import ESSENTIAL, Report
from .run import SimulatedRun
from .shrink import SimulationError, shrunk
from .world import Finished, World


def simulate(
    sagas: Sequence[Saga[Any] | type[Saga[Any]]],
    world: Callable[[], World],
    *,
    seeds: Iterable[int] = range(200),
    progress: Callable[[Report], None] | None = None,
) -> Report:
    """Run the sagas in the world once for each seed, on the real runner; the same seed gives the same run.

    `progress` is called after each. Raises SimulationError for the first seed whose run breaks what the world checks,
    or one of the engine's own guarantees; it tells which faults and events are enough for that, and the story.
    """
    made = [saga() if isinstance(saga, type) else saga for saga in sagas]
    report, started = Report(), time.monotonic()
    for seed in seeds:
        run = SimulatedRun(made, world(), seed)
        wrong = run.execute()
        if wrong is not None:
            raise shrunk(made, world, seed, run, wrong)
        report.add_run(run)
        report.seconds = time.monotonic() - started
        if progress is not None:
            progress(report)
    return report


__all__ = ["ESSENTIAL", "FAULTS", "Finished", "Report", "SimulationError", "World", "simulate"]
