"""Tours and trips under fire: a saga that uses all there is at once, an itinerary beside it.

A tour has phases and keeps what comes too early; stamps that are numbered, and come in any order; a timer that recurs; a
request with a deadline; a join; a gather; a result. Tours are of five kinds, by number: the price comes from the command's
handler; from outside and late, which is handled, or ignored; never; and one that stays open, to be found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum

from sagalog import (
    Action,
    Call,
    CommandRefused,
    Complete,
    Enter,
    Gather,
    ItinerarySaga,
    Saga,
    Send,
    SetTimer,
    StepContext,
    activity,
    leg,
    on,
    on_enter,
    starts,
    when_all,
)

from .shop import Killer, is_durable
from .witness import Witness

LEGS = 10
STAMPS = 3
TICK = timedelta(seconds=1)
FIRST_TICK = timedelta(seconds=0.1)
PRICE_SECONDS = 0.1
ENOUGH_TICKS = 2

killer: Killer
seen: Witness


def under(killing: Killer, looking: Witness) -> None:
    """Say who kills this process, and who looks at its journal."""
    global killer, seen
    killer, seen = killing, looking


class Phase(Enum):
    PLANNED = "planned"
    READY = "ready"


@dataclass
class Planned:
    tour: str
    uid: str


@dataclass
class VisaGranted:
    tour: str
    uid: str


@dataclass
class TicketPrinted:
    tour: str
    uid: str


@dataclass
class BagBrought:
    tour: str
    uid: str


@dataclass
class Stamped:
    tour: str
    n: int

    @property
    def uid(self) -> str:
        return f"{self.tour}/stamp {self.n}"


@dataclass
class Closed:
    tour: str
    uid: str


@dataclass
class Priced:
    tour: str
    uid: str


@dataclass
class NoPrice:
    tour: str


@dataclass
class Ticked:
    tour: str


@dataclass
class Boarded:
    tour: str
    seat: int


@dataclass
class AllBoarded:
    tour: str


@dataclass
class AskPrice:
    tour: str


@dataclass
class Board:
    tour: str
    seat: int


@dataclass
class Summary:
    ticks: int
    boarded: int
    bags: int


@dataclass
class Tour:
    tour: str = ""
    region: str = ""
    log: list[str] = field(default_factory=list)

    def count(self, word: str) -> int:
        return sum(entry.startswith(word) for entry in self.log)


class TourSaga(Saga[Tour]):
    name = "tour"
    phases = Phase
    index = ("region", "phase")
    messages = (Summary,)

    @starts(Planned, key="tour")
    def planned(self, tour: Tour, event: Planned) -> Iterator[Action]:
        tour.tour, tour.region = event.tour, region(event.tour)
        tour.log.append(event.uid)
        yield SetTimer("tick", Ticked(event.tour), every=TICK, after=FIRST_TICK, missed="each")
        yield Send(
            AskPrice(event.tour),
            reply_within=timedelta(seconds=PRICE_SECONDS),
            otherwise=NoPrice(event.tour),
            reply=Priced if kind(event.tour) in (1, 2) else None,
            late="ignore" if kind(event.tour) == 2 else "handle",
        )

    @on(VisaGranted, key="tour")
    def visa_granted(self, tour: Tour, event: VisaGranted) -> None:
        tour.log.append(event.uid)

    @on(TicketPrinted, key="tour")
    def ticket_printed(self, tour: Tour, event: TicketPrinted) -> None:
        tour.log.append(event.uid)

    @when_all(VisaGranted, TicketPrinted)
    def papers(self, tour: Tour) -> Action:
        mark("the join")
        tour.log.append("papers")
        return Enter(Phase.READY)

    @on_enter(Phase.READY)
    def ready(self, tour: Tour) -> Action:
        mark("entering the phase")
        tour.log.append("ready")
        seats = [Send(Board(tour.tour, seat)) for seat in range(LEGS)]
        return Gather("seats", seats if number(tour.tour) % 2 else LEGS, then=AllBoarded(tour.tour))

    @leg("seats", at_once=4)
    def seat(self, tour: Tour, seat: int) -> Send:
        mark("making a leg")
        return Send(Board(tour.tour, seat))

    @on(BagBrought, key="tour", during=Phase.READY, unexpected="keep")
    def bag_brought(self, tour: Tour, event: BagBrought) -> Iterator[Action]:
        mark("handling what was kept")
        tour.log.append(event.uid)
        yield from ended(tour)

    @on(Stamped, key="tour", sequence="n")
    def stamped(self, tour: Tour, event: Stamped) -> Iterator[Action]:
        mark("a numbered event")
        tour.log.append(event.uid)
        yield from ended(tour)

    @on(Boarded, key="tour")
    def boarded(self, tour: Tour, event: Boarded) -> None:
        mark("a leg's answer")
        tour.log.append(f"seat {event.seat}")

    @on(AllBoarded, key="tour")
    def all_boarded(self, tour: Tour, event: AllBoarded) -> Iterator[Action]:
        mark("the end of the gather")
        tour.log.append("boarded")
        yield from ended(tour)

    @on(Ticked, key="tour")
    def ticked(self, tour: Tour, event: Ticked, context: StepContext) -> Iterator[Action]:
        mark("the recurring timer")
        assert context.message_at is not None
        tour.log.append(f"tick {context.message_at.isoformat()}")
        yield from ended(tour)

    @on(Priced, key="tour")
    def priced(self, tour: Tour, event: Priced) -> Iterator[Action]:
        mark("the answer to the request")
        tour.log.append(event.uid)
        yield from ended(tour)

    @on(NoPrice, key="tour")
    def no_price(self, tour: Tour, event: NoPrice) -> Iterator[Action]:
        mark("the deadline of the request")
        tour.log.append("silent")
        yield from ended(tour)

    @on(Closed, key="tour")
    def closed(self, tour: Tour, event: Closed) -> Iterator[Action]:
        tour.log.append(event.uid)
        yield from ended(tour)


def ended(tour: Tour) -> Iterator[Action]:
    """Complete a tour that is closed, and has seen all that must come."""
    if f"{tour.tour}/closed" in tour.log and is_through(tour):
        mark("the result")
        yield Complete(Summary(tour.count("tick"), tour.count("seat"), tour.count(f"{tour.tour}/bag")))


def is_through(tour: Tour) -> bool:
    priced = "silent" in tour.log or f"{tour.tour}/priced" in tour.log
    bags = tour.count(f"{tour.tour}/bag")
    through = priced and "boarded" in tour.log and tour.count("tick") >= ENOUGH_TICKS and bags == 2
    return through and tour.count(f"{tour.tour}/stamp") == STAMPS


@dataclass
class TripRequested:
    trip: str
    uid: str


@dataclass
class Trip:
    request: TripRequested | None = None
    flight: str = ""
    hotel: str = ""
    car: str = ""


class TripSaga(ItinerarySaga[Trip]):
    """Every third trip cannot be paid for, and all is undone."""

    name = "trip"
    starts_with, key = TripRequested, "trip"

    def result(self, trip: Trip) -> str:
        return trip.flight

    @activity
    async def flight(self, trip: Trip, call: Call) -> str:
        await called("flight", call)
        return f"flight {call.id}"

    @flight.undo
    async def cancel_flight(self, trip: Trip, call: Call) -> None:
        await called("cancel flight", call)

    @activity(after=flight)
    async def hotel(self, trip: Trip, call: Call) -> str:
        await called("hotel", call)
        return f"hotel {call.id}"

    @hotel.undo
    async def cancel_hotel(self, trip: Trip, call: Call) -> None:
        await called("cancel hotel", call)

    @activity(after=flight)
    async def car(self, trip: Trip, call: Call) -> str:
        await called("car", call)
        return f"car {call.id}"

    @car.undo
    async def cancel_car(self, trip: Trip, call: Call) -> None:
        await called("cancel car", call)

    @activity(after=(hotel, car))
    async def payment(self, trip: Trip, call: Call) -> None:
        await called("payment", call)
        if number(call.correlation_id) % 3 == 0:
            raise CommandRefused("no money")


async def called(what: str, call: Call) -> None:
    """Note in the ledger that an activity, or its undo, was called."""
    which = "an undo" if what.startswith("cancel") else "an activity"
    killer.here(f"{which}, before it arrives")
    killer.ledger.note(
        called=what, trip=call.correlation_id, id=call.id, of=call.of, durable=await is_durable(seen, call.id)
    )
    mark(which)
    killer.here(f"{which}, after it arrived")


def mark(what: str) -> None:
    """The next write of this worker may hold the step of that handler."""
    killer.flags.add(what)


def number(name: str) -> int:
    return int(name.partition("-")[2])


def kind(tour: str) -> int:
    return number(tour) % 5


def region(tour: str) -> str:
    return f"region {number(tour) % 3}"


def stays(tour: str) -> bool:
    return kind(tour) == 4
