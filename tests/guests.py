"""Guests, who are found by fields and by keys: `badge` is both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sagalog import AddKey, Complete, Key, RemoveKey, Saga, on, starts


@dataclass
class Came:
    guest: str
    room: int | None = None
    company: str | None = None
    floor: str = "1"
    badge: str | None = ""


@dataclass
class Moved:
    guest: str
    room: int | None = None
    floor: str = "1"


@dataclass
class Went:
    guest: str


@dataclass
class Guest:
    floor: str = ""
    badge: str | None = ""


class GuestSaga(Saga[Guest]):
    name = "guest"
    index = ("floor", "badge")
    keys = (Key("company"), Key("badge"), Key("room"))

    @starts(Came, key="guest", again="ignore")
    def came(self, guest: Guest, event: Came) -> Any:
        guest.floor, guest.badge = event.floor, event.badge
        if event.company is not None:
            yield AddKey("company", event.company)
            yield AddKey("badge", event.company)
        if event.room is not None:
            yield AddKey("room", event.room)

    @on(Moved, key="guest")
    def moved(self, guest: Guest, event: Moved) -> Any:
        guest.floor = event.floor
        yield RemoveKey("company")
        if event.room is not None:
            yield RemoveKey("room")
            yield AddKey("room", event.room)

    @on(Went, key="guest")
    def went(self, guest: Guest, event: Went) -> Any:
        yield Complete()


class RoomSaga(GuestSaga):
    """The same, where a room is for one guest."""

    name = "room"
    keys = (Key("company"), Key("badge"), Key("room", unique=True))
