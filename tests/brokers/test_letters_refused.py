"""A message that nobody can take, and whose dead letter the broker does not take either: it holds up no other."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from nats.aio.client import Client

from sagalog import BrokerRefusedError, SagaRunner
from sagalog.brokers import SinkMessage
from sagalog.brokers.kafka import KafkaSink, KafkaSource
from sagalog.brokers.nats import NatsSink
from sagalog.brokers.rabbitmq import RabbitSink
from sagalog.brokers.redis import RedisSource
from sagalog.runner import attached

from ..servers.kafka import Kafka
from ..servers.processes import eventually
from ..servers.rabbitmq import RabbitMQ
from ..servers.redis import RedisServer
from . import kinds, test_kafka_broker, test_rabbitmq_broker
from .placed import Place, counts, logged, running
from .shop import Counted, Ship, event

MAX_PAYLOAD = 2 * 1024 * 1024  # of the server that the tests start
FRAME_MAX = 131_072


@pytest.fixture(autouse=True)
def told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attached, "TROUBLE_SECONDS", 0.0)


async def stays_where_it_is(runner: SagaRunner, said: str) -> None:
    """See that others are handled, that health tells of the one, and that it is not lost."""
    await logged(runner, "a", [1, 2])

    async def named() -> bool:
        return any(said in reason for reason in (await runner.health()).reasons)

    await eventually(named, 30)
    await eventually(lambda: counts(runner).accepted == 2 and runner.gauges().sources[0].under_way == 1, 30)
    assert counts(runner).dead_letters == 0


async def test_a_dead_letter_over_the_limit_of_nats_cuts_no_connection(place: Place) -> None:
    await place.into.send(SinkMessage(b"x" * (MAX_PAYLOAD - 100), ""))
    await place.into.send(event("a", 1))
    await place.into.send(event("a", 2))
    async with running(place) as runner:
        await stays_where_it_is(runner, "cannot be moved to the dead letters: NATS")
        connection = runner._attached.subscriptions[0].source._connection  # type: ignore[attr-defined]
        assert (await connection.client()).stats["reconnects"] == 0
    source = place.source()
    assert (await source.backlog()).messages == 1
    await source.close()


async def test_a_command_over_the_limit_of_nats_is_refused_and_cuts_no_connection(place: Place) -> None:
    sink = NatsSink(place.url, subject=f"{place.inside}.sent")
    await sink.send(SinkMessage(b"x", "small"))
    with pytest.raises(BrokerRefusedError, match="more than its max_payload of 2,097,152"):
        await sink.send(SinkMessage(b"x" * (MAX_PAYLOAD - 10), "large"))
    assert (await sink._connection.client()).stats["reconnects"] == 0
    await sink.close()


async def test_a_dead_letter_over_the_frame_of_rabbitmq_cuts_no_connection(one_rabbitmq: RabbitMQ) -> None:
    place = await asyncio.to_thread(test_rabbitmq_broker.queue, one_rabbitmq)
    sink = kinds.sink("rabbitmq", place)
    await sink.send(SinkMessage(b"x", "1", {"h": "y" * (FRAME_MAX - 200)}))
    with pytest.raises(BrokerRefusedError, match="more than its frame_max of 131,072"):
        await sink.send(SinkMessage(b"x", "2", {"h": "y" * FRAME_MAX}))
    await sink.send(event("a", 1))
    await sink.send(event("a", 2))
    async with SagaRunner(
        "memory://", sagas=[Counted], sources=[kinds.source("rabbitmq", place)], dispatch={Ship: lambda _: None}
    ) as runner:
        await stays_where_it_is(runner, "cannot be moved to the dead letters: RabbitMQ")
    await sink.close()


async def test_a_dead_letter_of_kafka_may_be_larger_than_the_client_takes_by_itself(one_kafka: Kafka) -> None:
    place = test_kafka_broker.topic(one_kafka)
    url, name = place.split()
    sink = KafkaSink(url, topic=name, options={"max_request_size": 4_000_000})
    await sink.send(SinkMessage(b"x" * 3_000_000, "large"))
    await sink.close()
    source = KafkaSource(url, topic=name, group=name)
    async with SagaRunner("memory://", sagas=[Counted], sources=[source], dispatch={Ship: lambda _: None}) as runner:
        await eventually(lambda: counts(runner).dead_letters == 1, 60)
    letters = [len(one.body) async for one in source.dead_letters()]
    await source.close()
    assert letters == [3_000_000]


async def test_a_header_that_our_client_does_not_send_is_left_out_of_a_dead_letter_in_nats(place: Place) -> None:
    client = Client()
    await client.connect(place.url)
    await client.jetstream().publish(f"{place.inside}.sent", b"\xff", headers={"x-note": "é", "x-plain": "e"})
    await client.close()
    async with running(place) as runner:
        await eventually(lambda: counts(runner).dead_letters == 1)
    source = place.source()
    (letter,) = [one async for one in source.dead_letters()]
    await source.close()
    assert letter.headers["x-plain"] == "e"
    with pytest.raises(BrokerRefusedError, match="header named 'a b'"):
        await place.into.send(SinkMessage(b"x", "x", {"a b": "c"}))


async def test_many_rejected_at_once_wait_for_the_few_connections_to_redis(one_redis: RedisServer) -> None:
    source = RedisSource(one_redis.url, stream="many", group="g", options={"max_connections": 3})
    sink = kinds.sink("redis", f"{one_redis.url} many")
    for n in range(200):
        await sink.send(SinkMessage(b"poison", str(n)))
    await sink.close()
    async with SagaRunner("memory://", sagas=[Counted], sources=[source], dispatch={Ship: lambda _: None}) as runner:
        await eventually(lambda: counts(runner).dead_letters >= 200, 60)
        assert counts(runner).broker_errors < 20  # a busy machine may let one wait for too long; it was hundreds
    assert len([one async for one in source.dead_letters()]) == 200
    await source.close()


async def test_rejected_again_it_is_one_dead_letter_in_redis(one_redis: RedisServer) -> None:
    sink = kinds.sink("redis", f"{one_redis.url} twice")
    fields = {f"h{n}": "v" for n in range(3000)}  # more than a script can pass on
    await sink.send(SinkMessage(b"poison", "1"))
    await sink.send(SinkMessage(b"poison", "2", fields))
    await sink.close()
    source = RedisSource(one_redis.url, stream="twice", group="g")
    await source.open()
    few, many = await source.receive(2, timedelta(seconds=10))
    await source.reject(few, "unreadable")
    await source.reject(few, "unreadable")  # its answer was lost
    await source.reject(many, "unreadable")
    assert [len(one.headers) for one in await letters_of(source)] == [3, 3003]
    assert (await source.backlog()).messages == 0
    await source.close()


async def letters_of(source: Any) -> list[Any]:
    return [one async for one in source.dead_letters()]


@pytest.mark.parametrize("kind", ["nats", "rabbitmq"])
async def test_dead_letters_have_their_place_again_where_somebody_has_deleted_it(
    kind: str, place: Place, request: pytest.FixtureRequest
) -> None:
    if kind == "nats":
        where, into = f"{place.url} {place.inside}", place.into
        source: Any = kinds.source(kind, where)
    else:
        where = await asyncio.to_thread(test_rabbitmq_broker.queue, request.getfixturevalue("one_rabbitmq"))
        into = kinds.sink(kind, where)  # type: ignore[assignment]
        source = kinds.source(kind, where)
    async with SagaRunner("memory://", sagas=[Counted], sources=[source], dispatch={Ship: lambda _: None}) as runner:
        await into.send(SinkMessage(b"poison", "1"))
        await eventually(lambda: counts(runner).dead_letters == 1, 60)
        if kind == "nats":
            await (await source._connection.jetstream()).delete_stream(f"{place.inside}_dead_letters")
        else:
            channel = await source._connection.another()
            await channel.queue_delete(f"{where.split()[1]}.dead-letters")
            await channel.close()
        await into.send(SinkMessage(b"poison", "2"))
        await eventually(lambda: counts(runner).dead_letters == 2, 60)
    if isinstance(into, RabbitSink):
        await into.close()
    assert [one.reason[:22] for one in await letters_of(source)] == ["it is not a CloudEvent"]
    await source.close()


async def test_a_queue_that_is_deleted_while_it_is_read_is_made_again_and_read(one_rabbitmq: RabbitMQ) -> None:
    place = await asyncio.to_thread(test_rabbitmq_broker.queue, one_rabbitmq)
    source: Any = kinds.source("rabbitmq", place)
    sink = kinds.sink("rabbitmq", place)
    async with SagaRunner("memory://", sagas=[Counted], sources=[source], dispatch={Ship: lambda _: None}) as runner:
        await sink.send(event("a", 1))
        await logged(runner, "a", [1])
        channel = await source._connection.another()
        await channel.queue_delete(place.split()[1])
        await channel.close()

        async def sent() -> bool:
            try:
                await sink.send(event("a", 2))
            except Exception:  # no queue takes it yet
                return False
            return True

        await eventually(sent, 30)
        await logged(runner, "a", [1, 2])
    await sink.close()
