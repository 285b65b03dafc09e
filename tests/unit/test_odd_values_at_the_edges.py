"""Whatever the classes of web, brokers and scenarios are given, they take it or raise an error of ours that names it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sagalog import DefinitionError, SagalogError, SagaRunner
from sagalog.brokers import Publication, Subscription
from sagalog.brokers.kafka import KafkaSink, KafkaSource
from sagalog.brokers.nats import NatsSink, NatsSource
from sagalog.brokers.rabbitmq import RabbitSink, RabbitSource
from sagalog.brokers.redis import RedisSink, RedisSource
from sagalog.testing import Scenario
from sagalog.web import (
    AwaitOutcome,
    BearerToken,
    HmacSignature,
    ServedRunner,
    SignedWebhook,
    StandardWebhooks,
    StatusEndpoint,
    StripeSignature,
    Webhook,
)

from ..orders import OrderSaga, Placed

NAIVE = datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)
ODD: list[Any] = [
    None, 0, -1, 1.5, math.nan, math.inf, True, "", "x", "a\0b", "\ud800", "a\nb", "x" * 100_000, b"x", [], {}, {1},
    object(), int, lambda: 1, NAIVE, datetime(2026, 1, 1, tzinfo=UTC), timedelta(0), timedelta(-1),
    timedelta(seconds=1), timedelta.max, 10**400, (n for n in [1]),
]  # fmt: skip
SECRET = b"s" * 32
RUNNER = SagaRunner("memory://", sagas=[OrderSaga])
SOURCE, SINK = NatsSource("nats://x", stream="s", durable="d"), NatsSink("nats://x", subject="s")
MADE: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (Webhook, {"runner": RUNNER, "events": {"placed": Placed}, "signature": None}),
    (AwaitOutcome, {"saga": OrderSaga, "status": "/orders/{id}"}),
    (BearerToken, {"name": "a", "sha256": "0" * 64}),
    (HmacSignature, {"secrets": SECRET, "header": "x"}),
    (StandardWebhooks, {"secrets": SECRET}),
    (StripeSignature, {"secrets": SECRET}),
    (ServedRunner, {"runner": RUNNER, "tokens": [BearerToken("a", "0" * 64)]}),
    (StatusEndpoint, {"runner": RUNNER, "saga": OrderSaga}),
    (SignedWebhook, {"url": "https://x", "secrets": SECRET}),
    (NatsSource, {"url": "nats://x", "stream": "s", "durable": "d"}),
    (NatsSink, {"url": "nats://x", "subject": "s"}),
    (RedisSource, {"url": "redis://x", "stream": "s", "group": "g"}),
    (RedisSink, {"url": "redis://x", "stream": "s"}),
    (KafkaSource, {"servers": "x:9092", "topic": "t", "group": "g"}),
    (KafkaSink, {"servers": "x:9092", "topic": "t"}),
    (RabbitSource, {"url": "amqp://x", "queue": "q"}),
    (RabbitSink, {"url": "amqp://x", "routing_key": "q"}),
    (Subscription, {"source": SOURCE}),
    (Publication, {"sink": SINK}),
]


@pytest.mark.parametrize(("make", "given"), MADE, ids=lambda one: getattr(one, "__name__", ""))
def test_an_odd_value_raises_nothing_but_our_errors(make: Callable[..., Any], given: dict[str, Any]) -> None:
    make(**given)
    for name in inspect.signature(make).parameters:
        for odd in ODD:
            try:
                make(**{**given, name: odd})
            except SagalogError as error:
                assert "s" * 32 not in str(error)


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (lambda: HmacSignature(SECRET, header="x", prefix=7), "prefix= of a signature must be ASCII text"),  # type: ignore[arg-type]
        (lambda: HmacSignature(SECRET, header="x", timestamp_header=None), "None is not the name of a header"),  # type: ignore[arg-type]
        (lambda: StripeSignature(SECRET, header="a b"), "'a b' is not the name of a header"),
        (lambda: StatusEndpoint(RUNNER, OrderSaga, allow=True), "allow= of a StatusEndpoint takes a function"),  # type: ignore[arg-type]
        (lambda: AwaitOutcome(Placed, status="/{id}"), "takes the class of a saga"),  # type: ignore[arg-type]
        (lambda: NatsSource("nats://x", stream="s", durable="d", dead_letters=7), "dead_letters= must be a name"),  # type: ignore[arg-type]
        (
            lambda: NatsSource("nats://x", stream="s", durable="d", dead_letters="s"),
            "must not be what the source reads",
        ),
        (lambda: RabbitSource("amqp://x", queue="q", dead_letters="q"), "must not be what the source reads"),
        (
            lambda: RedisSource("redis://x", stream="s", group="g", dead_letters="s"),
            "must not be what the source reads",
        ),
        (lambda: KafkaSource("x:9092", topic=["s", "t"], group="g", dead_letters="t"), "must not be what the source"),
        (lambda: NatsSource("nats://x", stream="s", durable="d", dead_letters="a.b"), "dead_letters= may have letters"),
        (lambda: KafkaSource("x:9092", topic="t", group="g/h"), "'t.dead-letters.g/h' cannot be the name of a topic"),
        (lambda: RabbitSource("amqp://x", queue="q", single="no"), "single= must be True or False"),  # type: ignore[arg-type]
        (lambda: KafkaSink("x:9092", topic="t", options=["acks"]), "options= must be a mapping"),  # type: ignore[arg-type]
        (lambda: Scenario(OrderSaga).given(Placed("a")).after(5), r"passed=timedelta\(seconds=5\)"),  # type: ignore[arg-type]
        (lambda: Scenario(OrderSaga).given(Placed("a")).away(timedelta.max), "there is no time"),
    ],
)
def test_the_error_names_the_argument(make: Callable[[], Any], wrong: str) -> None:
    with pytest.raises(DefinitionError, match=wrong):
        make()
