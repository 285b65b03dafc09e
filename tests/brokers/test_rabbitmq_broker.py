"""RabbitMQ keeps what every broker promises."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from asyncio import StreamWriter
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from aiormq.abc import ChannelFrame
from aiormq.channel import Channel
from pamqp import frame
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from sagalog import BrokerRefusedError, BrokerUnavailableError
from sagalog.brokers import SinkMessage, SourceMessage
from sagalog.brokers.rabbitmq import RabbitSink, RabbitSource, connection
from sagalog.brokers.rabbitmq import source as rabbit_source
from sagalog.brokers.rabbitmq.connection import headers_of
from sagalog.conformance import BrokerConformance, Capability

from ..servers.processes import free_port
from ..servers.proxy import Proxy
from ..servers.rabbitmq import RabbitMQ
from .behaviour import BrokerBehaviour

_names = count(1)


def queue(server: RabbitMQ, *, single: bool = False) -> str:
    """Make an empty queue as a source makes it; return its place."""
    place = f"{server.url} q{os.getpid()}-{next(_names)}"
    url, name = place.split()

    async def make() -> None:
        source = RabbitSource(url, queue=name, single=single)
        await source.open()
        await source.close()

    asyncio.run(make())
    return place


class TestRabbitBroker(BrokerConformance):
    capabilities = {Capability.DELIVERIES}
    takeover = timedelta(seconds=4)
    quiet = timedelta(milliseconds=500)

    @pytest.fixture
    def place(self, one_rabbitmq: RabbitMQ) -> str:
        return queue(one_rabbitmq)

    def source(self, place: str) -> RabbitSource:
        url, name = place.split()
        return RabbitSource(url, queue=name, prefetch=300)

    def sink(self, place: str) -> RabbitSink:
        url, name = place.split()
        return RabbitSink(url, routing_key=name)

    async def test_what_the_broker_gives_up_by_itself_is_a_dead_letter(self, place: str, sent: RabbitSink) -> None:
        url, name = place.split()
        await sent.send(SinkMessage(b"x", "x"))
        client = await aio_pika.connect(url)
        channel = await client.channel()
        found = await (await channel.get_queue(name)).get()
        assert found is not None
        await found.reject(requeue=False)  # as somebody else's consumer may do it
        await client.close()
        async with self.opened(place) as source:
            letters = []
            while not letters:
                letters = [one async for one in source.dead_letters()]
            assert [(one.body, one.reason) for one in letters] == [(b"x", "RabbitMQ gave up on it: rejected")]


async def test_a_virtual_host_that_is_not_there_is_named_with_the_remedy(one_rabbitmq: RabbitMQ) -> None:
    url = f"{one_rabbitmq.url}no%2Fwhere"
    source, sink = RabbitSource(url, queue="q"), RabbitSink(url, routing_key="q")
    for attempt in (source.open(), sink.send(SinkMessage(b"x", "1"))):
        with pytest.raises(BrokerUnavailableError, match=r"virtual host 'no/where': create it \(rabbitmqctl add_vhost"):
            await attempt
    await source.close()
    await sink.close()


async def test_attempts_to_connect_leave_nothing_for_the_garbage_collector_to_close() -> None:
    sink = RabbitSink(f"amqp://localhost:{free_port()}/", routing_key="q")
    with pytest.raises(BrokerUnavailableError, match="did not answer connecting") as told:
        await sink.send(SinkMessage(b"x", "1"))
    # What the error still refers to; a finalizer may run in a thread that has no event loop.
    left = [one for one in gc.get_objects() if isinstance(one, aio_pika.Connection) and not one.is_closed]
    assert (told.value.__context__ is not None, left) == (True, [])
    await sink.close()


async def test_a_fault_of_the_source_keeps_no_message_back(
    one_rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, name = (await asyncio.to_thread(queue, one_rabbitmq)).split()
    source, sink = RabbitSource(url, queue=name), RabbitSink(url, routing_key=name)
    faults = [KeyError()]

    def faulty(properties: Basic.Properties) -> dict[str, str]:
        if faults:
            raise faults.pop()
        return headers_of(properties)

    monkeypatch.setattr(rabbit_source, "headers_of", faulty)
    for number in range(3):
        await sink.send(SinkMessage(b"%d" % number, str(number)))
    await source.open()
    with pytest.raises(KeyError):
        while True:
            await source.receive(10, timedelta(seconds=1))
    found: list[bytes] = []
    async with asyncio.timeout(40):
        while len(found) < 3:
            messages = await source.receive(10, timedelta(seconds=1))
            found += [one.body for one in messages]
            await source.accept(messages)
    assert sorted(found) == [b"0", b"1", b"2"]
    await source.close()
    await sink.close()


async def received(source: RabbitSource, count: int) -> list[SourceMessage]:
    """Receive until there are so many."""
    found: list[SourceMessage] = []
    async with asyncio.timeout(40):
        while len(found) < count:
            found += await source.receive(count, timedelta(seconds=1))
    return found


async def test_what_is_done_in_a_row_is_acknowledged_by_one_frame_and_nothing_else_with_it(
    one_rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, name = (await asyncio.to_thread(queue, one_rabbitmq)).split()
    source, sink = RabbitSource(url, queue=name), RabbitSink(url, routing_key=name)
    frames: list[tuple[int, bool]] = []
    real = Channel.basic_ack

    async def noted(self: Channel, delivery_tag: int, multiple: bool = False, **more: Any) -> Any:
        frames.append((delivery_tag, multiple))
        return await real(self, delivery_tag, multiple, **more)

    monkeypatch.setattr(Channel, "basic_ack", noted)
    for number in range(8):
        await sink.send(SinkMessage(b"%d" % number, str(number)))
    await source.open()
    messages = await received(source, 8)
    await source.accept([messages[at] for at in (2, 0, 1, 4)])
    await source.accept([messages[4], messages[6]])
    assert frames == [(3, True), (5, False), (7, False)]
    await source.give_back([messages[3]], timedelta(0))
    await source.accept([messages[5]])
    await source.close()
    await source.open()
    left = await received(source, 2)
    assert sorted(one.body for one in left) == [b"3", b"7"]
    await source.accept([*messages, *left])  # those of the channel before are nothing to this one
    assert frames[3:] == [(6, False), (2, True)]
    await source.close()
    await sink.close()


async def test_acknowledgements_at_the_same_time_do_not_cover_each_other(one_rabbitmq: RabbitMQ) -> None:
    url, name = (await asyncio.to_thread(queue, one_rabbitmq)).split()
    source, sink = RabbitSource(url, queue=name), RabbitSink(url, routing_key=name)
    await source.open()
    for number in range(40):
        await sink.send(SinkMessage(b"%d" % number, str(number)))
    messages = await received(source, 40)
    await asyncio.gather(source.accept(messages[::2]), source.accept(messages[1:20:2]))
    await sink.send(SinkMessage(b"behind", "behind"))
    (behind,) = await received(source, 1)  # the broker has not closed the channel
    await source.accept([behind])
    await source.close()
    await source.open()
    assert sorted(int(one.body) for one in await received(source, 10)) == list(range(21, 40, 2))
    await source.close()
    await sink.close()


async def test_no_messages_pile_up_here_before_a_broker_that_hangs(
    one_rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = (await asyncio.to_thread(queue, one_rabbitmq)).split()[1]
    sink = RabbitSink(one_rabbitmq.url, routing_key=name)
    await sink.send(SinkMessage(b"before", "before"))
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.5)
    written: list[int] = []
    real = StreamWriter.write

    def noted(self: StreamWriter, data: bytes) -> None:
        written.append(len(data))
        real(self, data)

    monkeypatch.setattr(StreamWriter, "write", noted)
    attempts, size = 10, 1_000_000
    assert one_rabbitmq._process is not None
    os.killpg(one_rabbitmq._process.pid, signal.SIGSTOP)
    try:
        for _ in range(attempts):
            sent = [sink.send(SinkMessage(bytes(size), str(number))) for number in range(20)]
            told = await asyncio.gather(*sent, return_exceptions=True)
            assert {type(one) for one in told} == {BrokerUnavailableError}
    finally:
        os.killpg(one_rabbitmq._process.pid, signal.SIGCONT)
    assert sum(written) < (20 + attempts) * size
    monkeypatch.undo()
    async with asyncio.timeout(60):
        while True:
            try:
                await sink.send(SinkMessage(b"after", "after"))
                break
            except BrokerUnavailableError:
                await asyncio.sleep(0.1)
    await sink.close()


async def test_what_amqp_cannot_hold_is_refused_and_its_remedy_named(one_rabbitmq: RabbitMQ) -> None:
    name = (await asyncio.to_thread(queue, one_rabbitmq)).split()[1]
    sink = RabbitSink(one_rabbitmq.url, routing_key=name)
    with pytest.raises(BrokerRefusedError, match="a content type, a routing key and an exchange of at most 255"):
        await sink.send(SinkMessage(b"x", "1", {"content-type": "x" * 300}))
    await sink.send(SinkMessage(b"x", "\ud800", {"content-type": "\ud800", "h": "\udcff"}))  # the id as a digest
    source = RabbitSource(one_rabbitmq.url, queue=name)
    (found,) = await received(source, 1)
    assert (found.headers["h"], found.headers["content-type"]) == ("\udcff", "?")
    await source.reject(found, "a test")
    (letter,) = [one async for one in source.dead_letters()]
    await source.put_back(letter)
    (again,) = await received(source, 1)
    assert again.headers["h"] == "\udcff"
    await source.accept([again])
    await source.close()
    await sink.close()


async def declared(url: str, name: str, **arguments: Any) -> None:
    """Make a queue as somebody else makes it."""
    async with await aio_pika.connect(url) as client:
        await (await client.channel()).declare_queue(name, durable=True, arguments=arguments)


async def test_queues_that_are_there_already_are_used_as_they_are(one_rabbitmq: RabbitMQ) -> None:
    url, name = one_rabbitmq.url, f"there-{next(_names)}"
    await declared(url, name, **{"x-queue-type": "classic"})
    await declared(url, f"{name}.dead-letters", **{"x-queue-type": "classic", "x-message-ttl": 60_000})
    source, sink = RabbitSource(url, queue=name), RabbitSink(url, routing_key=name)
    await sink.send(SinkMessage(b"x", "1"))
    (found,) = await received(source, 1)
    await source.reject(found, "a test")
    (letter,) = [one async for one in source.dead_letters()]
    await source.put_back(letter)
    (again,) = await received(source, 1)
    assert again.body == b"x"
    await source.accept([again])
    await source.close()
    await sink.close()


async def test_a_stream_is_refused_because_it_does_not_keep_what_was_acknowledged(one_rabbitmq: RabbitMQ) -> None:
    url, name = one_rabbitmq.url, f"stream-{next(_names)}"
    await declared(url, name, **{"x-queue-type": "stream"})
    source = RabbitSource(url, queue=name)
    with pytest.raises(BrokerRefusedError, match=f"queue {name} is a stream, .* a quorum or a classic queue"):
        await source.open()
    await source.close()


async def sent_raw(url: str, name: str, body: bytes, properties: Basic.Properties, *swaps: tuple[bytes, bytes]) -> None:
    """Send a message with bytes that the client would not write in place of some that it does."""
    header = ContentHeader(body_size=len(body), properties=properties).marshal()
    for before, after in swaps:
        assert (len(before), header.count(before)) == (len(after), 1)
        header = header.replace(before, after)
    await sent_header(url, name, body, header)


async def sent_header(url: str, name: str, body: bytes, header: bytes) -> None:
    """Send a message with that content header, as it goes over the wire."""
    async with await aio_pika.connect(url) as client:
        channel: Any = await (await client.channel(publisher_confirms=False)).get_underlay_channel()
        number = channel.number.to_bytes(2)
        frames = [
            frame.marshal(Basic.Publish(routing_key=name), channel.number),
            b"\x02" + number + len(header).to_bytes(4) + header + b"\xce",
            frame.marshal(ContentBody(body), channel.number),
        ]
        done = asyncio.get_running_loop().create_future()
        await channel.write_queue.put(ChannelFrame(b"".join(frames), should_close=False, drain_future=done))
        await done
        await channel.queue_declare(name, passive=True)  # the broker has it


async def test_whatever_a_sender_writes_into_a_message_it_is_read_and_keeps_nothing_back(
    one_rabbitmq: RabbitMQ,
) -> None:
    url, name = (await asyncio.to_thread(queue, one_rabbitmq)).split()
    source = RabbitSource(url, queue=name)
    await source.open()
    for at, body in ((10**15, b"microseconds"), (2**63 - 1, b"the end of time")):
        moment = datetime(2030, 1, 1, tzinfo=UTC)
        swap = (int(moment.timestamp()).to_bytes(8), at.to_bytes(8))
        await sent_raw(url, name, body, Basic.Properties(message_id="x", timestamp=moment), swap)
        moments = {"in a header": moment}
        await sent_raw(url, name, body, Basic.Properties(message_id="x", headers=moments), swap)
    bad = (b"ZZZZ", b"\xff\xfe\xfd\xfc")
    await sent_raw(url, name, b"id", Basic.Properties(message_id="ZZZZ"), bad)
    await sent_raw(url, name, b"content type", Basic.Properties(message_id="x", content_type="ZZZZ"), bad)
    await sent_raw(url, name, b"name of a header", Basic.Properties(message_id="x", headers={"ZZZZ": "x"}), bad)
    await sent_raw(url, name, b"in a table", Basic.Properties(message_id="x", headers={"t": {"ZZZZ": 1}}), bad)
    table = b""
    for _ in range(3000):
        table = b"\x01tF" + len(table).to_bytes(4) + table
    only_headers = b"\0\x3c\0\0" + (4).to_bytes(8) + b"\x20\0"
    await sent_header(url, name, b"deep", only_headers + len(table).to_bytes(4) + table)
    await sent_raw(url, name, b"last", Basic.Properties(message_id="x"))
    found = await received(source, 10)
    assert [one.body for one in found][4:] == [
        b"id",
        b"content type",
        b"name of a header",
        b"in a table",
        b"deep",
        b"last",
    ]
    assert {one.published_at for one in found[:4]} == {None}
    assert {one.deliveries for one in found} == {1}  # no connection was ended
    for one in found:
        await source.reject(one, "a test")
    letters = [one async for one in source.dead_letters()]
    assert sorted(one.body for one in letters) == sorted(one.body for one in found)
    for letter in letters:
        await source.drop(letter)
    await source.close()


class TestRabbitBehaviour(BrokerBehaviour):
    kind = "rabbitmq"

    @pytest.fixture
    def inside(self, one_rabbitmq: RabbitMQ) -> str:
        return queue(one_rabbitmq)

    @pytest.fixture
    def outside(self, one_rabbitmq: RabbitMQ) -> str:
        return queue(one_rabbitmq)

    def through(self, place: str) -> tuple[str, Proxy]:
        url, name = place.split()
        head, _, port = url.rstrip("/").rpartition(":")
        proxy = Proxy(int(port))
        return f"{head}:{proxy.port}/ {name}", proxy

    async def test_a_broker_that_is_shut_down_and_started_again_loses_and_doubles_nothing(
        self, tmp_path: Path, inside: str, outside: str, one_rabbitmq: RabbitMQ
    ) -> None:
        await self.restarted(tmp_path, inside, outside, one_rabbitmq.shut_down, one_rabbitmq.start)

    async def test_a_broker_that_is_killed_and_started_again_loses_and_doubles_nothing(
        self, tmp_path: Path, inside: str, outside: str, one_rabbitmq: RabbitMQ
    ) -> None:
        await asyncio.to_thread(one_rabbitmq.shut_down)  # its queues are on the disk from then on
        await asyncio.to_thread(one_rabbitmq.start)
        await self.restarted(tmp_path, inside, outside, one_rabbitmq.kill, one_rabbitmq.start)
