"""Sagas whose instances every release leaves behind as fixtures. They never change: a saga in production does not either.

A new kind of record gets a new saga here, and the releases from then on have it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import Any

from sagalog import (
    AddKey,
    Call,
    ChildEnded,
    CommandRefused,
    Compensate,
    Complete,
    Enter,
    Gather,
    ItinerarySaga,
    Key,
    Refused,
    Saga,
    Send,
    Sequence,
    SetTimer,
    StartChild,
    activity,
    leg,
    on,
    on_child,
    on_refused,
    starts,
    when_all,
)


@dataclass
class Placed:
    order: str
    customer: str = "c-1"


@dataclass
class Opened:
    order: str


@dataclass
class Packed:
    order: str


@dataclass
class Booked:
    order: str


@dataclass
class Paid:
    order: str
    cents: int = 100


@dataclass
class Broken:
    order: str


@dataclass
class Closed:
    order: str
    how: str = "done"


@dataclass
class Late:
    order: str


@dataclass
class Reading:
    order: str
    n: int


@dataclass
class Charge:
    order: str


@dataclass
class Refund:
    order: str


@dataclass
class Ship:
    order: str
    number: int = 0


@dataclass
class Shipped:
    order: str
    number: int


@dataclass
class ParcelSent:
    order: str
    number: int


@dataclass
class AllShipped:
    order: str


@dataclass
class Order:
    customer: str = ""
    log: list[str] = field(default_factory=list)


class OrderSaga(Saga[Order]):
    """Commands with undo, a timer, a recurring one, an index, a key of its own, and the ways to end."""

    name = "released-order"
    index = ("customer",)
    keys = (Key("seat", unique=True),)
    mended = False

    @starts(Placed, key="order")
    def placed(self, order: Order, event: Placed) -> Any:
        order.customer = event.customer
        order.log.append("placed")
        yield Send(Charge(event.order), undo=Refund(event.order))
        yield SetTimer("late", Late(event.order), after=timedelta(days=30))
        yield AddKey("seat", f"seat of {event.order}")

    @on(Paid, key="order")
    def paid(self, order: Order, event: Paid) -> Any:
        order.log.append(f"paid {event.cents}")
        yield Send(Ship(event.order), reply_within=timedelta(days=7), otherwise=Late(event.order))

    @on(Late, key="order")
    def late(self, order: Order, event: Late) -> None:
        order.log.append("late")

    @on(Broken, key="order")
    def broken(self, order: Order, event: Broken) -> None:
        if not self.mended:
            raise RuntimeError("a mistake in the code")
        order.log.append("mended")

    @on(Closed, key="order")
    def closed(self, order: Order, event: Closed) -> Any:
        order.log.append(event.how)
        yield Complete({"how": event.how}) if event.how == "done" else Compensate()

    @on_refused(Ship)
    def not_shipped(self, order: Order, refused: Refused[Ship]) -> Any:
        order.log.append(refused.reason)
        yield Compensate()


class Phase(Enum):
    NEW = "new"
    PAID = "paid"


@dataclass
class Readings:
    log: list[str] = field(default_factory=list)


class PhaseSaga(Saga[Readings]):
    """Phases, events that are kept for theirs, numbers with a gap, and a join of which one leg has come."""

    name = "released-phases"
    phases = Phase

    @starts(Opened, key="order")
    def placed(self, state: Readings, event: Opened) -> None:
        state.log.append("placed")

    @on(Paid, key="order", during=Phase.NEW)
    def paid(self, state: Readings, event: Paid) -> Any:
        yield Enter(Phase.PAID)

    @on(Shipped, key="order", during=Phase.PAID, unexpected="keep")
    def shipped(self, state: Readings, event: Shipped) -> None:
        state.log.append(f"shipped {event.number}")

    @on(Reading, key="order", sequence=Sequence("n", first=1))
    def reading(self, state: Readings, event: Reading) -> None:
        state.log.append(f"reading {event.n}")

    @on(Late, key="order")
    def late(self, state: Readings, event: Late) -> None:
        state.log.append("late")

    @on(Closed, key="order")
    def closed(self, state: Readings, event: Closed) -> None:
        state.log.append("closed")

    @when_all(Late, Closed)
    def both(self, state: Readings) -> Any:
        state.log.append("both")
        yield Complete()


class ParcelsSaga(Saga[Readings]):
    """A gather of many legs, and a child."""

    name = "released-parcels"

    @starts(Packed, key="order")
    def placed(self, state: Readings, event: Packed) -> Any:
        state.log.append(event.order)
        yield StartChild(PhaseSaga, Opened(f"{event.order}'s child"))
        yield Gather("parcels", 5, then=AllShipped(event.order))

    @leg("parcels", at_once=2)
    def parcel(self, state: Readings, number: int) -> Send:
        return Send(Ship(state.log[0], number))

    @on(ParcelSent, key="order")
    def sent(self, state: Readings, event: ParcelSent) -> None:
        state.log.append(f"parcel {event.number}")

    @on(AllShipped, key="order")
    def all_shipped(self, state: Readings, event: AllShipped) -> None:
        state.log.append("all shipped")

    @on_child(PhaseSaga)
    def child(self, state: Readings, ended: ChildEnded) -> Any:
        state.log.append(f"child {ended.outcome}")
        yield Complete()


@dataclass
class Trip:
    booked: Booked | None = None
    flight: str = ""
    hotel: str = ""


class TripSaga(ItinerarySaga[Trip]):
    """An itinerary whose second activity does not come to its end."""

    name = "released-trip"
    starts_with, key = Booked, "order"
    full = True

    @activity
    def flight(self, state: Trip, call: Call) -> str:
        return "LH1"

    @flight.undo
    def cancel_flight(self, state: Trip, call: Call) -> None: ...

    @activity(after=flight)
    def hotel(self, state: Trip, call: Call) -> str:
        if self.full:
            raise ConnectionError("the hotel does not answer")
        return "Ritz"


SAGAS = [OrderSaga, PhaseSaga, ParcelsSaga, TripSaga]


class Outside:
    """Carries out commands; what is to be shipped fails for a while (`away`), or is refused."""

    def __init__(self, *, away: bool) -> None:
        self.away = away
        self.done: list[Any] = []

    def __call__(self, command: Any) -> Any:
        if isinstance(command, Ship):
            if command.order == "refused":
                raise CommandRefused("sold out")
            if self.away and command.number % 2 == 0:
                raise ConnectionError("the warehouse does not answer")
            self.done.append(command)
            return ParcelSent(command.order, command.number)
        self.done.append(command)
        return None
