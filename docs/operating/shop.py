"""The shop that these pages look at: a few orders in orders.db, some of them in trouble.

`python shop.py` makes them; `python shop.py fixed` is a worker with the bug repaired, the carrier back, the shelf unlocked.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sagalog import (
    CancelTimer,
    CommandRefused,
    Compensate,
    Complete,
    RetryPolicy,
    RunnerSettings,
    Saga,
    SagaRunner,
    Send,
    SetTimer,
    on,
    starts,
)

FIXED = "fixed" in sys.argv
RATES = {"EUR": 1.0, **({"CHF": 1.04} if FIXED else {})}


@dataclass
class OrderPlaced:
    order_id: str
    total: int


@dataclass
class PaymentReceived:
    order_id: str
    currency: str = "EUR"


@dataclass
class ParcelDelivered:
    order_id: str


@dataclass
class AddressChanged:
    order_id: str
    street: str


@dataclass
class OrderCancelled:
    order_id: str


@dataclass
class PaymentOverdue:
    order_id: str


@dataclass
class ReserveStock:
    order_id: str


@dataclass
class ReleaseStock:
    order_id: str


@dataclass
class ShipOrder:
    order_id: str


@dataclass
class OrderState:
    total: int = 0
    paid: bool = False
    street: str = ""


class OrderSaga(Saga[OrderState]):
    name = "order"

    @starts(OrderPlaced, key="order_id")
    def placed(self, state: OrderState, event: OrderPlaced) -> Any:
        state.total = event.total
        yield Send(ReserveStock(event.order_id), undo=ReleaseStock(event.order_id))
        yield SetTimer("payment", PaymentOverdue(event.order_id), after=timedelta(minutes=15))

    @on(PaymentReceived, key="order_id")
    def paid(self, state: OrderState, event: PaymentReceived) -> Any:
        state.total = round(state.total * RATES[event.currency])
        state.paid = True
        yield CancelTimer("payment")
        yield Send(ShipOrder(event.order_id))

    @on(ParcelDelivered, key="order_id")
    def delivered(self, state: OrderState, event: ParcelDelivered) -> Any:
        return Complete()

    @on(AddressChanged, key="order_id")
    def moved(self, state: OrderState, event: AddressChanged) -> None:
        state.street = event.street

    @on(OrderCancelled, key="order_id")
    def cancelled(self, state: OrderState, event: OrderCancelled) -> Any:
        return Compensate()

    @on(PaymentOverdue, key="order_id")
    def overdue(self, state: OrderState, event: PaymentOverdue) -> Any:
        return Compensate()


def carry_out(command: Any) -> None:
    """Stand for the services behind: without `fixed`, one is away, and one says no."""
    if FIXED:
        return
    if command == ShipOrder("A-4"):
        raise ConnectionError
    if command == ReleaseStock("A-5"):
        raise CommandRefused("the shelf is locked")


SOON = RetryPolicy(attempts=2, base=timedelta(milliseconds=1), cap=timedelta(milliseconds=1))
runner = SagaRunner(
    "sqlite:///orders.db",
    sagas=[OrderSaga],
    dispatch=carry_out,
    settings=RunnerSettings(handler_retry=SOON, dispatch_retry=SOON),
)


async def main() -> None:
    logging.disable()
    async with runner:
        if not FIXED:
            for number in range(1, 6):
                await runner.handle(OrderPlaced(f"A-{number}", 40 * number), message_id=f"placed-{number}")
                await runner.settle()
            for event, message_id in (
                (PaymentReceived("A-2", "CHF"), "payment-2"),
                (AddressChanged("A-2", "9 High Street"), "address-2"),
                (PaymentReceived("A-3"), "payment-3"),
                (ParcelDelivered("A-3"), "delivered-3"),
                (PaymentReceived("A-4"), "payment-4"),
                (OrderCancelled("A-5"), "cancel-5"),
            ):
                await runner.handle(event, message_id=message_id)
                await runner.settle()
            while runner.counters.parked < 2:  # the order whose parcel nobody takes
                await asyncio.sleep(0.01)
        await runner.settle()


if __name__ == "__main__":
    asyncio.run(main())
