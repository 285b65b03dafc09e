"""An order that ships its parcels as children, each of which may have boxes as children of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sagalog import (
    ChildEnded,
    Compensate,
    Complete,
    Gather,
    Saga,
    Send,
    StartChild,
    StepContext,
    leg,
    on,
    on_child,
    starts,
)


@dataclass
class Ordered:
    id: str
    parcels: int
    fate: str = ""  # of each parcel
    undo: bool = False  # take back what a parcel did that had completed


@dataclass
class Withdrawn:
    id: str


@dataclass
class Closed:
    id: str


@dataclass
class Reserve:
    id: str


@dataclass
class Release:
    id: str


@dataclass
class Fetch:
    parcel: str


@dataclass
class ShipParcel:
    id: str
    fate: str = ""
    boxes: int = 0


@dataclass
class Delivered:
    id: str


@dataclass
class Lost:
    id: str


@dataclass
class Carry:
    id: str


@dataclass
class CarryBack:
    id: str


@dataclass
class Receipt:
    id: str


@dataclass
class Order:
    parcels: int = 0
    ended: list[str] = field(default_factory=list)


@dataclass
class Parcel:
    id: str = ""
    boxes: int = 0


class ParcelSaga(Saga[Parcel]):
    name = "parcel"

    @starts(ShipParcel, key="id")
    def ship(self, state: Parcel, event: ShipParcel) -> Any:
        if event.fate == "raise":
            raise ValueError("no such street")
        state.id, state.boxes = event.id, event.boxes
        yield Send(Carry(event.id), undo=CarryBack(event.id))
        for number in range(event.boxes):
            yield StartChild(ParcelSaga, ShipParcel(f"{event.id}-{number}"))
        if event.fate == "at once":
            yield Complete(Receipt(event.id))

    @on(Delivered, key="id")
    def delivered(self, state: Parcel, event: Delivered) -> Any:
        return Complete(Receipt(event.id))

    @on(Lost, key="id")
    def lost(self, state: Parcel, event: Lost) -> Any:
        return Compensate()

    @on_child("parcel")
    def box(self, state: Parcel, ended: ChildEnded) -> Any:
        state.boxes -= 1
        return None if state.boxes else Complete(Receipt(state.id))


class OrderSaga(Saga[Order]):
    name = "order"

    @starts(Ordered, key="id", again="handle")
    def ordered(self, state: Order, event: Ordered) -> Any:
        state.parcels += event.parcels
        yield Send(Reserve(event.id), undo=Release(event.id))
        for number in range(event.parcels):
            parcel = f"{event.id}-{number}"
            yield StartChild(ParcelSaga, ShipParcel(parcel, event.fate), undo=Fetch(parcel) if event.undo else None)

    @on(Withdrawn, key="id")
    def withdrawn(self, state: Order, event: Withdrawn) -> Any:
        return Compensate()

    @on(Closed, key="id")
    def closed(self, state: Order, event: Closed) -> Any:
        return Complete()

    @on_child(ParcelSaga)
    def parcel(self, state: Order, ended: ChildEnded, context: StepContext) -> Any:
        told = f" {type(ended.result).__name__}" if ended.result is not None else ""
        state.ended.append(f"{ended.id} {ended.outcome}{told}")
        return None if len(state.ended) < state.parcels else Complete(len(state.ended))


@dataclass
class Loaded:
    id: str
    parcels: int
    wait: bool = False


@dataclass
class AllGone:
    id: str


@dataclass
class SomeLost:
    id: str


@dataclass
class Lorry:
    id: str = ""
    total: int = 0
    heard: int = 0
    told: str = ""


class LorrySaga(Saga[Lorry]):
    """Ships many parcels, some at a time."""

    name = "lorry"

    @starts(Loaded, key="id")
    def loaded(self, state: Lorry, event: Loaded) -> Any:
        state.id, state.total = event.id, event.parcels
        return Gather("parcels", event.parcels, then=AllGone(event.id), failed=SomeLost(event.id), wait=event.wait)

    @leg("parcels", at_once=50)
    def one(self, state: Lorry, number: int) -> StartChild:
        return StartChild(ParcelSaga, ShipParcel(f"{state.id}-{number}", "at once"))

    @on_child(ParcelSaga)
    def parcel(self, state: Lorry, ended: ChildEnded) -> None:
        state.heard += 1

    @on(AllGone, key="id")
    def gone(self, state: Lorry, event: AllGone, context: StepContext) -> Any:
        assert context.gathered is not None
        state.told = f"{context.gathered.answered} of {context.gathered.total}"
        return Complete(state.heard)

    @on(SomeLost, key="id")
    def lost(self, state: Lorry, event: SomeLost) -> Any:
        return Compensate()
