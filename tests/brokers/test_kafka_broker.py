"""Kafka's protocol keeps what every broker promises."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from sagalog import SagaRunner
from sagalog.brokers import SinkMessage, looking
from sagalog.brokers.kafka import KafkaSink, KafkaSource
from sagalog.brokers.kafka import source as kafka_source
from sagalog.brokers.kafka.connection import decoded, encoded
from sagalog.conformance import BrokerConformance, Capability

from ..servers.kafka import Kafka
from ..servers.objects import Objects
from ..servers.processes import eventually
from ..servers.proxy import Proxy
from . import kinds
from .behaviour import BrokerBehaviour
from .placed import counts, logged
from .shop import Counted, Ship, event

_names = count(1)


def topic(server: Kafka, partitions: int = 1) -> str:
    """Make an empty topic; return its place."""
    name = f"t{os.getpid()}-{next(_names)}"

    async def make() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=server.servers)
        await admin.start()
        await admin.create_topics([NewTopic(name, partitions, 1)])
        await admin.close()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, make()).result()
    return f"kafka://{server.servers} {name}"


class TestKafkaBroker(BrokerConformance):
    capabilities = {Capability.STAYING_IDS}
    takeover = timedelta(seconds=8)
    quiet = timedelta(milliseconds=500)

    @pytest.fixture
    def place(self, one_kafka: Kafka) -> str:
        return topic(one_kafka)

    def source(self, place: str) -> KafkaSource:
        url, name = place.split()
        return KafkaSource(
            url,
            topic=name,
            group=f"{name}-workers",
            session_timeout=timedelta(seconds=1),
            revoke_timeout=timedelta(seconds=1),
        )

    def sink(self, place: str) -> KafkaSink:
        url, name = place.split()
        return KafkaSink(url, topic=name)


class TestKafkaBehaviour(BrokerBehaviour):
    kind = "kafka"
    keeps_order = True

    @pytest.fixture
    def inside(self, one_kafka: Kafka) -> str:
        self._proxy = one_kafka.proxy
        return topic(one_kafka, 3)

    @pytest.fixture
    def outside(self, one_kafka: Kafka) -> str:
        return topic(one_kafka, 2)

    def through(self, place: str) -> tuple[str, Proxy]:
        return place, self._proxy

    def release(self, proxy: Proxy) -> None:
        """It stays."""

    async def test_a_broker_that_is_killed_and_started_again_loses_and_doubles_nothing(self, tmp_path: Path) -> None:
        objects = Objects()
        server = Kafka(tmp_path / "kafka", objects)
        server.start()
        inside, outside = topic(server, 3), topic(server, 2)
        await self.restarted(tmp_path, inside, outside, server.kill, server.start)
        server.stop()
        objects.close()


async def test_a_topic_that_is_made_anew_below_the_position_of_its_group_is_told_of(
    one_kafka: Kafka, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """This broker takes a position behind the end, and gives nothing. Kafka refuses it, so that all is read."""
    monkeypatch.setattr(looking, "_SECONDS", 0.2)
    place = topic(one_kafka)
    name = place.split()[1]
    source, sink = kinds.source("kafka", place), kinds.sink("kafka", place)
    admin = AIOKafkaAdminClient(bootstrap_servers=one_kafka.servers)
    await admin.start()
    async with SagaRunner("memory://", sagas=[Counted], dispatch={Ship: lambda _: None}, sources=[source]) as runner:
        for number in range(1, 6):
            await sink.send(event("a", number))
        await eventually(lambda: counts(runner).accepted == 5)
        await admin.delete_topics([name])
        await admin.create_topics([NewTopic(name, 1, 1)])
        await sink.send(event("b", 1))
        await eventually(lambda: f"but group {name}-workers is at 5: if the topic was created again" in caplog.text)
    await sink.close()
    await admin.close()


async def put(place: str, *sent: tuple[SinkMessage, int | None]) -> None:
    """Send messages with a time of the sender's."""
    url, name = place.split()
    producer = AIOKafkaProducer(bootstrap_servers=url.removeprefix("kafka://"))
    await producer.start()
    for message, at in sent:
        await producer.send_and_wait(name, message.body, headers=encoded(message.headers), timestamp_ms=at)
    await producer.stop()


async def test_a_time_that_no_calendar_has_holds_up_nothing(one_kafka: Kafka) -> None:
    place = topic(one_kafka)
    microseconds = 1_700_000_000_000_000
    await put(
        place, *((event("a", number), at) for number, at in enumerate((microseconds, 2**63 - 1, -microseconds, 0)))
    )
    source = kinds.source("kafka", place)
    async with SagaRunner("memory://", sagas=[Counted], dispatch={Ship: lambda _: None}, sources=[source]) as runner:
        await logged(runner, "a", [0, 1, 2, 3])


class NoUtf8(str):
    """What no client of Python would send."""

    def encode(self, *_: Any) -> bytes:
        return b"\xff\xfe"


async def test_a_record_that_the_client_cannot_decode_is_a_dead_letter_and_holds_up_nothing(one_kafka: Kafka) -> None:
    place = topic(one_kafka)
    url, name = place.split()
    await put(place, (event("a", 0), None))
    producer = AIOKafkaProducer(bootstrap_servers=url.removeprefix("kafka://"))
    await producer.start()
    batch = producer.create_batch()
    batch._builder = _DefaultRecordBatchBuilderPy(2, 0, False, -1, -1, 0, 16_384)
    for number in (1, 2):
        good = event("a", number)
        batch.append(key=None, value=good.body, timestamp=None, headers=encoded(good.headers))
        if number == 1:
            batch.append(key=None, value=b"undecodable", timestamp=None, headers=[(NoUtf8("k"), b"v")])
    await (await producer.send_batch(batch, name, partition=0))
    await producer.stop()
    await put(place, (event("a", 3), None))
    source = kinds.source("kafka", place)
    async with SagaRunner("memory://", sagas=[Counted], dispatch={Ship: lambda _: None}, sources=[source]) as runner:
        await logged(runner, "a", [0, 1, 3])
        await eventually(lambda: counts(runner).dead_letters >= 2)
        await eventually(lambda: runner.gauges().sources[0].lag == 0)
    letters = [one async for one in source.dead_letters()]
    assert [(one.reason, one.position) for one in letters] == [
        (
            "the broker's client cannot read it: UnicodeDecodeError in it, or in front of it in its batch",
            f"topic {name}, partition 0, offset {offset}",
        )
        for offset in (2, 3)
    ]
    await source.close()


async def test_a_fault_of_the_source_passes_over_no_message(
    one_kafka: Kafka, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place = topic(one_kafka)
    await put(place, *((event("a", number), None) for number in range(3)))
    faults = [ValueError(), KeyError()]

    def faulty(headers: Any) -> dict[str, str]:
        if faults:
            raise faults.pop()
        return decoded(headers)

    monkeypatch.setattr(kafka_source, "decoded", faulty)
    source = kinds.source("kafka", place)
    async with SagaRunner("memory://", sagas=[Counted], dispatch={Ship: lambda _: None}, sources=[source]) as runner:
        await logged(runner, "a", [0, 1, 2])
    assert not faults
    assert "raised KeyError; the log says where" in caplog.text
