"""Kafka's brokers fail, one of several at a time: nothing is lost, no step twice, one id for each command.

On the mock cluster of librdkafka, because a real one fails only when it likes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import CorruptRecordException, UnsupportedCodecError
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from sagalog import InMemoryJournal, SagaRunner
from sagalog.brokers import looking
from sagalog.brokers.kafka import KafkaSink, KafkaSource
from sagalog.brokers.kafka.connection import KafkaServers
from sagalog.brokers.kafka.singly import Read, Singly

from ..servers import mock_kafka
from ..servers.mock_kafka import MockKafka
from ..servers.processes import eventually
from .placed import counts
from .shop import Counted, Ship, event, shipped
from .worker import SETTINGS

INSIDE, OUTSIDE, GROUP = "inside", "outside", "workers"
PARTITIONS = 3
ORDERS = 6


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[MockKafka]:
    monkeypatch.setattr(looking, "_SECONDS", 0.2)
    made = MockKafka()
    made.topic(INSIDE, PARTITIONS)
    made.topic(OUTSIDE, PARTITIONS)
    yield made
    made.stop()


def source(cluster: MockKafka) -> KafkaSource:
    return KafkaSource(
        cluster.servers,
        topic=INSIDE,
        group=GROUP,
        session_timeout=timedelta(seconds=1),
        revoke_timeout=timedelta(seconds=1),
        options={"retry_backoff_ms": 20},
    )


@asynccontextmanager
async def working(cluster: MockKafka, journal: InMemoryJournal) -> AsyncIterator[SagaRunner]:
    sink = KafkaSink(cluster.servers, topic=OUTSIDE, options={"retry_backoff_ms": 20, "request_timeout_ms": 3000})
    runner = SagaRunner(journal, sagas=[Counted], sources=[source(cluster)], sinks={Ship: sink}, settings=SETTINGS)
    async with runner:
        yield runner


async def load(cluster: MockKafka, numbers: range) -> None:
    sink = KafkaSink(cluster.servers, topic=INSIDE)
    for number in numbers:
        await asyncio.gather(*(sink.send(event(f"o-{order}", number)) for order in range(ORDERS)))
    await sink.close()


async def commands(cluster: MockKafka, count: int) -> dict[str, tuple[str, int]]:
    """Return what stands outside, by command id, once there are so many ids."""
    consumer = AIOKafkaConsumer(bootstrap_servers=cluster.servers, enable_auto_commit=False)
    await consumer.start()
    partitions = [TopicPartition(OUTSIDE, n) for n in range(PARTITIONS)]
    consumer.assign(partitions)
    await consumer.seek_to_beginning(*partitions)
    found: dict[str, tuple[str, int]] = {}

    async def all_there() -> bool:
        for some in (await consumer.getmany(timeout_ms=100)).values():
            for one in some:
                headers = {name.replace("ce_", "ce-"): value.decode() for name, value in one.headers}
                command_id, order, number = shipped(one.value, headers)
                assert found.setdefault(command_id, (order, number)) == (order, number)
        return len(found) >= count

    await eventually(all_there, 60)
    await consumer.stop()
    return found


async def judge(cluster: MockKafka, runner: SagaRunner, numbers: int) -> None:
    """See that each event is one step, in order, with one command of one id, and that the group is through."""
    found = await commands(cluster, ORDERS * numbers)
    assert sorted(found.values()) == sorted((f"o-{order}", n) for order in range(ORDERS) for n in range(numbers))
    for order in range(ORDERS):
        assert (await runner.state(Counted, f"o-{order}")).log == list(range(numbers))

    async def through() -> bool:
        (gauges,) = runner.gauges().sources
        return (gauges.under_way, gauges.lag, gauges.trouble) == (0, 0, "")

    await eventually(through, 60)


# What a broker answers for a while, by kind of request; the last of them, that it closes the connection.
ANSWERS = {
    mock_kafka.PRODUCE: [
        mock_kafka.NOT_LEADER,
        mock_kafka.NOT_ENOUGH_REPLICAS,
        mock_kafka.NOT_ENOUGH_REPLICAS_AFTER_APPEND,  # it is written all the same
        mock_kafka.REQUEST_TIMED_OUT,
        mock_kafka.DISCONNECTED,
    ],
    mock_kafka.FETCH: [mock_kafka.NOT_LEADER, mock_kafka.DISCONNECTED],
    mock_kafka.OFFSET_COMMIT: [
        mock_kafka.NOT_COORDINATOR,
        mock_kafka.COORDINATOR_LOADING,
        mock_kafka.ILLEGAL_GENERATION,
        mock_kafka.UNKNOWN_MEMBER,
        mock_kafka.REBALANCE_IN_PROGRESS,
        mock_kafka.DISCONNECTED,
    ],
    mock_kafka.HEARTBEAT: [mock_kafka.UNKNOWN_MEMBER, mock_kafka.COORDINATOR_NOT_AVAILABLE, mock_kafka.DISCONNECTED],
}


@pytest.mark.parametrize("kind", ANSWERS)
async def test_what_a_broker_answers_for_a_while_loses_and_doubles_nothing(cluster: MockKafka, kind: int) -> None:
    async with working(cluster, InMemoryJournal()) as runner:
        for number, error in enumerate(ANSWERS[kind]):
            cluster.fail(kind, error, error)
            await load(cluster, range(number, number + 1))
            await eventually(lambda number=number: runner.counters.handled >= ORDERS * (number + 1), 60)
        await judge(cluster, runner, len(ANSWERS[kind]))


async def test_a_coordinator_that_moves_under_load_loses_and_doubles_nothing(cluster: MockKafka) -> None:
    async with working(cluster, InMemoryJournal()) as runner:
        for number in range(6):
            cluster.coordinate(GROUP, 1 + number % 3)
            await load(cluster, range(number, number + 1))
        await judge(cluster, runner, 6)


async def test_leaders_that_change_under_load_lose_and_double_nothing(cluster: MockKafka) -> None:
    async with working(cluster, InMemoryJournal()) as runner:
        for number in range(6):
            for topic in (INSIDE, OUTSIDE):
                for partition in range(PARTITIONS):
                    cluster.lead(topic, partition, 1 + (number + partition) % 3)
            await load(cluster, range(number, number + 1))
        await judge(cluster, runner, 6)


async def test_brokers_that_go_down_one_after_the_other_lose_and_double_nothing(cluster: MockKafka) -> None:
    cluster.coordinate(GROUP, 1)
    async with working(cluster, InMemoryJournal()) as runner:
        for number in range(3):
            down, left = number + 1, 1 + (number + 1) % 3
            await load(cluster, range(number, number + 1))
            for topic in (INSIDE, OUTSIDE):
                for partition in range(PARTITIONS):
                    cluster.lead(topic, partition, left)
            cluster.coordinate(GROUP, left)
            cluster.down(down)
            await eventually(lambda number=number: runner.counters.handled >= ORDERS * (number + 1), 60)
            cluster.up(down)
        await judge(cluster, runner, 3)


async def test_a_partition_without_a_leader_waits_and_holds_up_no_other(cluster: MockKafka) -> None:
    async with working(cluster, InMemoryJournal()) as runner:
        await load(cluster, range(1))
        await judge(cluster, runner, 1)
        cluster.lead(OUTSIDE, 0, -1)
        await load(cluster, range(1, 2))
        await eventually(lambda: runner.counters.handled == 2 * ORDERS, 60)
        cluster.lead(OUTSIDE, 0, 2)
        await judge(cluster, runner, 2)


async def test_a_group_that_has_come_further_than_the_topic_goes_reads_it_from_its_beginning(
    cluster: MockKafka,
) -> None:
    """As auto.offset.reset has it: this cluster refuses such a position, as Kafka does."""
    consumer = AIOKafkaConsumer(bootstrap_servers=cluster.servers, group_id=GROUP, enable_auto_commit=False)
    await consumer.start()
    partitions = [TopicPartition(INSIDE, number) for number in range(PARTITIONS)]
    consumer.assign(partitions)
    await consumer.commit(dict.fromkeys(partitions, 100))
    await consumer.stop()
    await load(cluster, range(1, 4))
    async with working(cluster, InMemoryJournal()) as runner:
        await eventually(lambda: counts(runner).accepted >= 3 * ORDERS, 60)
        await eventually(lambda: runner.gauges().sources[0].lag == 0, 60)


class Damaged(_DefaultRecordBatchBuilderPy):
    """A batch whose last byte is another one than its checksum says."""

    def build(self) -> bytearray:
        built: bytearray = super().build()
        built[-1] ^= 0xFF
        return built


async def test_a_damaged_batch_holds_up_nothing_and_its_place_is_told(
    cluster: MockKafka, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.topic(f"{INSIDE}.dead-letters.{GROUP}", 1)  # this one makes none when it is asked to
    await load(cluster, range(1))
    producer = AIOKafkaProducer(bootstrap_servers=cluster.servers)
    await producer.start()
    batch = producer.create_batch()
    batch._builder = Damaged(2, 0, False, -1, -1, 0, 16_384)
    for _ in range(3):
        batch.append(key=None, value=b"x", timestamp=None, headers=[])
    first = (await (await producer.send_batch(batch, INSIDE, partition=1))).offset
    await producer.stop()
    await load(cluster, range(1, 2))
    async with working(cluster, InMemoryJournal()) as runner:
        await judge(cluster, runner, 2)
        assert counts(runner).dead_letters == 3
    why = "the broker's client cannot read it: CorruptRecordException in it, or in front of it in its batch"
    for offset in range(first, first + 3):
        assert f"topic {INSIDE}, partition 1, offset {offset} went to the dead letters: {why}" in caplog.text


async def test_what_was_damaged_on_its_way_is_read_when_it_is_fetched_again(
    cluster: MockKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    await load(cluster, range(2))
    read, damaged = AIOKafkaConsumer.getmany, ["in a row", "singly", "singly, again"]

    async def getmany(consumer: AIOKafkaConsumer, *partitions: TopicPartition, **how: Any) -> Any:
        found = await read(consumer, *partitions, **how)
        if found and damaged and bool(partitions) == damaged[0].startswith("singly"):
            damaged.pop(0)
            for partition, some in found.items():
                consumer.seek(partition, some[0].offset)
            raise CorruptRecordException
        return found

    monkeypatch.setattr(AIOKafkaConsumer, "getmany", getmany)
    async with working(cluster, InMemoryJournal()) as runner:
        await judge(cluster, runner, 2)
        assert (damaged, counts(runner).dead_letters) == ([], 0)


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_compressed_batches_are_read(cluster: MockKafka, codec: str) -> None:
    sink = KafkaSink(cluster.servers, topic=INSIDE, options={"compression_type": codec})
    await asyncio.gather(*(sink.send(event(f"o-{order}", 0)) for order in range(ORDERS)))
    await sink.close()
    async with working(cluster, InMemoryJournal()) as runner:
        await judge(cluster, runner, 1)


async def test_a_codec_whose_library_is_missing_is_named_and_holds_up_no_other_partition(
    cluster: MockKafka, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await load(cluster, range(1))
    asked = AIOKafkaConsumer(bootstrap_servers=cluster.servers)
    await asked.start()
    ends = await asked.end_offsets([TopicPartition(INSIDE, number) for number in range(1, PARTITIONS)])
    await asked.stop()
    elsewhere, there = sum(ends.values()), False
    assert 0 < elsewhere < ORDERS
    read = AIOKafkaConsumer.getmany

    async def getmany(consumer: AIOKafkaConsumer, *partitions: TopicPartition, **how: Any) -> Any:
        if not there and any(one.partition == 0 for one in partitions or consumer.assignment()):
            raise UnsupportedCodecError("Libraries for lz4 compression codec not found")
        return await read(consumer, *partitions, **how)

    monkeypatch.setattr(AIOKafkaConsumer, "getmany", getmany)
    async with working(cluster, InMemoryJournal()) as runner:
        await eventually(lambda: "pip install 'sagalog[kafka]', which has the libraries" in caplog.text)
        await eventually(lambda: counts(runner).accepted == elsewhere, 60)
        there = True
        await judge(cluster, runner, 1)


async def test_a_codec_whose_library_is_missing_makes_no_worker_leave_its_group_again_and_again(
    cluster: MockKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    await load(cluster, range(1))
    read, start, told, joined = AIOKafkaConsumer.getmany, AIOKafkaConsumer.start, [0], [0]

    async def getmany(consumer: AIOKafkaConsumer, *partitions: TopicPartition, **how: Any) -> Any:
        if any(one.partition == 0 for one in partitions or consumer.assignment()):
            told[0] += 1
            raise UnsupportedCodecError("Libraries for lz4 compression codec not found")
        return await read(consumer, *partitions, **how)

    async def joins(consumer: AIOKafkaConsumer) -> None:
        joined[0] += 1
        await start(consumer)

    monkeypatch.setattr(AIOKafkaConsumer, "getmany", getmany)
    monkeypatch.setattr(AIOKafkaConsumer, "start", joins)
    async with working(cluster, InMemoryJournal()) as runner:
        await eventually(lambda: told[0] >= 2 and counts(runner).accepted > 0, 60)
        before = told[0], joined[0]
        await eventually(lambda: told[0] >= before[0] + 3, 60)  # the other partitions have nothing any more
        assert joined[0] == before[1]


async def test_a_lack_of_memory_passes_over_nothing(cluster: MockKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    await load(cluster, range(2))
    read, raised = AIOKafkaConsumer.getmany, [MemoryError] * 6 + [CorruptRecordException]  # read one by one since then

    async def getmany(consumer: AIOKafkaConsumer, *partitions: TopicPartition, **how: Any) -> Any:
        if raised and "max_records" in how:  # it is the source's
            raise raised.pop()
        return await read(consumer, *partitions, **how)

    monkeypatch.setattr(AIOKafkaConsumer, "getmany", getmany)
    async with working(cluster, InMemoryJournal()) as runner:
        await judge(cluster, runner, 2)
        assert (raised, counts(runner).dead_letters) == ([], 0)


async def test_no_partition_that_is_read_record_by_record_waits_for_another(cluster: MockKafka) -> None:
    await load(cluster, range(10))
    consumer = AIOKafkaConsumer(
        bootstrap_servers=cluster.servers, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    consumer.assign([TopicPartition(INSIDE, number) for number in range(PARTITIONS)])
    singly, seen = Singly(KafkaServers(cluster.servers, None)), []
    async with asyncio.timeout(60):
        for most in (PARTITIONS, 1, 1, 1):
            found: list[Read] = []
            while not found:
                found = await singly.read(consumer, most, 0.5)
            seen.append({one.partition.partition for one in found})
            assert len(found) <= most
    await consumer.stop()
    assert set().union(*seen[1:]) == seen[0] == set(range(PARTITIONS))
