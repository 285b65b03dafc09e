"""A broker that takes connections and answers nothing: health tells of it, and no stop waits for it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from sagalog import DefinitionError, RunnerSettings, SagaRunner
from sagalog.brokers import Sink, looking
from sagalog.brokers.kafka import KafkaSink, KafkaSource
from sagalog.brokers.rabbitmq import RabbitSource
from sagalog.errors import BrokerRefusedError
from sagalog.runner import attached

from ..servers.processes import eventually
from . import kinds, test_kafka_broker, test_nats_broker, test_rabbitmq_broker
from .placed import counts, logged
from .shop import Counted, Ship, event


def _place(kind: str, server: Any) -> str:
    if kind == "nats":
        return f"{server.url} {test_nats_broker.made(server)}"
    if kind == "kafka":
        return test_kafka_broker.topic(server)
    if kind == "rabbitmq":
        return test_rabbitmq_broker.queue(server)
    return f"{server.url} hanging"


def _signals(kind: str, server: Any) -> Callable[[signal.Signals], None]:
    if kind == "nats":
        return lambda number: server.signal(0, number)
    if kind == "rabbitmq":
        return lambda number: os.killpg(server._process.pid, number)
    return lambda number: server._process.send_signal(number)


@pytest.mark.parametrize("kind", ["nats", "redis", "kafka", "rabbitmq"])
async def test_a_broker_that_hangs_is_told_of_and_no_stop_waits_for_it(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "_SECONDS", 0.3)
    monkeypatch.setattr(attached, "TROUBLE_SECONDS", 0.5)
    server = request.getfixturevalue(f"one_{kind}")
    place = await asyncio.to_thread(_place, kind, server)
    signals = _signals(kind, server)
    sink: Sink = kinds.sink(kind, place)
    settings = RunnerSettings(stop_timeout=timedelta(seconds=1))
    made = {"sagas": [Counted], "dispatch": {Ship: lambda _: None}, "settings": settings}
    runner = SagaRunner("memory://", sources=[kinds.source(kind, place)], **made)
    await runner.start()
    await sink.send(event("a", 1))
    await logged(runner, "a", [1])
    await eventually(lambda: counts(runner).accepted == 1 and runner.gauges().sources[0].lag == 0, 60)
    signals(signal.SIGSTOP)
    try:

        async def told() -> bool:
            return any("answer" in reason or "lost" in reason for reason in (await runner.health()).reasons)

        await eventually(told, 30)
        async with asyncio.timeout(60):
            await runner.stop()
    finally:
        signals(signal.SIGCONT)
    await sink.send(event("b", 2))
    async with SagaRunner("memory://", sources=[kinds.source(kind, place)], **made) as runner:
        await logged(runner, "b", [2])
    await sink.close()


async def test_options_that_the_client_of_kafka_does_not_know_are_named() -> None:
    source = KafkaSource("127.0.0.1:9", topic="t", group="g", options={"retry_backof_ms": 1})
    with pytest.raises(BrokerRefusedError, match="does not accept these options: 'retry_backof_ms'"):
        await source.open()
    sink = KafkaSink("127.0.0.1:9", topic="t", options={"security_protocol": "SSL"})
    with pytest.raises(BrokerRefusedError, match="does not accept these options: ValueError"):
        await sink.send(event("a", 1))


def test_a_queue_has_a_name_that_rabbitmq_can_have() -> None:
    with pytest.raises(DefinitionError, match="queue= must be a name of at most 255 bytes"):
        RabbitSource("amqp://localhost", queue="ü" * 128)
    with pytest.raises(DefinitionError, match="dead_letters= must be a name of at most 255 bytes"):
        RabbitSource("amqp://localhost", queue="q" * 250)
