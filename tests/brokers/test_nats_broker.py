"""NATS JetStream keeps what every broker promises."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import count
from pathlib import Path

import nats
import pytest
from nats.js.api import StreamConfig

from sagalog.brokers.nats import NatsSink, NatsSource
from sagalog.conformance import BrokerConformance

from ..servers.nats import Nats
from .behaviour import BrokerBehaviour

_names = count(1)


class TestNatsBroker(BrokerConformance):
    takeover = timedelta(seconds=4)
    quiet = timedelta(milliseconds=700)

    @pytest.fixture
    def place(self, one_nats: Nats) -> str:
        return f"{one_nats.url} {made(one_nats)}"

    def source(self, place: str) -> NatsSource:
        url, stream = place.split()
        return NatsSource(url, stream=stream, durable="workers", ack_wait=timedelta(milliseconds=500))

    def sink(self, place: str) -> NatsSink:
        url, stream = place.split()
        return NatsSink(url, subject=f"{stream}.sent")


def made(server: Nats) -> str:
    """Make an empty stream; return its name, which its subjects begin with."""
    name = f"b{os.getpid()}_{next(_names)}"

    async def make() -> None:
        client = await nats.connect(server.url)
        await client.jetstream().add_stream(StreamConfig(name=name, subjects=[f"{name}.>"]))
        await client.close()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, make()).result()
    return name


class TestNatsBehaviour(BrokerBehaviour):
    kind = "nats"

    @pytest.fixture
    def inside(self, one_nats: Nats) -> str:
        return f"{one_nats.url} {made(one_nats)}"

    @pytest.fixture
    def outside(self, one_nats: Nats) -> str:
        return f"{one_nats.url} {made(one_nats)}"

    async def test_a_broker_that_is_killed_and_started_again_loses_and_doubles_nothing(self, tmp_path: Path) -> None:
        server = Nats(tmp_path / "nats", servers=1)
        server.start()
        inside, outside = (f"{server.url} {made(server)}" for _ in range(2))
        await self.restarted(tmp_path, inside, outside, lambda: server.kill(0), server.start)
        server.stop()
