"""The loan log through a broker on four workers, one of them killed on the way: the figures are those of one worker."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from sagalog.brokers import Sink, SinkMessage

from ..examples.test_loans import FULL, ROOT, SMALL, expected
from ..servers.processes import eventually
from . import kinds, test_kafka_broker, test_rabbitmq_broker

WORKERS = 4
PARTITIONS = 6


async def start(kind: str, journal: str, place: str) -> Process:
    arguments = ("-m", "tests.brokers.loan_worker", kind, journal, *place.split())
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=ROOT, stdin=PIPE, stdout=PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    return process


async def place_of(kind: str, server: Any) -> str:
    """Make a topic of several partitions, or a queue that one worker at a time reads: both keep the order of a case."""
    if kind == "kafka":
        return test_kafka_broker.topic(server, PARTITIONS)
    place: str = await asyncio.to_thread(test_rabbitmq_broker.queue, server, single=True)
    return place


async def send_in_order(sink: Sink, case: str, lines: list[str]) -> None:
    for line in lines:
        await sink.send(SinkMessage(line.encode(), "", {}, case))


async def all_committed(place: str, count: int) -> None:
    """Wait until the group is through: a worker sees only its own partitions."""
    url, name = place.split()
    admin = AIOKafkaAdminClient(bootstrap_servers=url.removeprefix("kafka://"))
    await admin.start()

    async def done() -> bool:
        offsets = await admin.list_consumer_group_offsets(
            "loans", partitions=[TopicPartition(name, n) for n in range(PARTITIONS)]
        )
        return sum(max(0, one.offset) for one in offsets.values()) == count

    await eventually(done, 600)
    await admin.close()


async def all_acknowledged(server: Any, place: str) -> None:
    """Wait until the queue is empty: what is on its way from one reader to the next waits nowhere, and is not done."""
    name = place.split()[1]

    async def done() -> bool:
        return await asyncio.to_thread(server.messages, name) == 0

    await eventually(done, 600)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["kafka", "rabbitmq"])
async def test_four_workers_on_a_broker_print_what_one_prints_from_a_file(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    log = FULL if os.environ.get("SAGALOG_TEST_LOANS") == "all" else SMALL
    with gzip.open(log, "rt") as opened:
        lines = opened.readlines()
    server = request.getfixturevalue(f"one_{kind}")
    place = await place_of(kind, server)
    journal = f"sqlite:///{tmp_path}/loans.db"
    workers = list(await asyncio.gather(*(start(kind, journal, place) for _ in range(WORKERS))))
    sink = kinds.sink(kind, place)
    for first in range(0, len(lines), 500):
        cases: dict[str, list[str]] = defaultdict(list)
        for line in lines[first : first + 500]:
            cases[json.loads(line)["case"]].append(line)
        await asyncio.gather(*(send_in_order(sink, case, its) for case, its in cases.items()))
        if first == 1000:
            workers[0].send_signal(signal.SIGKILL)
            await workers[0].wait()
            workers[0] = await start(kind, journal, place)
    await sink.close()
    if kind == "kafka":
        await all_committed(place, len(lines))
    else:
        await all_acknowledged(server, place)
    for worker in workers[1:]:
        assert worker.stdin is not None
        worker.stdin.close()
    assert [await worker.wait() for worker in workers[1:]] == [0] * (WORKERS - 1)
    said, _ = await workers[0].communicate(f"end {max(json.loads(line)['at'] for line in lines)}\n".encode())
    assert workers[0].returncode == 0
    assert said.decode().strip() == expected(log)
