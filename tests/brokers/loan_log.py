"""The loan log through a broker on four workers, one of them killed on the way: what the last of them prints.

`python -m tests.brokers.loan_log LOG.jsonl.gz [kafka] [rabbitmq]` starts the broker, and compares that with the figures
that are computed from the file by hand.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import signal
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from sagalog.brokers import Sink, SinkMessage

from ..examples.test_loans import ROOT, expected
from ..examples.test_loans_shared import reported
from ..servers.kafka import Kafka
from ..servers.processes import eventually
from ..servers.rabbitmq import RabbitMQ
from . import kinds, test_kafka_broker, test_rabbitmq_broker

WORKERS = 4
PARTITIONS = 6
_BLOCK = 500  # events that are sent together: those of one application in order
_KILL_AT = 1000
_SECONDS = 1800


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

    await eventually(done, _SECONDS)
    await admin.close()


async def all_acknowledged(server: Any, place: str) -> None:
    """Wait until the queue is empty: what is on its way from one reader to the next waits nowhere, and is not done."""
    name = place.split()[1]

    async def done() -> bool:
        return await asyncio.to_thread(server.messages, name) == 0

    await eventually(done, _SECONDS)


async def printed(kind: str, server: Any, log: Path, journal: str, told: Callable[[str], None] = lambda _: None) -> str:
    """Send the log, kill a worker on the way, wait until all of it is accepted, and return what a worker reports."""
    with gzip.open(log, "rt") as opened:
        lines = opened.readlines()
    place = await place_of(kind, server)
    workers = list(await asyncio.gather(*(start(kind, journal, place) for _ in range(WORKERS))))
    sink = kinds.sink(kind, place)
    for first in range(0, len(lines), _BLOCK):
        cases: dict[str, list[str]] = defaultdict(list)
        for line in lines[first : first + _BLOCK]:
            cases[json.loads(line)["case"]].append(line)
        await asyncio.gather(*(send_in_order(sink, case, its) for case, its in cases.items()))
        if first == _KILL_AT:
            workers[0].send_signal(signal.SIGKILL)
            await workers[0].wait()
            workers[0] = await start(kind, journal, place)
            told("one worker is killed, and another one started")
    await sink.close()
    told(f"{len(lines):,} events are sent")
    if kind == "kafka":
        await all_committed(place, len(lines))
    else:
        await all_acknowledged(server, place)
    told("all of them are accepted")
    return await reported(workers, lines)


def main(log: Path, *wanted: str) -> int:
    """Run it on each broker; return how many printed something else than the known figures."""
    known = expected(log)
    print("by hand:", known, flush=True)
    wrong = 0
    for kind in wanted or ("kafka", "rabbitmq"):
        with tempfile.TemporaryDirectory() as folder:
            server: Kafka | RabbitMQ = Kafka(Path(folder)) if kind == "kafka" else RabbitMQ(Path(folder))
            server.start()
            begun = time.monotonic()

            def told(what: str, kind: str = kind, begun: float = begun) -> None:
                print(f"{kind}, {time.monotonic() - begun:.0f} s: {what}", flush=True)

            try:
                said = asyncio.run(printed(kind, server, log, f"sqlite:///{folder}/loans.db", told))
            finally:
                server.stop()
            told(said)
            wrong += said != known
    return wrong


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
