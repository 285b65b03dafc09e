"""Orders that are charged, shipped and mailed: workers on one journal, in virtual time, whose receivers may be away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sagalog import (
    CommandContext,
    InMemoryJournal,
    JournalUnavailableError,
    RunnerSettings,
    Saga,
    SagaRecord,
    SagaRunner,
    Send,
    starts,
)
from sagalog.decision.record import decode_record
from sagalog.testing.simulation.clock import LoopClock
from sagalog.testing.simulation.loop import VirtualLoop


@dataclass
class Ordered:
    id: str


@dataclass
class Mailed:
    id: str


@dataclass
class ShipOrder:
    id: str


@dataclass
class UnshipOrder:
    id: str


@dataclass
class Mail:
    id: str


@dataclass
class Nothing:
    pass


class Shipping(Saga[Nothing]):
    """Ships an order, and mails one that asks for it only."""

    name = "shipping"

    @starts(Ordered, key="id")
    def ordered(self, state: Nothing, event: Ordered) -> Any:
        return Send(ShipOrder(event.id), undo=UnshipOrder(event.id))

    @starts(Mailed, key="id")
    def mailed(self, state: Nothing, event: Mailed) -> Any:
        return Send(Mail(event.id))


class CountingJournal(InMemoryJournal):
    """Counts what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.moves = 0
        self.control_looks: list[float] = []  # at what is no instance
        self.own_writes = 0  # of that
        self.own_away = False  # that is not answered for

    async def write_messages(self, messages: Any, *, atomic: bool = False) -> None:
        if self.own_away:
            raise JournalUnavailableError("away")
        self.own_writes += len(messages)
        await super().write_messages(messages, atomic=atomic)

    async def write_batch(self, records: Any) -> Any:
        self.writes += len(records)
        own = self.own_writes
        answers = await super().write_batch(records)
        self.own_writes = own  # in memory a batch is written by write_messages
        return answers

    async def move_due(self, moves: Any) -> Any:
        self.moves += len(moves)
        return await super().move_due(moves)

    async def latest_messages(self, persistence_ids: Any) -> Any:
        if any(one.startswith("sagalog::") for one in persistence_ids):
            self.control_looks.append(asyncio.get_running_loop().time())
        return await super().latest_messages(persistence_ids)

    async def record(self, order: str) -> SagaRecord:
        latest = await self.latest_message(f"saga::shipping::{order}")
        assert latest is not None
        return decode_record(latest.payload)


class Receivers:
    """The outside: what left, when and in which attempt; `away`: why attempts at a type fail meanwhile."""

    def __init__(self) -> None:
        self.left: list[tuple[float, str, str]] = []  # when, type, order
        self.attempts: list[int] = []
        self.away: dict[type, BaseException] = {}
        self.does: Callable[[Any], Awaitable[None]] | None = None

    def of(self, kind: type) -> list[str]:
        return [order for _, name, order in self.left if name == kind.__name__]

    def note(self, command: Any, context: CommandContext) -> None:
        now = asyncio.get_running_loop().time()
        self.left.append((round(now, 3), type(command).__name__, command.id))
        self.attempts.append(context.attempt)
        if type(command) in self.away:
            raise self.away[type(command)]

    async def take(self, command: Any, context: CommandContext) -> None:
        self.note(command, context)
        if self.does is not None:
            await self.does(command)


def worker(
    journal: Any, receivers: Receivers, *, plain: bool = False, policy: Any = None, **settings: Any
) -> SagaRunner:
    """Return a worker whose ShipOrder has this policy. `plain`: its handlers are plain functions."""
    runner = SagaRunner(
        journal,
        sagas=[Shipping],
        clock=LoopClock(timedelta(0)),
        settings=RunnerSettings(**settings),
    )
    for kind in (ShipOrder, UnshipOrder, Mail):
        runner.command(kind, **((policy or {}) if kind is ShipOrder else {}))(
            receivers.note if plain else receivers.take
        )
    return runner


def virtually(work: Coroutine[Any, Any, None]) -> None:
    """Run a test in virtual time."""
    loop = VirtualLoop()
    try:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(asyncio.wait_for(work, 100_000_000))
    finally:
        loop.close()
        asyncio.set_event_loop(None)
