"""NATS JetStream keeps what every broker promises."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig

from sagalog import BrokerRefusedError, BrokerUnavailableError
from sagalog.brokers import SinkMessage, SourceMessage
from sagalog.brokers.nats import NatsSink, NatsSource
from sagalog.conformance import BrokerConformance

from ..servers.nats import Nats
from ..servers.processes import eventually
from ..servers.proxy import Proxy
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


async def test_what_is_given_back_goes_to_no_request_that_reaches_the_server_late(one_nats: Nats) -> None:
    stream = await asyncio.to_thread(made, one_nats)
    kept = timedelta(minutes=5)  # only what is given back comes again
    sink = NatsSink(one_nats.url, subject=f"{stream}.sent")
    source = NatsSource(one_nats.url, stream=stream, durable="workers", ack_wait=kept)
    for number in range(3):
        await sink.send(SinkMessage(b"%d" % number, str(number)))
    held = await source.receive(3, timedelta(seconds=20))
    assert len(held) == 3
    one_nats.signal(0, signal.SIGSTOP)
    try:
        assert not await source.receive(10, timedelta(seconds=0.2))  # the server does not know of this request yet
        giving_back = asyncio.create_task(source.give_back(held, timedelta(0)))
        await asyncio.sleep(0.5)  # longer than the request is to wait, from when it was made
    finally:
        one_nats.signal(0, signal.SIGCONT)
    await giving_back
    await source.close()
    other = NatsSource(one_nats.url, stream=stream, durable="workers", ack_wait=kept)
    async with asyncio.timeout(30):
        again: list[SourceMessage] = []
        while len(again) < 3:
            again += await other.receive(3, timedelta(seconds=5))
    assert [(one.body, one.deliveries) for one in again] == [(b"0", 2), (b"1", 2), (b"2", 2)]
    await other.accept(again)
    await other.close()
    await sink.close()


async def test_a_server_that_accepts_and_does_not_answer_costs_one_connection_and_not_one_for_each_attempt(
    one_nats: Nats,
) -> None:
    stream = await asyncio.to_thread(made, one_nats)
    proxy = Proxy(int(one_nats.url.rpartition(":")[2]))
    sink = NatsSink(
        f"nats://127.0.0.1:{proxy.port}", subject=f"{stream}.sent", options={"connect_timeout": 0.2, "name": "attempts"}
    )
    await sink.send(SinkMessage(b"before", "before"))
    one_nats.signal(0, signal.SIGSTOP)
    try:
        await asyncio.to_thread(proxy.cut)
        await eventually(lambda: proxy.accepted >= 6)
        assert proxy.open <= 2  # the one that is given up, and the next
    finally:
        one_nats.signal(0, signal.SIGCONT)

    async def sent() -> bool:
        try:
            await sink.send(SinkMessage(b"after", "after"))
        except BrokerUnavailableError:
            return False
        return True

    await eventually(sent)
    await sink.close()
    await asyncio.to_thread(proxy.close)


def published(server: Nats, subject: bytes, headers: bytes | None, body: bytes) -> None:
    """Publish what no client would."""
    with socket.create_connection(("127.0.0.1", server.ports[0]), 30) as connection:
        sent = b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\n'
        if headers is None:
            sent += b"PUB %s %d\r\n" % (subject, len(body))
        else:
            sent += b"HPUB %s %d %d\r\n" % (subject, len(headers), len(headers) + len(body)) + headers
        connection.sendall(sent + body + b"\r\nPING\r\n")
        said = b""
        while b"PONG" not in said:
            said += connection.recv(65_536)
            assert b"-ERR" not in said


BLOCKS = [b"\r\n", b"\n", b" \r\n\r\n", b"\r\n\r\n", b"\xff\xfe\r\n\r\n", b"NATS/1.0", b"NATS/1.0 \xff\xff\xff\r\n\r\n"]
BLOCKS += [b"NATS/1.0 503 \xff\r\n\r\n", b"NATS/1.0\r\n\xff", b"x" * 9, b"NATS/1.0\r\n: \xff\r\n\r\n"]


async def test_whatever_a_sender_writes_into_a_message_it_keeps_nothing_back(one_nats: Nats) -> None:
    stream = await asyncio.to_thread(made, one_nats)
    for block in BLOCKS:
        await asyncio.to_thread(published, one_nats, f"{stream}.sent".encode(), block, b"x")
    await asyncio.to_thread(published, one_nats, f"{stream}.".encode() + b"\xff\xfe", None, b"odd subject")
    sink = NatsSink(one_nats.url, subject=f"{stream}.sent")
    await sink.send(SinkMessage(b"last", "last"))
    source = NatsSource(one_nats.url, stream=stream, durable="workers")
    found: list[SourceMessage] = []
    async with asyncio.timeout(60):
        while len(found) < len(BLOCKS) + 2:
            found += await source.receive(100, timedelta(seconds=1))
    assert [one.body for one in found] == [*[b"x"] * len(BLOCKS), b"odd subject", b"last"]
    assert {one.deliveries for one in found} == {1}  # no connection was ended
    for one in found:
        await source.reject(one, "a test")
    letters = [one async for one in source.dead_letters()]
    assert [one.body for one in letters] == [one.body for one in found]
    for letter in letters:
        await source.drop(letter)
    await source.close()
    await sink.close()


@pytest.mark.parametrize(
    "wrong",
    [{"ack_policy": AckPolicy.NONE}, {"max_deliver": 3}, {"headers_only": True}, {"deliver_subject": "elsewhere"}],
    ids=lambda one: next(iter(one)),
)
async def test_a_consumer_that_would_lose_messages_is_refused(one_nats: Nats, wrong: dict[str, Any]) -> None:
    stream = await asyncio.to_thread(made, one_nats)
    client = await nats.connect(one_nats.url)
    config = ConsumerConfig(**{"durable_name": "workers", "ack_policy": AckPolicy.EXPLICIT, **wrong})
    await client.jetstream().add_consumer(stream, config)
    await client.close()
    source = NatsSource(one_nats.url, stream=stream, durable="workers")
    with pytest.raises(BrokerRefusedError, match="must be a pull consumer of whole messages with an explicit ack"):
        await source.open()
    await source.close()
