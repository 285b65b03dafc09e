"""A saga that is reached by a key, too: parcels of customers."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sagalog import AddKey, Compensate, Complete, Key, Refused, RemoveKey, Saga, Send, SetTimer, on, on_refused, starts


@dataclass
class Ordered:
    order: str
    customers: list[str] = field(default_factory=list)


@dataclass
class Moved:
    """To another customer."""

    order: str
    old: str | None = None
    new: str | None = None


@dataclass
class Closed:
    order: str


@dataclass
class Blocked:
    customer: str
    what: str = "blocked"


@dataclass
class Deliver:
    order: str


@dataclass
class Parcel:
    log: list[str] = field(default_factory=list)


class ParcelSaga(Saga[Parcel]):
    name = "parcel"
    keys = (Key("customer"), Key("address"))

    @starts(Ordered, key="order")
    def ordered(self, parcel: Parcel, event: Ordered) -> Any:
        for customer in event.customers:
            yield AddKey("customer", customer)
        yield Send(Deliver(event.order))

    @on(Moved, key="order")
    def moved(self, parcel: Parcel, event: Moved) -> Any:
        if event.old is not None:
            yield RemoveKey("customer", event.old or None)
        if event.new is not None:
            yield AddKey("customer", event.new)

    @on(Closed, key="order")
    def closed(self, parcel: Parcel, event: Closed) -> Any:
        yield Complete()

    @on(Blocked, key="customer", by="customer")
    def blocked(self, parcel: Parcel, event: Blocked) -> Any:
        parcel.log.append(event.what)
        if event.what == "boom":
            raise RuntimeError("boom")
        if event.what == "close":
            yield Complete()

    @on_refused(Deliver)
    def refused(self, parcel: Parcel, refused: Refused[Deliver]) -> Any:
        yield AddKey("address", refused.reason)


@dataclass
class Booked:
    desk: str
    seats: list[str] = field(default_factory=list)


@dataclass
class Take:
    desk: str
    seat: str
    fail: bool = False


@dataclass
class Leave:
    desk: str
    seat: str | None = None


@dataclass
class Later:
    desk: str
    seat: str
    minutes: int = 1


@dataclass
class Ask:
    desk: str
    seat: str


@dataclass
class Find:
    desk: str
    seat: str


@dataclass
class Shut:
    desk: str
    undo: bool = False


@dataclass
class Scanned:
    seat: str
    close: bool = False


@dataclass
class Desk:
    log: list[str] = field(default_factory=list)


class DeskSaga(Saga[Desk]):
    """Each of its seats is that of one desk."""

    name = "desk"
    keys = (Key("seat", unique=True), Key("floor"))

    @starts(Booked, key="desk")
    def booked(self, desk: Desk, event: Booked) -> Any:
        desk.log.append("booked")
        for seat in event.seats:
            yield AddKey("seat", seat)

    @on(Take, key="desk")
    def take(self, desk: Desk, event: Take) -> Any:
        desk.log.append(f"takes {event.seat}")
        yield AddKey("seat", event.seat)
        if event.fail:
            raise RuntimeError("told to")

    @on(Leave, key="desk")
    def leave(self, desk: Desk, event: Leave) -> Any:
        desk.log.append(f"leaves {event.seat}")
        yield RemoveKey("seat", event.seat)

    @on(Later, key="desk")
    def later(self, desk: Desk, event: Later) -> Any:
        yield SetTimer("later", Take(event.desk, event.seat), after=timedelta(minutes=event.minutes))

    @on(Ask, key="desk")
    def ask(self, desk: Desk, event: Ask) -> Any:
        yield Send(Find(event.desk, event.seat))

    @on(Shut, key="desk")
    def shut(self, desk: Desk, event: Shut) -> Any:
        yield Compensate() if event.undo else Complete()

    @on(Scanned, key="seat", by="seat")
    def scanned(self, desk: Desk, event: Scanned) -> Any:
        desk.log.append(f"scans {event.seat}")
        if event.close:
            yield Complete()
