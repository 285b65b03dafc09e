"""What is printed of our objects helps whoever prints it, and tells no payload and no secret."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from sagalog import (
    Circuit,
    CommandContext,
    CommandPolicy,
    Counters,
    Incoming,
    InMemoryJournal,
    InMemorySagaStateStore,
    JournalSagaStateStore,
    MissingExtraError,
    PersistentRepr,
    RetryPolicy,
    RunnerSettings,
    SagaRunner,
    SavedState,
    SqliteJournal,
    open_journal,
)
from sagalog.blocking import BlockingRunner
from sagalog.brokers import DeadLetter, Decoded, SinkMessage, SourceMessage, Subscription
from sagalog.brokers.kafka import KafkaSink, KafkaSource
from sagalog.brokers.nats import NatsSink, NatsSource
from sagalog.brokers.rabbitmq import RabbitSink, RabbitSource
from sagalog.brokers.redis import RedisSink, RedisSource
from sagalog.dashboard import dashboard_app
from sagalog.telemetry.otel import OpenTelemetryHook
from sagalog.telemetry.prometheus import PrometheusHook
from sagalog.testing import Scenario, VirtualRunner
from sagalog.testing.simulation import World
from sagalog.web import (
    AwaitOutcome,
    BearerToken,
    HmacSignature,
    SignedWebhook,
    StandardWebhooks,
    StatusEndpoint,
    StripeSignature,
    Webhook,
)

from ..docs.test_names import OPEN
from ..orders import OrderSaga, Placed

SECRET = "hunter2hunter2hunter2hunter2"


@dataclass
class Card:
    number: str = SECRET


class Shop(World):
    sagas = (OrderSaga,)


def runner() -> SagaRunner:
    return SagaRunner(f"postgresql://me:{SECRET}@host/db", sagas=[OrderSaga], lifespan=lambda _: SECRET)  # type: ignore[arg-type,return-value]


def printed(folder: Path) -> list[Any]:
    signature = HmacSignature(SECRET.encode(), header="x-signature")
    url = f"nats://me:{SECRET}@host"
    return [
        runner(),
        BlockingRunner(runner()),
        InMemoryJournal(),
        SqliteJournal(folder / "orders.db"),
        open_journal(f"postgresql://me:{SECRET}@host/db"),
        open_journal(url),
        InMemorySagaStateStore("order"),
        JournalSagaStateStore(InMemoryJournal(), "order"),
        PersistentRepr("saga::order::a", 1, SECRET.encode()),
        SavedState(SECRET.encode(), 1),
        RunnerSettings(),
        RetryPolicy(),
        Circuit(),
        CommandPolicy(timeout=timedelta(seconds=5)),
        CommandContext("id", "order", "a", 1, undo=False, resources=Card()),
        Counters(),
        Incoming(Card(), "1"),
        Scenario(OrderSaga),
        NatsSource(url, stream="s", durable="d"),
        NatsSink(url, subject="s"),
        RedisSource(f"redis://:{SECRET}@host/0", stream="s", group="g"),
        RedisSink(f"redis://:{SECRET}@host/0", stream="s"),
        KafkaSource("host:1", topic="t", group="g", options={"sasl_plain_password": SECRET}),
        KafkaSink("host:1", topic="t", options={"sasl_plain_password": SECRET}),
        RabbitSource(f"amqp://me:{SECRET}@host", queue="q"),
        RabbitSink(f"amqp://me:{SECRET}@host", routing_key="q"),
        Subscription(NatsSource(url, stream="s", durable="d")),
        SourceMessage(SECRET.encode(), "1", "stream s, 1", {"authorization": SECRET}),
        SinkMessage(SECRET.encode(), "1", {"authorization": SECRET}),
        DeadLetter("1", "unreadable", "stream s, 1", SECRET.encode(), {"authorization": SECRET}),
        Decoded(Card(), "1"),
        PrometheusHook(CollectorRegistry()),
        OpenTelemetryHook(),
        signature,
        StandardWebhooks(SECRET.encode()),
        StripeSignature(SECRET),
        Webhook(runner(), {"placed": Placed}, signature=signature, message_id=None),
        StatusEndpoint(runner(), OrderSaga),
        AwaitOutcome(OrderSaga, status="/orders/{id}"),
        SignedWebhook(f"https://me:{SECRET}@host/hook?token={SECRET}", signature=signature),
        BearerToken("shop", "a" * 64),
        dashboard_app(f"postgresql://me:{SECRET}@host/db", token=SECRET),
        VirtualRunner("memory://", [OrderSaga], None, None),
        Shop(),
    ]


def test_each_public_object_says_what_it_is_and_tells_no_payload_and_no_secret(tmp_path: Path) -> None:
    for one in printed(tmp_path):
        said = repr(one)
        assert type(one).__name__ in said
        assert " object at 0x" not in said, said
        assert SECRET not in said, said
        assert "a" * 64 not in said, said
        assert len(said) < 300, said


@pytest.mark.parametrize("module", [name for name in OPEN if name not in ("sagalog.mypy", "sagalog.conformance")])
def test_each_public_class_has_a_repr_of_its_own(module: str) -> None:
    try:
        found = importlib.import_module(module)
    except MissingExtraError as error:
        pytest.skip(str(error))
    for name in found.__all__:
        one = getattr(found, name)
        if inspect.isclass(one) and not getattr(one, "_is_protocol", False):
            assert one.__repr__ is not object.__repr__, f"{module}.{name} is printed as <... object at 0x...>"


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (runner(), "<SagaRunner of order on postgresql, not running>"),
        (
            RunnerSettings(max_batch=1, no_instance="raise"),
            "RunnerSettings(max_batch=1, no_instance=<NoInstance.RAISE: 'raise'>)",
        ),
        (Incoming(Card(), "1"), "<Incoming Card, message_id='1', at=None>"),
        (PersistentRepr("p", 2, b"123"), "<PersistentRepr 'p' 2, 3 bytes>"),
        (SavedState(b"123", 2, tombstone=True), "<SavedState version 2, 3 bytes, tombstone>"),
        (
            RetryPolicy(attempts=2),
            "RetryPolicy(attempts=2)",
        ),
    ],
)
def test_a_repr_tells_what_matters(one: Any, said: str) -> None:
    assert repr(one) == said
