"""A trip as an itinerary, and the outside that its activities call: what the tests of activities share."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from sagalog import Call, CommandRefused, ItinerarySaga, activity


@dataclass
class TripRequested:
    trip_id: str
    car: bool = True


@dataclass
class Trip:
    request: TripRequested | None = None
    flight: str | None = None
    hotel: str | None = None
    car: str | None = None
    payment: int | None = None

    @property
    def needs_car(self) -> bool:
        return self.request is not None and self.request.car


@dataclass
class World:
    """What was called from outside, and how it answers: a result, an error to raise, or what to wait for first."""

    calls: list[tuple[str, Call]] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    running: Counter[str] = field(default_factory=Counter)
    begun: dict[str, asyncio.Event] = field(default_factory=dict)

    async def call(self, name: str, call: Call, default: Any = None) -> Any:
        self.calls.append((name, call))
        self.running[name] += 1
        self.begun.setdefault(name, asyncio.Event()).set()
        try:
            if name in self.gates:
                await self.gates[name].wait()
        finally:
            self.running[name] -= 1
        answer = self.answers.get(name, default)
        if callable(answer):
            answer = answer(call)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def gate(self, name: str) -> asyncio.Event:
        return self.gates.setdefault(name, asyncio.Event())

    async def reached(self, name: str) -> None:
        await self.begun.setdefault(name, asyncio.Event()).wait()


def refused(reason: str = "sold out") -> CommandRefused:
    return CommandRefused(reason)


class TripSaga(ItinerarySaga[Trip]):
    name = "trip"
    starts_with, key = TripRequested, "trip_id"

    def __init__(self, world: World | None = None) -> None:
        self.world = world or World()

    def result(self, trip: Trip) -> str | None:
        return trip.flight

    @activity
    async def flight(self, trip: Trip, call: Call) -> str:
        return await self.world.call("flight", call, "LH 1")

    @flight.undo
    async def cancel_flight(self, trip: Trip, call: Call) -> None:
        await self.world.call(f"cancel {trip.flight}", call)

    @activity(after=flight)
    async def hotel(self, trip: Trip, call: Call) -> str:
        return await self.world.call("hotel", call, "Ritz")

    @hotel.undo
    async def cancel_hotel(self, trip: Trip, call: Call) -> None:
        await self.world.call(f"cancel {trip.hotel}", call)

    @activity(after=flight, when=lambda trip: trip.needs_car)
    async def car(self, trip: Trip, call: Call) -> str:
        return await self.world.call("car", call, "Beetle")

    @car.undo
    async def cancel_car(self, trip: Trip, call: Call) -> None:
        await self.world.call(f"cancel {trip.car}", call)

    @activity(after=(hotel, car))
    async def payment(self, trip: Trip, call: Call) -> int:
        return await self.world.call("payment", call, 100)
