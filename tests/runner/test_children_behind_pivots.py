"""A child behind its pivot: its parent cannot take it back any more, waits for it, and takes back what it has done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from sagalog import (
    Call,
    ChildEnded,
    Compensate,
    ItinerarySaga,
    Saga,
    SagaRunner,
    Send,
    StartChild,
    Status,
    activity,
    on,
    on_child,
    starts,
)

from .conftest import Bench


@dataclass
class Ordered:
    order: str


@dataclass
class Withdrawn:
    order: str


@dataclass
class HandedIn:
    parcel: str


@dataclass
class Delivered:
    parcel: str


@dataclass
class Reserve:
    order: str


@dataclass
class Release:
    order: str


@dataclass
class FetchBack:
    parcel: str


@dataclass
class Parcel:
    handed_in: HandedIn | None = None


@dataclass
class Order:
    ended: list[str] = field(default_factory=list)


class ParcelSaga(ItinerarySaga[Parcel]):
    name = "parcel"
    starts_with, key = HandedIn, "parcel"
    done: tuple[str, ...] = ()

    def did(self, what: str) -> None:
        type(self).done += (what,)

    @activity
    async def label(self, parcel: Parcel, call: Call) -> None:
        self.did("label")

    @label.undo
    async def void(self, parcel: Parcel, call: Call) -> None:
        self.did("void")

    @activity(pivot=True)
    async def ship(self, parcel: Parcel, call: Call) -> None:
        self.did("ship")

    @activity(until=Delivered)
    async def delivery(self, parcel: Parcel, call: Call) -> None:
        self.did("ask")

    @activity
    async def bill(self, parcel: Parcel, call: Call) -> None:
        self.did("bill")


class OrderSaga(Saga[Order]):
    name = "order"

    @starts(Ordered, key="order")
    def ordered(self, state: Order, event: Ordered) -> Any:
        yield Send(Reserve(event.order), undo=Release(event.order))
        yield StartChild(ParcelSaga, HandedIn("p"), undo=FetchBack("p"))

    @on(Withdrawn, key="order")
    def withdrawn(self, state: Order, event: Withdrawn) -> Any:
        return Compensate()

    @on_child(ParcelSaga)
    def parcel(self, state: Order, ended: ChildEnded) -> None:
        state.ended.append(ended.outcome)


@pytest.fixture(autouse=True)
def _nothing_done() -> None:
    ParcelSaga.done = ()


@pytest.mark.parametrize("by", ["handler", "operator"])
async def test_a_parent_waits_for_a_child_behind_its_pivot_and_takes_back_what_it_has_done(
    quick: Bench, by: str
) -> None:
    sent: list[Any] = []

    async def compensate(running: SagaRunner) -> None:
        if by == "handler":
            await running.handle(Withdrawn("o"))
        else:
            await running.cancel(OrderSaga, "o")
        await running.settle()

    async with quick.runner(sagas=[OrderSaga, ParcelSaga], dispatch=sent.append) as running:
        await running.handle(Ordered("o"))
        await running.settle()
        await compensate(running)
        assert ParcelSaga.done == ("label", "ship", "ask")
        assert (await running.instance(ParcelSaga, "p")).status is Status.RUNNING
        assert (await running.instance(OrderSaga, "o")).status is Status.COMPENSATING
        await running.cancel(OrderSaga, "o")  # asks again
        await running.settle()
        await running.handle(Delivered("p"))
        ended = await running.outcome(OrderSaga, "o")
    assert ended.status is Status.COMPENSATED
    assert ParcelSaga.done == ("label", "ship", "ask", "bill")
    assert sent == [Reserve("o"), FetchBack("p"), Release("o")]


async def test_a_child_before_its_pivot_compensates(quick: Bench) -> None:
    class Careful(ParcelSaga):
        ship = activity(pivot=True, until=Delivered)(lambda self, parcel, call: None)
        delivery = activity(lambda self, parcel, call: None)

    class CarefulOrderSaga(OrderSaga):
        @on_child(Careful)
        def parcel(self, state: Order, ended: ChildEnded) -> None: ...

    sent: list[Any] = []
    async with quick.runner(sagas=[CarefulOrderSaga, Careful], dispatch=sent.append) as running:
        await running.handle(Ordered("o"))
        await running.settle()
        await running.handle(Withdrawn("o"))
        assert (await running.outcome(CarefulOrderSaga, "o")).status is Status.COMPENSATED
    assert Careful.done == ("label", "void")
    assert sent == [Reserve("o"), Release("o")]


async def test_an_operator_may_end_a_child_behind_its_pivot(quick: Bench) -> None:
    sent: list[Any] = []
    async with quick.runner(sagas=[OrderSaga, ParcelSaga], dispatch=sent.append) as running:
        await running.handle(Ordered("o"))
        await running.settle()
        await running.handle(Withdrawn("o"))
        await running.settle()
        await running.cancel(ParcelSaga, "p", compensate=False)
        assert (await running.outcome(OrderSaga, "o")).status is Status.COMPENSATED
    assert sent == [Reserve("o"), Release("o")]
