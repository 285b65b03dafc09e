"""FastStream and a saga on one broker, as the page about it shows, and with the service killed in the middle."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE, Process
from collections import defaultdict
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import aio_pika
import msgspec
import nats
import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from faststream import AckPolicy
from faststream.kafka import KafkaBroker
from faststream.nats import JStream, NatsBroker
from faststream.rabbit import RabbitBroker
from faststream.redis import RedisBroker, StreamSub
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from ..servers.nats import Nats
from ..servers.processes import eventually
from ..servers.rabbitmq import RabbitMQ

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "faststream.md").read_text()
ORDERS, KILLS = 60, (20,)
SECOND = "from datetime import timedelta\nSECOND = timedelta(seconds=1)\n"
QUICK = {  # so that a kill is not waited for
    "from sagalog import ": f"{SECOND}from sagalog import RunnerSettings, ",
    "sagas=[OrderSaga]": "sagas=[OrderSaga], settings=RunnerSettings(lease=SECOND, due_poll=SECOND / 20)",
    "subject=subject)": "subject=subject, ack_wait=2 * SECOND)",
}
WAYS = {"FastStream reads": ("service.py",), "Sagalog reads": ("-m", "sagalog", "worker", "sources:runner")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The programs of the page, made quick."""
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        name = code.partition("\n")[0].removeprefix("# ")
        for shown, quick in QUICK.items():
            code = code.replace(shown, quick)
        (tmp_path / name).write_text(code)
    return tmp_path


@pytest.fixture
async def stream(one_nats: Nats) -> JetStreamContext:
    """The stream of the shop, empty and without consumers."""
    client = await nats.connect(one_nats.url)
    made = client.jetstream()
    with suppress(nats.js.errors.NotFoundError):
        await made.delete_stream("shop")
    await made.add_stream(name="shop", subjects=["shop.>"])
    yield made
    await client.close()


async def start(folder: Path, url: str, *arguments: str) -> Process:
    environment = {**os.environ, "NATS_URL": url, "PYTHONPATH": f"{ROOT / 'src'}:{folder}", "PYTHONUNBUFFERED": "1"}
    return await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=folder, env=environment, stdout=PIPE, stderr=None
    )


async def while_it_runs(service: Process, waiting: Coroutine[Any, Any, None]) -> None:
    """Wait, but not for what a service would have to do that has ended."""
    ended, done = asyncio.create_task(service.wait()), asyncio.create_task(waiting)
    await asyncio.wait({ended, done}, return_when=asyncio.FIRST_COMPLETED)
    ended.cancel()
    if not done.done():
        done.cancel()
    assert service.returncode is None, "the service has ended: see what it said"
    await done


async def stop(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


async def test_the_programs_of_the_page_ship_one_order_once(
    folder: Path, one_nats: Nats, stream: JetStreamContext
) -> None:
    (expected,) = re.findall(r"```text\n(.*?)```", PAGE, re.S)
    service = await start(folder, one_nats.url, *WAYS["FastStream reads"])
    shipping = await start(folder, one_nats.url, "shipping.py")
    try:
        assert shipping.stdout is not None
        assert (await asyncio.wait_for(shipping.stdout.readline(), 60)).decode() == expected
        shipped = await stream.subscribe("shop.shipped", durable="looking")
        assert (await shipped.next_msg(timeout=30)).headers["message_id"].startswith("shipped for saga::order::A-1/")
    finally:
        await stop(service)
        await stop(shipping)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", WAYS)
async def test_nothing_is_lost_and_each_command_has_one_id_when_the_service_is_killed(
    way: str, folder: Path, one_nats: Nats, stream: JetStreamContext
) -> None:
    ids: dict[str, set[str]] = defaultdict(set)
    enough = asyncio.Condition()

    async def ship(message: Msg) -> None:
        """The other service: it notes what comes, and answers, under an id that is made of the command's."""
        command = msgspec.json.decode(message.data)
        assert message.headers is not None
        ids[command["order_id"]].add(message.headers["message_id"])
        await publish(stream, "shop.shipped", command["order_id"], f"shipped for {message.headers['message_id']}")
        await message.ack()
        async with enough:
            enough.notify_all()

    async def shipped(number: int) -> None:
        async with asyncio.timeout(120), enough:
            await enough.wait_for(lambda: len(ids) >= number)

    await stream.subscribe("shop.shipping", cb=ship, durable="ledger", manual_ack=True)
    service = await start(folder, one_nats.url, *WAYS[way])
    try:
        for number in range(ORDERS):
            for _ in range(2):
                await publish(stream, "shop.placed", f"A-{number}", f"web-{number}")
        for kill in KILLS:
            await while_it_runs(service, shipped(kill))
            await stop(service)
            service = await start(folder, one_nats.url, *WAYS[way])

        async def all_accepted() -> bool:
            """Nothing is waiting in the stream for anybody: also what was sent twice has been handled."""
            found = await stream.consumers_info("shop")
            return len(found) >= 3 and not any(one.num_pending or one.num_ack_pending for one in found)

        await while_it_runs(service, shipped(ORDERS))
        await while_it_runs(service, eventually(all_accepted, seconds=120))
    finally:
        await stop(service)
    assert {order: len(found) for order, found in ids.items()} == {f"A-{number}": 1 for number in range(ORDERS)}
    live = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sagalog", "list", "--journal", "sqlite:///orders.db", "--all"),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=PIPE,
    )
    said = (await live.communicate())[0].decode()
    assert said.count("completed") == ORDERS, said


async def publish(stream: JetStreamContext, subject: str, order: str, message_id: str) -> None:
    headers = {"message_id": message_id, "content-type": "application/json"}
    await stream.publish(subject, msgspec.json.encode({"order_id": order}), headers=headers)


@pytest.mark.parametrize(("policy", "deliveries"), [(None, 1), (AckPolicy.NACK_ON_ERROR, 2)])
async def test_what_a_subscriber_could_not_store_comes_again_only_with_the_policy_of_the_page(
    policy: AckPolicy | None, deliveries: int, one_nats: Nats, stream: JetStreamContext
) -> None:
    broker = NatsBroker(one_nats.url, logger=None)
    seen: list[str] = []
    settled = asyncio.Event()

    @broker.subscriber(
        "shop.placed", stream=JStream("shop", declare=False), durable="once", pull_sub=True,
        **({} if policy is None else {"ack_policy": policy}),
    )  # fmt: skip
    async def placed(body: str) -> None:
        seen.append(body)
        if body == "last":
            settled.set()
        elif seen.count(body) == 1:
            raise RuntimeError("the journal is away")

    async with broker:
        await broker.start()
        await broker.publish("first", "shop.placed", stream="shop")
        await eventually(lambda: seen.count("first") == deliveries, seconds=30)

        async def is_done() -> bool:
            info = await stream.consumer_info("shop", "once")
            return info.num_ack_pending == 0 and info.num_pending == 0

        await eventually(is_done, seconds=30)
        await broker.publish("last", "shop.placed", stream="shop")
        await asyncio.wait_for(settled.wait(), 30)
    assert seen.count("first") == deliveries


def test_the_defaults_are_those_of_the_page() -> None:
    brokers = {
        "NATS JetStream": NatsBroker(logger=None).subscriber("x", stream="x"),
        "RabbitMQ": RabbitBroker(logger=None).subscriber("x"),
        "Redis Streams": RedisBroker(logger=None).subscriber(stream=StreamSub("x", group="x", consumer="x")),
        "Kafka": KafkaBroker(logger=None).subscriber("x"),
    }
    said = dict(re.findall(r"^\| (.*?) \| (?:`(\w+)`|the same)", PAGE, re.M))
    named = ""
    for name, subscriber in brokers.items():
        named = said[name] or named
        assert subscriber.ack_policy.name == named, name


RABBIT = """
import asyncio
import os
from typing import Annotated

from faststream import AckPolicy, Context, FastStream
from faststream.rabbit import RabbitBroker, RabbitQueue

from orders import OrderPlaced, ShipOrder, runner
from sagalog import CommandContext

broker = RabbitBroker(os.environ["RABBIT_URL"], logger=None)
placed, shipping = (RabbitQueue(os.environ[name], durable=True) for name in ("PLACED", "SHIPPING"))


@broker.subscriber(placed, ack_policy=AckPolicy.NACK_ON_ERROR)
async def take(event: OrderPlaced, message_id: Annotated[str, Context("message.raw_message.message_id")]) -> None:
    await runner.handle(event, message_id=message_id)


@runner.command(ShipOrder)
async def ship(command: ShipOrder, context: CommandContext) -> None:
    await broker.publish(command, shipping, message_id=context.id, persist=True)


async def main() -> None:
    await broker.connect()
    async with runner:
        await FastStream(broker).run()


asyncio.run(main())
"""


async def test_on_rabbitmq_nothing_is_lost_either_when_one_of_two_services_is_killed(
    folder: Path, one_rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {name: f"faststream-{name.lower()}-{os.getpid()}" for name in ("PLACED", "SHIPPING")}
    for name, value in {**names, "RABBIT_URL": one_rabbitmq.url}.items():
        monkeypatch.setenv(name, value)
    (folder / "rabbit.py").write_text(RABBIT)
    ids: dict[str, set[str]] = defaultdict(set)
    enough = asyncio.Condition()

    async def shipped(message: AbstractIncomingMessage) -> None:
        ids[msgspec.json.decode(message.body)["order_id"]].add(message.message_id or "")
        await message.ack()
        async with enough:
            enough.notify_all()

    async def place(order: str) -> None:
        body = msgspec.json.encode({"order_id": order})
        for _ in range(2):
            message = aio_pika.Message(
                body, message_id=f"web-{order}", content_type="application/json", delivery_mode=2
            )
            await channel.default_exchange.publish(message, names["PLACED"])

    async def wait_for(count: int) -> None:
        async with asyncio.timeout(120), enough:
            await enough.wait_for(lambda: len(ids) >= count)

    async with await aio_pika.connect(one_rabbitmq.url) as connection:
        channel = await connection.channel()
        queues = {name: await channel.declare_queue(value, durable=True) for name, value in names.items()}
        await queues["SHIPPING"].consume(shipped)
        services = [await start(folder, "", "rabbit.py") for _ in range(2)]
        try:
            await while_it_runs(
                services[0], eventually(lambda: has_consumers(channel, names["PLACED"], 2), seconds=120)
            )
            for number in range(ORDERS):
                await place(f"A-{number}")
            await while_it_runs(services[0], wait_for(KILLS[0]))
            await stop(services[0])
            await while_it_runs(services[1], wait_for(ORDERS))
            await place("the last")  # behind all that came again
            await while_it_runs(services[1], wait_for(ORDERS + 1))
        finally:
            for service in services:
                await stop(service)
    assert {order: len(found) for order, found in ids.items()} == dict.fromkeys(ids, 1)
    assert len(ids) == ORDERS + 1


async def has_consumers(channel: AbstractChannel, queue: str, count: int) -> bool:
    found = await channel.declare_queue(queue, passive=True)
    return (found.declaration_result.consumer_count or 0) >= count
