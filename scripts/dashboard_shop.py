"""A shop with some hundred orders in every state that an order can have, for the pictures of the dashboard."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sagalog import (
    CancelTimer,
    CommandContext,
    CommandRefused,
    Compensate,
    Complete,
    Saga,
    SagaRunner,
    Send,
    SetTimer,
    on,
    starts,
)
from sagalog.journal import Journal
from sagalog.runner import ManualClock, RetryPolicy, RunnerSettings


@dataclass
class Card:
    holder: str
    number: str


@dataclass
class OrderPlaced:
    order_id: str
    customer: str
    total: int
    card: Card


@dataclass
class StockReserved:
    order_id: str
    shelf: str


@dataclass
class PaymentReceived:
    order_id: str
    amount: int


@dataclass
class PaymentOverdue:
    order_id: str


@dataclass
class OrderShipped:
    order_id: str
    parcel: str


@dataclass
class OrderCancelled:
    order_id: str


@dataclass
class ReserveStock:
    order_id: str


@dataclass
class ReleaseStock:
    order_id: str


@dataclass
class ChargeCard:
    order_id: str
    amount: int
    card: Card


@dataclass
class RefundCard:
    order_id: str
    amount: int


@dataclass
class ShipOrder:
    order_id: str
    shelf: str


@dataclass
class OrderState:
    customer: str = ""
    total: int = 0
    paid: int = 0
    shelf: str = ""
    card: Card | None = None
    parcels: list[str] = field(default_factory=list)


class OrderSaga(Saga[OrderState]):
    name = "order"

    @starts(OrderPlaced, key="order_id")
    def placed(self, state: OrderState, event: OrderPlaced):
        state.customer, state.total, state.card = event.customer, event.total, event.card
        yield Send(ReserveStock(event.order_id), undo=ReleaseStock(event.order_id))
        yield SetTimer("payment", PaymentOverdue(event.order_id), after=timedelta(minutes=45))

    @on(StockReserved, key="order_id")
    def reserved(self, state: OrderState, event: StockReserved):
        state.shelf = event.shelf
        yield Send(
            ChargeCard(event.order_id, state.total, state.card or Card("", "")),
            undo=RefundCard(event.order_id, state.total),
        )

    @on(PaymentReceived, key="order_id")
    def paid(self, state: OrderState, event: PaymentReceived):
        if event.amount != state.total:
            raise ValueError("the amount is not what was ordered for")
        state.paid = event.amount
        yield CancelTimer("payment")
        yield Send(ShipOrder(event.order_id, state.shelf))

    @on(OrderShipped, key="order_id")
    def shipped(self, state: OrderState, event: OrderShipped):
        state.parcels.append(event.parcel)
        yield Complete()

    @on(OrderCancelled, key="order_id")
    def cancelled(self, state: OrderState, event: OrderCancelled):
        yield Compensate()

    @on(PaymentOverdue, key="order_id")
    def overdue(self, state: OrderState, event: PaymentOverdue):
        yield Compensate()


class ReturnSaga(OrderSaga):
    name = "return"


class World:
    def __init__(self) -> None:
        self.away: set[type] = set()
        self.refuses: set[type] = set()

    def __call__(self, command: object, context: CommandContext) -> None:
        if type(command) in self.refuses:
            raise CommandRefused("the bank says no")
        if type(command) in self.away:
            raise ConnectionError


async def fill(journal: Journal, orders: int = 240) -> None:
    """Run the orders of some hours, and leave their journal as if the worker had stopped a minute ago."""
    clock = ManualClock(datetime.now(UTC) - timedelta(seconds=31) * (orders + 9))
    world = World()
    never = RetryPolicy(attempts=2, base=timedelta(milliseconds=1), cap=timedelta(milliseconds=1))
    settings = RunnerSettings(
        handler_retry=never, stop_timeout=timedelta(milliseconds=200), lease=timedelta(seconds=60)
    )
    runner = SagaRunner(journal, sagas=[OrderSaga], dispatch=world, clock=clock, settings=settings)
    async with runner:
        for number in range(orders):
            clock.advance(timedelta(seconds=31))
            order = f"A-{1000 + number}"
            card = Card(f"Customer {number}", f"4556 7375 8689 {9855 - number}")
            await runner.handle(
                OrderPlaced(order, f"customer-{number % 90}", 20 + number, card), message_id=f"web-{number}"
            )
            if number > 0.97 * orders:
                continue
            await runner.handle(StockReserved(order, f"S-{number % 12}"), message_id=f"stock-{number}")
            fate = number % 24
            if fate == 3:
                await runner.handle(OrderCancelled(order), message_id=f"cancel-{number}")
            elif fate == 5 and number > 100:
                await runner.handle(PaymentReceived(order, 1), message_id=f"pay-{number}")
                await runner.handle(OrderShipped(order, f"P-{number}"), message_id=f"parcel-{number}")
            elif fate == 7 and number > 150:
                world.refuses = {RefundCard}
                await runner.handle(OrderCancelled(order), message_id=f"cancel-{number}")
                await runner.settle()
                world.refuses = set()
            elif fate not in (8, 9):
                await runner.handle(PaymentReceived(order, 20 + number), message_id=f"pay-{number}")
                if number < 0.8 * orders:
                    await runner.handle(OrderShipped(order, f"P-{number}"), message_id=f"parcel-{number}")
        await runner.settle()
        world.away = {ShipOrder, ReserveStock}
        for number in range(3):
            clock.advance(timedelta(seconds=40))
            await runner.handle(
                OrderPlaced(f"B-{number}", "customer-7", 300, Card("Customer 7", "4556 0000 1111 2222")),
                message_id=f"late-{number}",
            )
        await runner.handle(PaymentReceived(f"A-{1000 + orders - 20}", 20 + orders - 20), message_id="late-pay")


async def go_on(journal: Journal, seconds: int) -> None:
    """Let orders come in for so long, faster and slower."""
    async with SagaRunner(journal, sagas=[ReturnSaga], dispatch=World()) as runner:
        for number in range(seconds * 5):
            await asyncio.sleep(0.1 + 0.3 * random.random())
            order, card = f"C-{number}", Card(f"Customer {number}", "4556")
            await runner.handle(OrderPlaced(order, "customer-9", 99, card), message_id=f"now-{number}")
            await asyncio.sleep(random.random() / 10)
            if number % 9 == 4:
                await runner.handle(OrderCancelled(order), message_id=f"OrderCancelled-{number}")
            for event in (StockReserved(order, "S-1"), PaymentReceived(order, 99), OrderShipped(order, "P")):
                if random.random() < 0.9:
                    await runner.handle(event, message_id=f"{type(event).__name__}-{number}")
