"""A saga that sends many commands in one step, most of which are answered by an event."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from sagalog import CommandRefused, Compensate, Complete, Refused, Saga, Send, on, on_refused, starts
from sagalog.runner import answers
from sagalog.testing.simulation import Finished, World


def let_answers_wait(patch: pytest.MonkeyPatch) -> None:
    """Let them wait for one another as those of a large record do."""
    patch.setattr(answers, "_SMALL_BYTES", 0)
    patch.setattr(answers, "_BYTES_A_SECOND", 5_000)


@dataclass
class Packed:
    id: str
    parcels: int


@dataclass
class Shipped:
    id: str
    number: int


@dataclass
class Withdrawn:
    id: str


@dataclass
class Hand:
    id: str
    number: int


@dataclass
class FetchBack:
    id: str
    number: int


@dataclass
class ParcelState:
    parcels: int = 0
    shipped: list[int] = field(default_factory=list)


class ParcelSaga(Saga[ParcelState]):
    name = "parcels"

    @starts(Packed, key="id")
    def packed(self, state: ParcelState, event: Packed):
        state.parcels += event.parcels
        for number in range(event.parcels):
            yield Send(Hand(event.id, number), undo=FetchBack(event.id, number))

    @on(Shipped, key="id")
    def shipped(self, state: ParcelState, event: Shipped):
        state.shipped.append(event.number)
        if len(state.shipped) == state.parcels:
            return Complete()
        return None

    @on(Withdrawn, key="id")
    def withdrawn(self, state: ParcelState, event: Withdrawn):
        return Compensate()

    @on_refused(Hand)
    def refused(self, state: ParcelState, refused: Refused[Hand]):
        return Compensate()


class Parcels(World):
    sagas = (ParcelSaga,)
    repairs = ("retry",)

    def events(self, chance: random.Random) -> Iterator[Any]:
        for n in range(2):
            yield Packed(f"p{n}", chance.choice([2, 5, 9]))
            yield chance.random()
        if chance.random() < 0.3:
            yield Withdrawn("p0")

    def answer(self, command: Any, chance: random.Random) -> Any:
        if isinstance(command, FetchBack):
            return None
        if chance.random() < 0.05:
            raise CommandRefused("no")
        return Shipped(command.id, command.number)

    def check(self, instance: Finished) -> None:
        shipped = instance.state.shipped
        assert len(shipped) == len(set(shipped)), "an answer was handled twice"
        assert instance.status != "running", "an answer was lost"
        if instance.status == "completed":
            assert len(shipped) == instance.state.parcels, "completed, and an answer is missing"
