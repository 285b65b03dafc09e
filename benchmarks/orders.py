"""The five-step order saga that is measured: inbox, outbox, undo stack, one timer set and cancelled, completion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sagalog import (
    Action,
    CancelTimer,
    Complete,
    JournalUnavailableError,
    OutcomeUnknownError,
    Saga,
    SagaRunner,
    Send,
    SetTimer,
    on,
    starts,
)


@dataclass
class Placed:
    order: str
    total: int


@dataclass
class Paid:
    order: str


@dataclass
class Packed:
    order: str


@dataclass
class Shipped:
    order: str


@dataclass
class Delivered:
    order: str


@dataclass
class Overdue:
    order: str


@dataclass
class Reserve:
    order: str


@dataclass
class Release:
    order: str


@dataclass
class Pack:
    order: str


@dataclass
class Ship:
    order: str


@dataclass
class Thank:
    order: str


@dataclass
class Order:
    total: int = 0
    paid: bool = False
    steps: int = 0


class OrderSaga(Saga[Order]):
    name = "order"

    @starts(Placed, key="order")
    def placed(self, state: Order, event: Placed) -> Iterator[Action]:
        state.total = event.total
        state.steps += 1
        yield Send(Reserve(event.order), undo=Release(event.order))
        yield SetTimer("payment", Overdue(event.order), after=timedelta(minutes=15))

    @on(Paid, key="order")
    def paid(self, state: Order, event: Paid) -> Iterator[Action]:
        state.paid = True
        state.steps += 1
        yield CancelTimer("payment")
        yield Send(Pack(event.order))

    @on(Packed, key="order")
    def packed(self, state: Order, event: Packed) -> Iterator[Action]:
        state.steps += 1
        yield Send(Ship(event.order))

    @on(Shipped, key="order")
    def shipped(self, state: Order, event: Shipped) -> Iterator[Action]:
        state.steps += 1
        yield Send(Thank(event.order))

    @on(Delivered, key="order")
    def delivered(self, state: Order, event: Delivered) -> Iterator[Action]:
        state.steps += 1
        yield Complete()

    @on(Overdue, key="order")
    def overdue(self, state: Order, event: Overdue) -> None: ...


EVENTS = (lambda order: Placed(order, 5), Paid, Packed, Shipped, Delivered)


async def handle_surely(runner: SagaRunner, event: Any, message_id: str) -> int:
    """Handle an event as a careful sender does: again under the same id while the journal is away; how often again."""
    again = 0
    while True:
        try:
            await runner.handle(event, message_id=message_id)
            return again
        except (JournalUnavailableError, OutcomeUnknownError):  # a server that changes its leader, for instance
            again += 1
