"""An order service on Kafka: `sagalog worker examples.orders_kafka.orders:runner`.

topic orders ─► OrderSaga ─► topic payments, topic parcels ─► other services ─► topic orders
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from sagalog import Complete, RunnerSettings, Saga, SagaRunner, Send, on, starts
from sagalog.brokers.kafka import KafkaSink, KafkaSource

KAFKA = os.environ.get("KAFKA", "localhost:9092")


@dataclass
class OrderPlaced:
    order_id: str
    cents: int


@dataclass
class PaymentReceived:
    order_id: str


@dataclass
class PaymentDeclined:
    order_id: str
    reason: str


@dataclass
class PaymentIsLate:
    order_id: str


@dataclass
class ParcelHandedIn:
    order_id: str
    parcel: str


@dataclass
class ChargeCard:
    order_id: str
    cents: int


@dataclass
class ShipOrder:
    order_id: str


@dataclass
class Order:
    paid: bool = False


class OrderSaga(Saga[Order]):
    name = "order"

    @starts(OrderPlaced, key="order_id")
    def placed(self, order: Order, event: OrderPlaced) -> Iterator[Send]:
        yield Send(
            ChargeCard(event.order_id, event.cents),
            reply=PaymentReceived,
            reply_within=timedelta(hours=1),
            otherwise=PaymentIsLate(event.order_id),
        )

    @on(PaymentReceived, key="order_id")
    def paid(self, order: Order, event: PaymentReceived) -> Iterator[Send]:
        order.paid = True
        yield Send(ShipOrder(event.order_id))

    @on(PaymentDeclined, key="order_id")
    def declined(self, order: Order, event: PaymentDeclined) -> Complete:
        return Complete(f"declined: {event.reason}")

    @on(PaymentIsLate, key="order_id")
    def late(self, order: Order, event: PaymentIsLate) -> Complete:
        return Complete("never paid")

    @on(ParcelHandedIn, key="order_id")
    def shipped(self, order: Order, event: ParcelHandedIn) -> Complete:
        return Complete(f"shipped as {event.parcel}")


runner = SagaRunner(
    os.environ.get("JOURNAL", "sqlite:///orders.db"),
    sagas=[OrderSaga],
    sources=[KafkaSource(KAFKA, topic="orders", group="order-saga", session_timeout=timedelta(seconds=2))],
    sinks={ChargeCard: KafkaSink(KAFKA, topic="payments"), ShipOrder: KafkaSink(KAFKA, topic="parcels")},
    settings=RunnerSettings(lease=timedelta(seconds=2)),  # so soon another worker goes on where one has died
)
