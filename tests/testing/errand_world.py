"""The world of an errand that is forgotten and begun anew under its id, and of a book that hears of each of its lives."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sagalog import Complete, Saga, Send, on, starts
from sagalog.testing.simulation import World


@dataclass
class Opened:
    id: str


@dataclass
class Closed:
    id: str


@dataclass
class Do:
    id: str


@dataclass
class Booked:
    """Answers Do, to another saga."""

    book: str


@dataclass
class Count:
    count: int = 0


class Errand(Saga[Count]):
    name = "errand"

    @starts(Opened, key="id")
    def opened(self, state: Count, event: Opened) -> Any:
        return Send(Do(event.id))

    @on(Closed, key="id")
    def closed(self, state: Count, event: Closed) -> Any:
        return Complete()


class Book(Saga[Count]):
    name = "book"

    @starts(Booked, key="book")
    def booked(self, state: Count, event: Booked) -> None:
        state.count += 1


class Errands(World):
    sagas = (Errand, Book)

    def events(self, chance: random.Random) -> Iterator[Any]:
        for _ in range(3):
            yield Opened("a")
            yield chance.random() * 3
            yield Closed("a")
            yield 8000.0  # more than the retention

    def answer(self, command: Any, chance: random.Random) -> Any:
        return Booked("b")
