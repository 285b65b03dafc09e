"""A saga that ships many parcels, counts what comes, and goes on when all are there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sagalog import Complete, Gather, Refused, Saga, Send, StepContext, leg, on, on_refused, starts


@dataclass
class Begun:
    id: str
    parcels: int
    wait: bool = False
    listed: bool = False
    failing: bool = True


@dataclass
class Shipped:
    id: str
    number: int


@dataclass
class AllShipped:
    id: str


@dataclass
class SomeRefused:
    id: str


@dataclass
class Ship:
    id: str
    number: int


@dataclass
class Weigh:
    id: str


@dataclass
class Bill:
    id: str
    parcels: int


@dataclass
class Parcels:
    id: str = ""
    shipped: int = 0
    total: int = 0
    ended: list[str] = field(default_factory=list)


class GatherSaga(Saga[Parcels]):
    name = "gather"

    @starts(Begun, key="id")
    def begun(self, state: Parcels, event: Begun) -> Any:
        state.id, state.total = event.id, event.parcels
        legs: Any = [Send(Ship(event.id, n)) for n in range(event.parcels)] if event.listed else event.parcels
        failed = SomeRefused(event.id) if event.failing else None
        yield Send(Weigh(event.id))
        yield Gather("parcels", legs, then=AllShipped(event.id), failed=failed, wait=event.wait)

    @leg("parcels", at_once=20)
    def parcel(self, state: Parcels, number: int) -> Send:
        return Send(Ship(state.id, number))

    @on(Shipped, key="id")
    def shipped(self, state: Parcels, event: Shipped) -> None:
        state.shipped += 1

    @on(AllShipped, key="id")
    async def all_shipped(self, state: Parcels, event: AllShipped, context: StepContext) -> Any:
        assert context.gathered is not None
        state.ended.append(f"all {context.gathered.answered} of {context.gathered.total}")
        yield Send(Bill(event.id, state.shipped))
        yield Complete()

    @on(SomeRefused, key="id")
    def some_refused(self, state: Parcels, event: SomeRefused, context: StepContext) -> Any:
        assert context.gathered is not None
        state.ended.append(f"{context.gathered.answered} of {context.gathered.total}, not {context.gathered.refused}")


class HeardGatherSaga(GatherSaga):
    """Is told of each refusal by itself."""

    name = "heard"

    @on_refused(Ship)
    def ship_refused(self, state: Parcels, refused: Refused[Ship]) -> None:
        state.ended.append(f"heard {refused.command.number}")
