"""A shop whose saga ends: with a receipt, or when the payment fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sagalog import CommandRefused, Complete, Saga, Send, on, on_refused, starts


@dataclass
class OrderPlaced:
    order_id: str
    amount: int = 1


@dataclass
class PaymentReceived:
    order_id: str


@dataclass
class Charge:
    order_id: str


@dataclass
class Charged:
    order_id: str


@dataclass
class Receipted:
    order_id: str
    amount: int


@dataclass
class ShopState:
    amount: int = 0
    paid: bool = False


class ShopSaga(Saga[ShopState]):
    name = "shop"

    @starts(OrderPlaced, key="order_id", again="raise")
    def placed(self, state: ShopState, event: OrderPlaced) -> Any:
        state.amount = event.amount
        yield Send(Charge(event.order_id))

    @on(Charged, key="order_id")
    def charged(self, state: ShopState, event: Charged) -> None:
        state.paid = True

    @on_refused(Charge)
    def refused(self, state: ShopState, event: Any) -> Any:
        yield Complete("refused")

    @on(PaymentReceived, key="order_id")
    def received(self, state: ShopState, event: PaymentReceived) -> Any:
        yield Complete(Receipted(event.order_id, state.amount))


def charge(command: Charge) -> Charged:
    if command.order_id.startswith("poor"):
        raise CommandRefused("no money")
    return Charged(command.order_id)
