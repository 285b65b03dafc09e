"""The same saga as older and as newer code has it, and a worker of each on one journal."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sagalog import (
    Compensate,
    Complete,
    JournalSagaStateStore,
    RetryPolicy,
    Saga,
    SagaRunner,
    SavedState,
    Schedule,
    Send,
    SetTimer,
    on,
    schema,
    starts,
    upcast,
)
from sagalog.decision.state import decode_state

from ..orders import Cancelled, Closed, Failing, Noted, Placed, World
from .conftest import Bench


@dataclass
class Ship:
    order_id: str


@dataclass
class Remind:
    order_id: str


@dataclass
class Unship:
    order_id: str


@dataclass
class Told:
    """Known to the old code, which has no handler for it yet."""

    order_id: str


@dataclass
class State:
    log: list[str] = field(default_factory=list)


class Old(Saga[State]):
    name = "order"
    messages = (Ship, Unship, Told)

    @starts(Placed, key="order_id")
    def placed(self, state: State, event: Placed) -> Any:
        state.log.append("placed")

    @on(Noted, key="order_id")
    def noted(self, state: State, event: Noted) -> Any:
        state.log.append(event.text)
        return Send(Ship(event.order_id))

    @on(Remind, key="order_id")
    def reminded(self, state: State, event: Remind) -> Any:
        state.log.append("reminded")

    @on(Failing, key="order_id")
    def failing(self, state: State, event: Failing) -> Any:
        raise RuntimeError

    @on(Cancelled, key="order_id")
    def cancelled(self, state: State, event: Cancelled) -> Any:
        state.log.append("cancelled")
        return Compensate()

    @on(Closed, key="order_id")
    def closed(self, state: State, event: Closed) -> Any:
        state.log.append("closed")
        return Complete()


@schema(name="Ship", version=2)
@dataclass
class NewShip:
    order_id: str
    express: bool = True


@upcast(NewShip, from_version=1)
def _(document: Any) -> Any:
    return {**document, "express": False}


@schema(name="Unship", version=2)
@dataclass
class NewUnship:
    order_id: str
    why: str = "cancelled"


@schema(name="Remind", version=2)
@dataclass
class NewRemind:
    order_id: str
    text: str = "again"


@upcast(NewRemind, from_version=1)
def _(document: Any) -> Any:
    return {**document, "text": "upcast"}


@dataclass
class Asked:
    order_id: str
    what: str


class New(Saga[State]):
    """The same state, newer messages."""

    name = "order"
    messages = (NewShip, NewUnship)

    @starts(Placed, key="order_id")
    def placed(self, state: State, event: Placed) -> Any:
        state.log.append("placed")

    @on(Noted, key="order_id")
    def noted(self, state: State, event: Noted) -> Any:
        state.log.append(event.text)
        return Send(NewShip(event.order_id))

    @on(Asked, key="order_id")
    def asked(self, state: State, event: Asked) -> Any:
        state.log.append(event.what)
        hour = timedelta(hours=1)
        return {
            "undo": Send(NewShip(event.order_id), undo=NewUnship(event.order_id)),
            "timer": SetTimer("t", NewRemind(event.order_id), after=hour),
            "told": SetTimer("t", Told(event.order_id), after=hour),
            "schedule": Schedule(NewShip(event.order_id), after=hour),
        }[event.what]

    @on(NewRemind, key="order_id")
    def reminded(self, state: State, event: NewRemind) -> Any:
        state.log.append(f"reminded {event.text}")

    @on(Told, key="order_id")
    def told(self, state: State, event: Told) -> Any:
        state.log.append("told")

    @on(Failing, key="order_id")
    def failing(self, state: State, event: Failing) -> Any:
        state.log.append("did not fail")

    @on(Cancelled, key="order_id")
    def cancelled(self, state: State, event: Cancelled) -> Any:
        state.log.append("cancelled")
        return Compensate()


@schema(name="State", version=2)
@dataclass
class NewState:
    entries: list[str] = field(default_factory=list)


@upcast(NewState, from_version=1)
def _(document: Any) -> Any:
    return {"entries": document["log"]}


class Newest(Saga[NewState]):
    """A newer state as well."""

    name = "order"

    @starts(Placed, key="order_id")
    def placed(self, state: NewState, event: Placed) -> Any:
        state.entries.append("placed")

    @on(Noted, key="order_id")
    def noted(self, state: NewState, event: Noted) -> Any:
        state.entries.append(event.text)
        return Send(NewShip(event.order_id))


class Side:
    """An old and a new worker on one journal, each with the world it sends commands to."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.old_world, self.new_world = World(), World()

    def old(self, saga: type[Saga[Any]] = Old, **settings: Any) -> SagaRunner:
        settings.setdefault("dispatch_retry", RetryPolicy(attempts=1))
        return self.bench.runner(sagas=[saga], dispatch=self.old_world, due_poll=timedelta(seconds=3600), **settings)

    def new(self, saga: type[Saga[Any]] = New, **settings: Any) -> SagaRunner:
        return self.bench.runner(sagas=[saga], dispatch=self.new_world, due_poll=timedelta(seconds=3600), **settings)

    async def stored(self) -> SavedState:
        saved = await self.bench.stored("a")
        assert saved is not None
        return saved

    async def due(self) -> list[str]:
        assert self.bench.journal is not None
        store = JournalSagaStateStore(self.bench.journal, "order")
        return [key for key, _ in await store.due(self.bench.clock.now())]

    async def log(self) -> list[str]:
        state: State = decode_state(New(), await self.bench.record("a"))
        return state.log


async def until(condition: Any) -> None:
    async with asyncio.timeout(40):
        while not condition():
            await asyncio.sleep(0.001)


async def dead_with(side: Side, event: Any) -> None:
    """Let a new worker save what `event` leads to, and die before it delivers anything."""
    never = asyncio.Event()

    async def hang(command: Any) -> None:
        await never.wait()

    runner = side.bench.runner(sagas=[New], dispatch=hang, due_poll=timedelta(seconds=3600), stop_timeout=timedelta(0))
    async with runner:
        await runner.handle(Placed("a"))
        await runner.handle(event)
