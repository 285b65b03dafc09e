"""A meter whose readings are numbered by two stations: what the tests of sequences in a runner run."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sagalog import Complete, Gap, Saga, Send, Sequence, on, starts


@dataclass
class Measured:
    meter: str
    station: str
    n: int


@dataclass
class Numbered:
    """Numbered as readings are, with a gap that parks."""

    meter: str
    n: int


@dataclass
class Lost:
    meter: str
    text: str


@dataclass
class Closed:
    meter: str


@dataclass
class Told:
    text: str


@dataclass
class Readings:
    log: list[str] = field(default_factory=list)


def lost(gap: Gap) -> Lost:
    return Lost(gap.correlation_id, str(gap))


class Meters(Saga[Readings]):
    name = "numbered"
    most_kept = 20
    failing: set[int] = set()
    flaky: dict[int, int] = {}

    @starts(Measured, key="meter", sequence=Sequence("n", sender="station", gap_within=timedelta(minutes=10), gap=lost))
    def measured(self, state: Readings, event: Measured) -> Any:
        if event.n in self.failing:
            raise RuntimeError(str(event.n))
        if self.flaky.get(event.n, 0) > 0:
            self.flaky[event.n] -= 1
            raise RuntimeError(str(event.n))
        state.log.append(f"{event.station}{event.n}")
        yield Send(Told(f"{event.station}{event.n}"))

    @starts(Numbered, key="meter", sequence=Sequence("n", gap_within=timedelta(minutes=10)))
    def numbered(self, state: Readings, event: Numbered) -> Any:
        if event.n in self.failing:
            raise RuntimeError(str(event.n))
        state.log.append(f"n{event.n}")

    @on(Lost, key="meter")
    def lost(self, state: Readings, event: Lost) -> None:
        state.log.append(f"lost {event.text}")

    @on(Closed, key="meter")
    def closed(self, state: Readings, event: Closed) -> Any:
        yield Complete()
