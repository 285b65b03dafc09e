"""Events in through a broker, a step each, a command out: beside `steps` on the same journal, and the broker's bare client.

The messages lie in the broker before the clock starts, each for an instance of its own. It stops when the last command was
confirmed and the last message accepted. Beside it, in the same run, with the same messages and as many under way, received,
sent on and accepted, without a saga or a journal: *alone*, our source and sink; *bare*, the broker's client without us.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from sagalog import Action, Saga, SagaRunner, Send, open_journal, starts
from sagalog.brokers import Sink, SinkMessage, Source, Subscription

from . import bare_clients
from .report import Case, Column, Figures, RunError
from .servers import JOURNALS, server
from .steps import load

BROKERS = ("kafka", "rabbitmq", "nats", "redis")
COLUMNS: list[Column] = [
    ("broker", "broker", "s"),
    ("journal", "journal", "s"),
    ("messages/s", "messages_per_second", ",.0f"),
    ("spread", "messages_per_second", "spread"),
    ("bare/s", "bare_per_second", ",.0f"),
    ("alone/s", "alone_per_second", ",.0f"),
    ("steps/s", "steps_per_second", ",.0f"),
    ("ratio", "ratio", ".2f"),
]


@dataclass
class Asked:
    number: str


@dataclass
class Done:
    number: str


@dataclass
class Count:
    asked: bool = False


class PassedOn(Saga[Count]):
    name = "passed-on"

    @starts(Asked, key="number")
    def asked(self, state: Count, event: Asked) -> Iterator[Action]:
        state.asked = True
        yield Send(Done(event.number))


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--broker", choices=BROKERS, nargs="+", default=["kafka", "rabbitmq"])
    parser.add_argument("--journal", choices=JOURNALS, nargs="+", default=["sqlite", "postgres"])
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--prefetch", type=int, default=1024, help="messages under way at once")
    parser.add_argument("--seconds", type=float, default=2.0, help="of the steps beside it")


def cases(options: argparse.Namespace) -> list[Case]:
    return [
        {
            "broker": broker,
            "journal": journal,
            "messages": options.messages,
            "prefetch": options.prefetch,
            "seconds": options.seconds,
        }
        for broker in options.broker
        for journal in options.journal
    ]


def measure(case: Case) -> Figures:
    with (
        tempfile.TemporaryDirectory(prefix="sagalog-bench-") as folder,
        server(case["journal"], Path(folder)) as url,
        _broker(case["broker"], Path(folder)) as place,
    ):
        return asyncio.run(_measured(case, url, place))


async def _measured(case: Case, url: str, place: Place) -> Figures:
    gc.set_threshold(50_000, 20, 50)
    count, most = case["messages"], case["prefetch"]
    bare = await _bare(place, count, most)
    alone = await _alone(place, count, most)
    through = await _through(place, url, count, most)
    journal = open_journal(url)
    await journal.open()
    latencies, begun, ended = await load(journal, most, case["seconds"])
    await journal.close()
    steps = len(latencies) / (ended - begun)
    return {
        "messages_per_second": through,
        "bare_per_second": bare,
        "alone_per_second": alone,
        "steps_per_second": steps,
        "ratio": through / min(steps, bare),
    }


@dataclass
class Place:
    """A server, and how its sources and sinks are made: of what comes in, of what goes out. `bare`: the client itself."""

    bare: Callable[[str, str, int, int], Awaitable[None]]
    make: Callable[[str], Awaitable[None]]
    source: Callable[[str, int], Source]
    sink: Callable[[str], Sink]


@asynccontextmanager
async def _filled(place: Place, count: int) -> AsyncIterator[tuple[str, str]]:
    """Give two new names of the broker, the first with so many messages."""
    inside, outside = f"i{uuid4().hex[:8]}", f"o{uuid4().hex[:8]}"
    await place.make(inside)
    await place.make(outside)
    sink = place.sink(inside)
    headers = {"ce-specversion": "1.0", "ce-source": "/bench", "ce-type": "Asked", "content-type": "application/json"}
    for first in range(0, count, 500):
        messages = [
            SinkMessage(b'{"number":"%d"}' % n, str(n), {**headers, "ce-id": str(n)}, str(n))
            for n in range(first, min(count, first + 500))
        ]
        await asyncio.gather(*(sink.send(one) for one in messages))
    await sink.close()
    yield inside, outside


async def _through(place: Place, url: str, count: int, most: int) -> float:
    async with _filled(place, count) as (inside, outside):
        runner = SagaRunner(
            url,
            sagas=[PassedOn],
            sources=[Subscription(place.source(inside, most), prefetch=most)],
            sinks={Done: place.sink(outside)},
        )
        begun = time.perf_counter()
        async with runner:
            while runner.counters.commands < count or runner.gauges().sources[0].counts.accepted < count:
                await asyncio.sleep(0.01)
            return count / (time.perf_counter() - begun)


async def _bare(place: Place, count: int, most: int) -> float:
    async with _filled(place, count) as (inside, outside):
        begun = time.perf_counter()
        await place.bare(inside, outside, count, most)
        return count / (time.perf_counter() - begun)


async def _alone(place: Place, count: int, most: int) -> float:
    async with _filled(place, count) as (inside, outside):
        source, sink = place.source(inside, most), place.sink(outside)
        begun = time.perf_counter()
        await source.open()
        done = 0
        while done < count:
            messages = await source.receive(most, timedelta(seconds=1))
            sent = [SinkMessage(one.body, one.headers["ce-id"], one.headers, one.key) for one in messages]
            await asyncio.gather(*(sink.send(one) for one in sent))
            await source.accept(messages)
            done += len(messages)
        rate = count / (time.perf_counter() - begun)
        await source.close()
        await sink.close()
        return rate


@contextmanager
def _broker(name: str, folder: Path) -> Iterator[Place]:
    started: Any
    if name == "kafka":
        from tests.servers.kafka import Kafka

        started = Kafka(folder / "kafka")
        started.start()
        place = _kafka(f"127.0.0.1:{started.proxy.port}")
    elif name == "rabbitmq":
        from tests.servers.rabbitmq import MISSING, PROGRAM, RabbitMQ

        if not PROGRAM.exists():
            raise RunError(MISSING)
        started = RabbitMQ(folder / "rabbitmq")
        started.start()
        place = _rabbitmq(started.url)
    elif name == "nats":
        from tests.servers.nats import Nats

        started = Nats(folder / "broker", servers=1)
        started.start()
        place = _nats(started.url)
    else:
        from tests.servers.redis import RedisServer

        started = RedisServer(folder / "redis")
        started.start()
        place = _redis(started.url)
    try:
        yield place
    finally:
        started.stop()


def _kafka(servers: str) -> Place:
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic

    from sagalog.brokers.kafka import KafkaSink, KafkaSource

    async def make(name: str) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=servers)
        await admin.start()
        await admin.create_topics([NewTopic(name, 4, 1)])
        await admin.close()

    return Place(
        partial(bare_clients.kafka, servers),
        make,
        lambda name, most: KafkaSource(servers, topic=name, group=f"{name}-workers"),
        lambda name: KafkaSink(servers, topic=name),
    )


def _rabbitmq(url: str) -> Place:
    from sagalog.brokers.rabbitmq import RabbitSink, RabbitSource

    async def make(name: str) -> None:
        source = RabbitSource(url, queue=name)
        await source.open()
        await source.close()

    return Place(
        partial(bare_clients.rabbitmq, url),
        make,
        lambda name, most: RabbitSource(url, queue=name, prefetch=most),
        lambda name: RabbitSink(url, routing_key=name),
    )


def _nats(url: str) -> Place:
    import nats

    from sagalog.brokers.nats import NatsSink, NatsSource

    async def make(name: str) -> None:
        client = await nats.connect(url)
        await client.jetstream().add_stream(name=name, subjects=[f"{name}.>"])
        await client.close()

    return Place(
        partial(bare_clients.nats, url),
        make,
        lambda name, most: NatsSource(url, stream=name, durable="workers"),
        lambda name: NatsSink(url, subject=f"{name}.sent"),
    )


def _redis(url: str) -> Place:
    from sagalog.brokers.redis import RedisSink, RedisSource

    async def make(name: str) -> None:
        """It is made when something is sent."""

    return Place(
        partial(bare_clients.redis, url),
        make,
        lambda name, most: RedisSource(url, stream=name, group="workers"),
        lambda name: RedisSink(url, stream=name),
    )
