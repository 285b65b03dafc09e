"""A trip: flight; then hotel and car together; then the traveller's approval; then payment, and the tickets."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

from sagalog import Call, ItinerarySaga, RunnerSettings, SagaRunner, activity

from .agency import Agency


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


agency = Agency(os.environ.get("AGENCY_URL", "http://localhost:9000"))


class TripSaga(ItinerarySaga[Trip]):
    name = "trip"
    starts_with, key = TripRequested, "trip_id"

    @activity
    async def flight(self, trip: Trip, call: Call) -> str:
        return await agency.book("flight", call.id)

    @flight.undo
    async def cancel_flight(self, trip: Trip, call: Call) -> None:
        await agency.cancel(call.of, call.id)

    @activity(after=flight, within=timedelta(minutes=30))
    async def hotel(self, trip: Trip, call: Call) -> str:
        return await agency.book("hotel", call.id)

    @hotel.undo
    async def cancel_hotel(self, trip: Trip, call: Call) -> None:
        await agency.cancel(call.of, call.id)

    @activity(after=flight, when=lambda trip: trip.needs_car, optional=True)
    async def car(self, trip: Trip, call: Call) -> str:
        return await agency.book("car", call.id)

    @car.undo
    async def cancel_car(self, trip: Trip, call: Call) -> None:
        await agency.cancel(call.of, call.id)

    @activity(after=(hotel, car), until=Approved, unless=Rejected, within=timedelta(days=3), remind=timedelta(days=1))
    async def approval(self, trip: Trip, call: Call) -> None:
        await agency.ask(call.correlation_id, call.id)

    @activity(pivot=True)
    async def payment(self, trip: Trip, call: Call) -> str:
        return await agency.book("payment", call.id)

    @payment.undo
    async def refund(self, trip: Trip, call: Call) -> None:
        await agency.cancel(call.of, call.id)

    @activity
    async def tickets(self, trip: Trip, call: Call) -> None:
        await agency.book("tickets", call.id)


runner = SagaRunner(
    os.environ.get("DATABASE_URL", "postgresql://localhost/booking"),
    sagas=[TripSaga],
    lifespan=agency.opened,
    # Workers look so often for what the web process has stored; and so long after one has died, another makes its calls.
    settings=RunnerSettings(due_poll=timedelta(milliseconds=200), lease=timedelta(seconds=2)),
)
