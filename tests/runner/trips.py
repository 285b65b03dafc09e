"""A saga that completes with a result, to be asked about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sagalog import Action, Compensate, Complete, Saga, Send, on, starts


@dataclass
class Asked:
    trip: str


@dataclass
class Booked:
    trip: str
    number: str = ""


@dataclass
class Failed:
    trip: str


@dataclass
class CalledOff:
    trip: str


@dataclass
class Book:
    trip: str


@dataclass
class Unbook:
    trip: str


@dataclass
class Booking:
    number: str
    pages: list[int] = field(default_factory=list)


@dataclass
class Trip:
    number: str = ""
    log: list[str] = field(default_factory=list)


class TripSaga(Saga[Trip]):
    name = "trip"
    messages = (Booking,)

    @starts(Asked, key="trip")
    def asked(self, trip: Trip, event: Asked) -> Iterator[Action]:
        trip.log.append("asked")
        yield Send(Book(event.trip), undo=Unbook(event.trip))

    @on(Booked, key="trip")
    def booked(self, trip: Trip, event: Booked) -> Iterator[Action]:
        trip.number = event.number
        yield Complete(Booking(event.number, list(range(5000 if event.number == "large" else 2))))

    @on(CalledOff, key="trip")
    def called_off(self, trip: Trip, event: CalledOff) -> Action:
        return Compensate()

    @on(Failed, key="trip")
    def failed(self, trip: Trip, event: Failed) -> Any:
        raise RuntimeError("boom")
