"""A world in which instances are parked for long, and hold many events that come one by one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sagalog import Saga, on, starts
from sagalog.testing.simulation import Finished, World


@dataclass
class Opened:
    heap: str


@dataclass
class Added:
    heap: str
    number: int
    text: str = "something to remember"


@dataclass
class Jammed:
    heap: str


@dataclass
class Heap:
    numbers: list[int] = field(default_factory=list)


class HeapSaga(Saga[Heap]):
    name = "heap"
    jammed = 0  # so often a jam is not over yet

    @starts(Opened, key="heap")
    def opened(self, state: Heap, event: Opened) -> None: ...

    @on(Added, key="heap")
    def added(self, state: Heap, event: Added) -> None:
        state.numbers.append(event.number)

    @on(Jammed, key="heap")
    def is_jammed(self, state: Heap, event: Jammed) -> None:
        if HeapSaga.jammed > 0:
            HeapSaga.jammed -= 1
            raise RuntimeError("jammed")


class Heaps(World):
    sagas = (HeapSaga,)
    repairs = ("retry", "retry", "retry", "skip")
    may_park = True  # a jam may last longer than the operator tries

    def events(self, chance: random.Random) -> Iterator[Any]:
        HeapSaga.jammed = chance.choice([5, 6, 8, 20])
        count = chance.choice([5, 20, 40])
        yield Opened("h")
        jams = {chance.randrange(count) for _ in range(chance.choice([1, 1, 2]))}
        for number in range(count):
            if number in jams:
                yield Jammed("h")
                yield chance.random() * 20
            yield Added("h", number)
            if chance.random() < 0.2:
                yield chance.random() * 5

    def check(self, instance: Finished) -> None:
        numbers = instance.state.numbers
        assert len(numbers) == len(set(numbers)), "something was added twice"
