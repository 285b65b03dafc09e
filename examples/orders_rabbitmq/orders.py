"""An order service on RabbitMQ: `sagalog worker examples.orders_rabbitmq.orders:runner`.

queue orders ─► OrderSaga ─► exchange shop ─► queues stock, payments, parcels ─► other services ─► queue orders
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from sagalog import Compensate, Complete, RunnerSettings, Saga, SagaRunner, Send, on, starts
from sagalog.brokers.rabbitmq import RabbitSink, RabbitSource

RABBITMQ = os.environ.get("RABBITMQ", "amqp://guest:guest@localhost/")


@dataclass
class OrderPlaced:
    order_id: str
    cents: int


@dataclass
class StockReserved:
    order_id: str


@dataclass
class PaymentReceived:
    order_id: str


@dataclass
class PaymentDeclined:
    order_id: str


@dataclass
class ParcelHandedIn:
    order_id: str
    parcel: str


@dataclass
class ReserveStock:
    order_id: str


@dataclass
class ReleaseStock:
    order_id: str


@dataclass
class ChargeCard:
    order_id: str
    cents: int


@dataclass
class ShipOrder:
    order_id: str


@dataclass
class Order:
    cents: int = 0


class OrderSaga(Saga[Order]):
    name = "order"

    @starts(OrderPlaced, key="order_id")
    def placed(self, order: Order, event: OrderPlaced) -> Iterator[Send]:
        order.cents = event.cents
        yield Send(ReserveStock(event.order_id), undo=ReleaseStock(event.order_id))

    @on(StockReserved, key="order_id")
    def reserved(self, order: Order, event: StockReserved) -> Iterator[Send]:
        yield Send(ChargeCard(event.order_id, order.cents))

    @on(PaymentReceived, key="order_id")
    def paid(self, order: Order, event: PaymentReceived) -> Iterator[Send]:
        yield Send(ShipOrder(event.order_id))

    @on(PaymentDeclined, key="order_id")
    def declined(self, order: Order, event: PaymentDeclined) -> Compensate:
        return Compensate()  # sends ReleaseStock

    @on(ParcelHandedIn, key="order_id")
    def shipped(self, order: Order, event: ParcelHandedIn) -> Complete:
        return Complete(f"shipped as {event.parcel}")


def sink(queue: str) -> RabbitSink:
    return RabbitSink(RABBITMQ, exchange="shop", routing_key=queue)


stock = sink("stock")

runner = SagaRunner(
    os.environ.get("JOURNAL", "sqlite:///orders.db"),
    sagas=[OrderSaga],
    sources=[RabbitSource(RABBITMQ, queue="orders")],
    sinks={ReserveStock: stock, ReleaseStock: stock, ChargeCard: sink("payments"), ShipOrder: sink("parcels")},
    settings=RunnerSettings(lease=timedelta(seconds=2)),  # so soon another worker goes on where one has died
)
