"""From a run that went wrong to the shortest story of it that is found by leaving things out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ...definition.saga import Saga
from .chance import FAULTS, Without
from .run import SimulatedRun
from .world import World

_MAX_STRIKES = 100


class SimulationError(AssertionError):
    """A simulated run went wrong. `seed` replays it; the message tells the shortest story that was found."""

    def __init__(self, message: str, seed: int) -> None:
        super().__init__(message)
        self.seed = seed

    def __reduce__(self) -> tuple[type[SimulationError], tuple[str, int]]:
        return SimulationError, (self.args[0], self.seed)


def shrunk(
    sagas: list[Saga[Any]], world: Callable[[], World], seed: int, run: SimulatedRun, wrong: Exception
) -> SimulationError:
    """Leave out kinds of faults, events, and single faults, as long as something still goes wrong."""

    def attempt(without: Without) -> None:
        nonlocal run, wrong
        smaller = SimulatedRun(sagas, world(), seed, without)
        found = smaller.execute()
        if found is not None:
            run, wrong = smaller, found

    def without_kinds() -> None:
        for fault in FAULTS:
            if run.chance.happened[fault]:
                attempt(msgspec.structs.replace(run.without, faults=run.without.faults | {fault}))

    without_kinds()
    for number in reversed(range(run.events)):
        attempt(msgspec.structs.replace(run.without, events=run.without.events | {number}))
    for number in reversed(range(min(run.chance.struck, _MAX_STRIKES))):
        attempt(msgspec.structs.replace(run.without, strikes=run.without.strikes | {number}))
    without_kinds()  # what was left out may have brought others
    faults = ", ".join(f"{name} ({count})" for name, count in sorted(run.chance.happened.items())) or "none"
    story = "\n".join(run.story)
    said = str(wrong) if isinstance(wrong, AssertionError) else f"{type(wrong).__name__}: {wrong}"
    told = f"{said}\n\nseed {seed}; faults that it takes: {faults}\n\n     seconds  what happened\n{story}"
    return SimulationError(told, seed)
