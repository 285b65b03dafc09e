"""A trip as a list of calls, each with its undo: `python -m examples.trip`.

Flight; then hotel and car together; then the traveller's approval; then payment, behind which nothing is undone; then the
tickets. The agency is in memory, and knows the ids under which it was called, as a real one should.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from sagalog import Call, CommandRefused, InMemoryJournal, ItinerarySaga, SagaRunner, activity


@dataclass
class TripRequested:
    trip_id: str
    car: bool = False


@dataclass
class Approved:
    trip_id: str


@dataclass
class Rejected:
    trip_id: str


@dataclass
class Trip:
    request: TripRequested | None = None
    flight: str | None = None
    hotel: str | None = None
    car: str | None = None
    payment: str | None = None

    @property
    def needs_car(self) -> bool:
        return self.request is not None and self.request.car


class Agency:
    """What is outside: a call that comes again under its id gets the same answer, and books nothing twice."""

    def __init__(self, full: tuple[str, ...] = ()) -> None:
        self.full = full
        self.booked: dict[str, str] = {}  # by the id of the call
        self.told: list[str] = []

    def book(self, what: str, key: str) -> str:
        if what in self.full:
            raise CommandRefused(f"no {what} is left")
        if key not in self.booked:
            self.booked[key] = f"{what} {len(self.booked) + 1}"
            self.told.append(f"booked {self.booked[key]}")
        return self.booked[key]

    def cancel(self, key: str) -> None:
        booked = self.booked.pop(key, None)
        if booked is not None:  # it may never have come that far
            self.told.append(f"cancelled {booked}")

    def ask(self, trip_id: str, reminder: int) -> None:
        self.told.append(f"asked for approval of {trip_id}{', again' if reminder else ''}")


class TripSaga(ItinerarySaga[Trip]):
    name = "trip"
    starts_with, key = TripRequested, "trip_id"

    def __init__(self, agency: Agency | None = None) -> None:
        self.agency = agency or Agency()

    @activity
    async def flight(self, trip: Trip, call: Call) -> str:
        return self.agency.book("flight", call.id)

    @flight.undo
    async def cancel_flight(self, trip: Trip, call: Call) -> None:
        self.agency.cancel(call.of)

    @activity(after=flight, within=timedelta(minutes=30))
    async def hotel(self, trip: Trip, call: Call) -> str:
        return self.agency.book("hotel", call.id)

    @hotel.undo
    async def cancel_hotel(self, trip: Trip, call: Call) -> None:
        self.agency.cancel(call.of)

    @activity(after=flight, when=lambda trip: trip.needs_car, optional=True)
    async def car(self, trip: Trip, call: Call) -> str:
        return self.agency.book("car", call.id)

    @car.undo
    async def cancel_car(self, trip: Trip, call: Call) -> None:
        self.agency.cancel(call.of)

    @activity(after=(hotel, car), until=Approved, unless=Rejected, within=timedelta(days=3), remind=timedelta(days=1))
    async def approval(self, trip: Trip, call: Call) -> None:
        self.agency.ask(call.correlation_id, call.reminder)

    @activity(pivot=True)
    async def payment(self, trip: Trip, call: Call) -> str:
        return self.agency.book("payment", call.id)

    @payment.undo
    async def refund(self, trip: Trip, call: Call) -> None:
        """Where its attempts are used up, nobody knows whether it was paid. Once it is known, nothing is undone."""
        self.agency.cancel(call.of)

    @activity
    async def tickets(self, trip: Trip, call: Call) -> None:
        self.agency.book("tickets", call.id)


async def main() -> None:
    agency = Agency(full=("car",))
    async with SagaRunner(InMemoryJournal(), sagas=[TripSaga(agency)]) as runner:
        await runner.handle(TripRequested("T-1", car=True))
        await runner.handle(TripRequested("T-2"))
        await runner.settle()
        await runner.handle(Approved("T-1"))
        await runner.handle(Rejected("T-2"))
        for trip_id in ("T-1", "T-2"):
            ended = await runner.outcome(TripSaga, trip_id, timeout=timedelta(seconds=10))
            print(trip_id, ended.status, ended.state.payment)
    print("\n".join(agency.told))


if __name__ == "__main__":
    asyncio.run(main())
