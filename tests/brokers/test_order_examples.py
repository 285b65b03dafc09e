"""The order services of `examples/`, as their pages say they are run, with a worker that is killed in the middle.

The ledger is outside: every command that a broker has carried, read by a plain client that is no part of the example.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path

import aio_pika
import pytest
from aiokafka import AIOKafkaConsumer

from ..servers.kafka import Kafka
from ..servers.processes import eventually
from ..servers.rabbitmq import MISSING, PROGRAM, RabbitMQ

ROOT = Path(__file__).parents[2]
ORDERS = 40
DECLINED = ORDERS // 5


class Ledger:
    """The ids under which each command has come: one, however often it came."""

    def __init__(self) -> None:
        self.ids: dict[tuple[str, str], set[str]] = defaultdict(set)  # by type and order

    def put(self, kind: str, command_id: str, body: bytes) -> None:
        self.ids[kind, json.loads(body)["order_id"]].add(command_id)

    def orders(self, kind: str) -> set[str]:
        return {order for of, order in self.ids if of == kind}


@asynccontextmanager
async def ledger_of_kafka(server: Kafka) -> AsyncIterator[Ledger]:
    ledger = Ledger()

    async def read(consumer: AIOKafkaConsumer) -> None:
        async for record in consumer:
            headers = {name: value.decode() for name, value in record.headers}
            ledger.put(headers["ce_type"], headers["ce_id"], record.value)

    topics, soon = ("payments", "parcels"), 200  # the example makes them
    async with AIOKafkaConsumer(
        *topics, bootstrap_servers=server.servers, auto_offset_reset="earliest", metadata_max_age_ms=soon
    ) as consumer:
        reading = asyncio.create_task(read(consumer))
        yield ledger
        reading.cancel()


@asynccontextmanager
async def ledger_of_rabbitmq(server: RabbitMQ) -> AsyncIterator[Ledger]:
    """A queue beside those of the services."""
    ledger = Ledger()
    async with await aio_pika.connect(server.url) as connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange("shop", durable=True)
        queue = await channel.declare_queue(exclusive=True)
        for name in ("stock", "payments", "parcels"):
            await queue.bind(exchange, name)

        async def read(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            headers = message.headers
            ledger.put(str(headers["cloudEvents:type"]), str(headers["cloudEvents:id"]), message.body)

        await queue.consume(read, no_ack=True)
        yield ledger


class Service:
    """The programs of one example, started as its page says."""

    def __init__(self, kind: str, url: str, folder: Path) -> None:
        self.module = f"examples.orders_{kind}"
        self.journal = f"sqlite:///{folder}/orders.db"
        self._environment = {**os.environ, kind.upper(): url, "JOURNAL": self.journal}
        self._running: list[Process] = []

    async def _start(self, *arguments: str, **streams: int) -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *arguments, cwd=ROOT, env=self._environment, **streams
        )
        self._running.append(process)
        return process

    async def worker(self) -> Process:
        return await self._start("sagalog", "worker", f"{self.module}.orders:runner")

    async def outside(self, orders: int) -> Process:
        return await self._start(f"{self.module}.outside", str(orders), stdout=PIPE)

    async def end(self) -> None:
        for process in self._running:
            if process.returncode is None:
                process.kill()
                await process.wait()


@pytest.fixture
async def service(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Service]:
    kind = request.param
    if kind == "rabbitmq" and not PROGRAM.exists():
        pytest.skip(MISSING)
    server = request.getfixturevalue(f"one_{kind}")
    service = Service(kind, server.servers if kind == "kafka" else server.url, tmp_path)
    yield service
    await service.end()


@pytest.mark.parametrize("service", ["kafka", "rabbitmq"], indirect=True)
async def test_an_order_service_whose_worker_is_killed_loses_nothing_and_gives_no_command_two_ids(
    service: Service, request: pytest.FixtureRequest
) -> None:
    kind = service.module.rpartition("_")[2]
    ledger_of = {"kafka": ledger_of_kafka, "rabbitmq": ledger_of_rabbitmq}[kind]
    async with ledger_of(request.getfixturevalue(f"one_{kind}")) as ledger:
        worker = await service.worker()
        outside = await service.outside(ORDERS)
        assert outside.stdout is not None
        for _ in range(5):
            assert (await outside.stdout.readline()).startswith(b"shipped")
        worker.send_signal(signal.SIGKILL)
        assert await worker.wait() == -signal.SIGKILL
        worker = await service.worker()
        said = (await asyncio.wait_for(outside.stdout.read(), 60)).decode().splitlines()
        assert await outside.wait() == 0
        assert said[-1].startswith(f"{ORDERS - DECLINED} shipped, {DECLINED} declined, ")
        everything = {f"o-{n}" for n in range(ORDERS)}
        declined = {f"o-{n}" for n in range(4, ORDERS, 5)}
        wanted = {"ChargeCard": everything, "ShipOrder": everything - declined}
        if kind == "rabbitmq":
            wanted |= {"ReserveStock": everything, "ReleaseStock": declined}
        await eventually(lambda: {name: ledger.orders(name) for name in wanted} == wanted, 30)
    assert {name for name, _ in ledger.ids} == set(wanted)
    assert all(len(ids) == 1 for ids in ledger.ids.values()), "a command has two ids"

    orders = import_module(f"{service.module}.orders")
    async with orders.runner.using(journal=service.journal, client=True) as looking:
        ends = {order: await looking.outcome(orders.OrderSaga, order, timeout=None) for order in everything}
    shipped = {order for order, end in ends.items() if (end.result or "").startswith("shipped as ")}
    assert shipped == everything - declined
    worker.send_signal(signal.SIGTERM)
    assert await worker.wait() == 0
