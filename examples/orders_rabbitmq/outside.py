"""What is outside of the order service: customers, and the services for stock, payments and parcels.

`python -m examples.orders_rabbitmq.outside 40` makes the exchange and its queues, places 40 orders, and answers the
commands that come, until all orders are closed. It uses the plain client, as services in other languages would do.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aio_pika.exceptions import DeliveryError

RABBITMQ = os.environ.get("RABBITMQ", "amqp://guest:guest@localhost/")
QUEUES = ("stock", "payments", "parcels")


class Outside:
    """Sends events, and answers each command. One that comes again under its id gets the same answer, and is done once."""

    def __init__(self, channel: AbstractChannel, count: int) -> None:
        self.channel = channel
        self.count = count
        self.answers: dict[str, tuple[str, dict[str, Any]] | None] = {}  # by command id
        self.again = 0
        self.shipped: set[str] = set()
        self.released: set[str] = set()
        self.ended: set[str] = set()  # orders whose last command is answered: others may still be on their way
        self.closed = asyncio.Event()

    async def listen(self) -> None:
        """Make the exchange, and a queue for each service."""
        exchange = await self.channel.declare_exchange("shop", durable=True)
        for name in QUEUES:
            queue = await self.channel.declare_queue(name, durable=True, arguments={"x-queue-type": "quorum"})
            await queue.bind(exchange, name)
            await queue.consume(self.answer)

    async def tell(self, kind: str, event_id: str, source: str, data: dict[str, Any]) -> None:
        """Send an event as a CloudEvent, again until a queue has it: the worker makes that when it starts first."""
        attributes = {"specversion": "1.0", "type": kind, "id": event_id, "source": source}
        message = aio_pika.Message(
            json.dumps(data).encode(),
            headers={f"cloudEvents:{name}": value for name, value in attributes.items()},
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        while True:
            try:
                await self.channel.default_exchange.publish(message, "orders", mandatory=True)
            except DeliveryError:
                await asyncio.sleep(0.1)
            else:
                return

    async def place(self) -> None:
        for n in range(self.count):
            order = {"order_id": f"o-{n}", "cents": 100_000 if n % 5 == 4 else 1_999}
            await self.tell("OrderPlaced", f"o-{n}", "/customers", order)
            await asyncio.sleep(0.02)

    async def answer(self, message: AbstractIncomingMessage) -> None:
        command_id, kind = str(message.headers["cloudEvents:id"]), str(message.headers["cloudEvents:type"])
        queue, command = message.routing_key or "", json.loads(message.body)
        if command_id in self.answers:  # our answer may be lost
            self.again += 1
        else:
            self.answers[command_id] = self.carry_out(kind, command)
        answer = self.answers[command_id]
        if answer is not None:
            await self.tell(answer[0], command_id, f"/{queue}", answer[1])
        await message.ack()
        if kind in ("ShipOrder", "ReleaseStock"):
            self.ended.add(command["order_id"])
        if len(self.ended) == self.count:
            self.closed.set()

    def carry_out(self, kind: str, command: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
        order_id: str = command["order_id"]
        if kind == "ReserveStock":
            return "StockReserved", {"order_id": order_id}
        if kind == "ReleaseStock":
            self.released.add(order_id)
            return None
        if kind == "ShipOrder":
            self.shipped.add(order_id)
            print("shipped", order_id, flush=True)
            return "ParcelHandedIn", {"order_id": order_id, "parcel": f"parcel-{len(self.shipped)}"}
        return "PaymentDeclined" if command["cents"] > 50_000 else "PaymentReceived", {"order_id": order_id}


async def main(count: int) -> None:
    async with await aio_pika.connect(RABBITMQ) as connection:
        outside = Outside(await connection.channel(on_return_raises=True), count)
        await outside.listen()
        await outside.place()
        await outside.closed.wait()
    print(f"{len(outside.shipped)} shipped, {len(outside.released)} declined, {outside.again} commands came again")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
