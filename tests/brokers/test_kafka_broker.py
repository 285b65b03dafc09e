"""Kafka's protocol keeps what every broker promises."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from sagalog.brokers.kafka import KafkaSink, KafkaSource
from sagalog.conformance import BrokerConformance, Capability

from ..servers.kafka import Kafka
from ..servers.objects import Objects
from ..servers.proxy import Proxy
from .behaviour import BrokerBehaviour

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
