"""A saga that is reached by a key, too: parcels of customers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sagalog import AddKey, Complete, Key, Refused, RemoveKey, Saga, Send, on, on_refused, starts


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
