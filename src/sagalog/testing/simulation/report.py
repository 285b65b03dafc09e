"""What was simulated, and what was not: a green run that never crashed anything must not pass for one."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from .chance import FAULTS

if TYPE_CHECKING:
    from .run import SimulatedRun

ESSENTIAL = ("handled", "duplicates", "conflicts", "commands", "takeovers", "parked", "purged", "retry")


class Report(msgspec.Struct):
    """How often each thing happened; what never did is there with 0.

    `faults`: by name. `runner`: what its counters count, and the repairs of the operator. `sagas`: for each saga the
    events that its handlers took, its timers that fired, its commands that were refused, and how its instances ended.
    `days` are virtual, from the first event until nothing was left to do; `seconds` are real, of one process.
    """

    seeds: int = 0
    days: float = 0.0
    seconds: float = 0.0
    faults: dict[str, int] = {}
    runner: dict[str, int] = {}
    sagas: dict[str, dict[str, int]] = {}

    def __post_init__(self) -> None:
        self.faults = {**dict.fromkeys(FAULTS, 0), **self.faults}
        self.runner = {**dict.fromkeys(ESSENTIAL, 0), **self.runner}

    @property
    def never(self) -> list[str]:
        """What a green run therefore says nothing about: faults, essential work of the runner, handlers and timers."""
        return [
            *(fault for fault, count in self.faults.items() if not count),
            *(f"runner: {name}" for name in ESSENTIAL if not self.runner[name]),
            *(f"{saga}: {name}" for saga, counts in self.sagas.items() for name, n in counts.items() if not n),
        ]

    def add(self, other: Report) -> None:
        """Count what another report counts."""
        self.seeds, self.days, self.seconds = (
            self.seeds + other.seeds,
            self.days + other.days,
            self.seconds + other.seconds,
        )
        _add(self.faults, other.faults)
        _add(self.runner, other.runner)
        for saga, counts in other.sagas.items():
            _add(self.sagas.setdefault(saga, {}), counts)

    def add_run(self, run: SimulatedRun) -> None:
        """Count what happened in one run."""
        self.seeds += 1
        self.days += run.days
        _add(self.faults, run.chance.happened)
        _add(self.runner, run.counters + run.outside.repairs)
        for saga, counts in run.branches.items():
            _add(self.sagas.setdefault(saga, {}), counts)


def _add(into: dict[str, int], more: dict[str, int] | Counter[str]) -> None:
    for name, count in more.items():
        into[name] = into.get(name, 0) + count
