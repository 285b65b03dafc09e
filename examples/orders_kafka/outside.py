"""What is outside of the order service: customers, and the services for payments and parcels.

`python -m examples.orders_kafka.outside 40` makes the topics, places 40 orders, and answers the commands that come, until
all orders are closed. It uses the plain client, as services in other languages would do.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

KAFKA = os.environ.get("KAFKA", "localhost:9092")
TOPICS = ("orders", "payments", "parcels")


async def make_topics() -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=KAFKA)
    await admin.start()
    missing = set(TOPICS) - set(await admin.list_topics())
    if missing:
        await admin.create_topics([NewTopic(name, 3, 1) for name in missing])
    await admin.close()


class Outside:
    """Sends events, and answers each command. One that comes again under its id gets the same answer, and is done once."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self.producer = producer
        self.answers: dict[str, tuple[str, dict[str, Any]]] = {}  # by command id
        self.again = 0
        self.shipped: set[str] = set()
        self.declined: set[str] = set()

    async def tell(self, kind: str, event_id: str, source: str, data: dict[str, Any]) -> None:
        """Send an event as a CloudEvent, with the order as its key, so that the events of an order stay in order."""
        attributes = {"specversion": "1.0", "type": kind, "id": event_id, "source": source}
        headers = [(f"ce_{name}", value.encode()) for name, value in attributes.items()]
        headers.append(("content-type", b"application/json"))
        await self.producer.send_and_wait(
            "orders", json.dumps(data).encode(), key=data["order_id"].encode(), headers=headers
        )

    async def place(self, count: int) -> None:
        for n in range(count):
            order = {"order_id": f"o-{n}", "cents": 100_000 if n % 5 == 4 else 1_999}
            await self.tell("OrderPlaced", f"o-{n}", "/customers", order)
            await asyncio.sleep(0.02)

    async def answer(self, command_id: str, topic: str, command: dict[str, Any]) -> None:
        if command_id in self.answers:  # our answer may be lost
            self.again += 1
        else:
            self.answers[command_id] = self.carry_out(topic, command)
        await self.tell(self.answers[command_id][0], command_id, f"/{topic}", self.answers[command_id][1])

    def carry_out(self, topic: str, command: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        order_id: str = command["order_id"]
        if topic == "parcels":
            self.shipped.add(order_id)
            print("shipped", order_id, flush=True)
            return "ParcelHandedIn", {"order_id": order_id, "parcel": f"parcel-{len(self.shipped)}"}
        if command["cents"] > 50_000:
            self.declined.add(order_id)
            return "PaymentDeclined", {"order_id": order_id, "reason": "too much"}
        return "PaymentReceived", {"order_id": order_id}


async def main(count: int) -> None:
    await make_topics()
    async with (
        AIOKafkaProducer(bootstrap_servers=KAFKA) as producer,
        AIOKafkaConsumer("payments", "parcels", bootstrap_servers=KAFKA, auto_offset_reset="earliest") as commands,
    ):
        outside = Outside(producer)
        placing = asyncio.create_task(outside.place(count))
        async for record in commands:
            headers = {name: value.decode() for name, value in record.headers}
            await outside.answer(headers["ce_id"], record.topic, json.loads(record.value))
            if len(outside.shipped) + len(outside.declined) == count:
                break
        await placing
    print(f"{len(outside.shipped)} shipped, {len(outside.declined)} declined, {outside.again} commands came again")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
