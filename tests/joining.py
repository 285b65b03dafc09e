"""A saga that ships when it is paid and its stock is reserved, in whatever order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sagalog import Complete, Saga, Send, StepContext, on, starts, when_all


@dataclass
class Ordered:
    id: str


@dataclass
class Paid:
    id: str
    ends: bool = False


@dataclass
class Reserved:
    id: str


@dataclass
class Closed:
    id: str


@dataclass
class Failing:
    id: str


@dataclass
class Ship:
    id: str


@dataclass
class Thank:
    id: str


@dataclass
class Shipping:
    log: list[str] = field(default_factory=list)


class JoinSaga(Saga[Shipping]):
    name = "join"
    failing = False  # the outside world

    @starts(Ordered, key="id", again="ignore")
    def ordered(self, state: Shipping, event: Ordered) -> None:
        state.log.append("ordered")

    @on(Paid, key="id")
    def paid(self, state: Shipping, event: Paid) -> Any:
        state.log.append("paid")
        yield Send(Thank(event.id))
        if event.ends:
            yield Complete()

    @on(Reserved, key="id")
    async def reserved(self, state: Shipping, event: Reserved) -> None:
        state.log.append("reserved")

    @when_all(Paid, Reserved)
    def ready(self, state: Shipping, context: StepContext) -> Any:
        assert "paid" in state.log
        assert "reserved" in state.log
        if type(self).failing:
            raise RuntimeError("failing")
        state.log.append("ready")
        yield Send(Ship(context.correlation_id))

    @when_all(Ordered, Closed, name="closing")
    async def closed_after_all(self, state: Shipping) -> Any:
        state.log.append("closing")

    @on(Closed, key="id")
    def closed(self, state: Shipping, event: Closed) -> Any:
        state.log.append("closed")
