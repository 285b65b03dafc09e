"""NATS JetStream keeps what every broker promises."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import nats
import pytest
from nats.js.api import StreamConfig

from sagalog.brokers.nats import NatsSink, NatsSource
from sagalog.conformance import BrokerConformance

from ..servers.nats import Nats

_names = count(1)


class TestNatsBroker(BrokerConformance):
    takeover_seconds = 4.0

    @pytest.fixture
    def place(self, one_nats: Nats) -> str:
        return f"{one_nats.url} {made(one_nats)}"

    def source(self, place: str) -> NatsSource:
        url, stream = place.split()
        return NatsSource(url, stream=stream, durable="workers", ack_seconds=0.5)

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
