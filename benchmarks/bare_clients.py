"""What the clients of the brokers do without any of our code: receive, send on, wait for the confirmation, accept.

Each takes `count` messages from `inside`, sends each to `outside` with its headers, and has `most` of them under way.
"""

from __future__ import annotations

import asyncio
from typing import Any


async def kafka(url: str, inside: str, outside: str, count: int, most: int) -> None:
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

    consumer = AIOKafkaConsumer(
        inside,
        bootstrap_servers=url,
        group_id=f"{inside}-bare",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    async with AIOKafkaProducer(bootstrap_servers=url, acks="all") as producer, consumer:
        done = 0
        while done < count:
            found = await consumer.getmany(timeout_ms=1000, max_records=most)
            records = [record for some in found.values() for record in some]
            await asyncio.gather(
                *(
                    producer.send_and_wait(outside, record.value, key=record.key, headers=list(record.headers))
                    for record in records
                )
            )
            if found:
                await consumer.commit({part: some[-1].offset + 1 for part, some in found.items()})
            done += len(records)


async def rabbitmq(url: str, inside: str, outside: str, count: int, most: int) -> None:
    import aio_pika

    async with await aio_pika.connect(url) as connection:
        channel, sending = await connection.channel(), await connection.channel(on_return_raises=True)
        await channel.set_qos(prefetch_count=most)
        queue = await channel.get_queue(inside, ensure=False)
        over, done = asyncio.Event(), 0

        async def take(message: Any) -> None:
            nonlocal done
            copy = aio_pika.Message(
                message.body,
                headers=message.headers,
                message_id=message.message_id,
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            )
            await sending.default_exchange.publish(copy, outside, mandatory=True)
            await message.ack()
            done += 1
            if done >= count:
                over.set()

        await queue.consume(take)
        await over.wait()


async def nats(url: str, inside: str, outside: str, count: int, most: int) -> None:
    import nats as client

    connection = await client.connect(url)
    stream = connection.jetstream()
    config = client.js.api.ConsumerConfig(max_ack_pending=most)
    subscription = await stream.pull_subscribe(f"{inside}.>", durable="bare", stream=inside, config=config)
    done = 0

    async def take(message: Any) -> None:
        await stream.publish(f"{outside}.sent", message.data, headers=message.headers)
        await message.ack()

    while done < count:
        messages = await subscription.fetch(min(most, count - done), timeout=5)
        await asyncio.gather(*(take(message) for message in messages))
        done += len(messages)
    await connection.close()


async def redis(url: str, inside: str, outside: str, count: int, most: int) -> None:
    from redis.asyncio import Redis

    async with Redis.from_url(url) as client:
        await client.xgroup_create(inside, "bare", id="0")
        done = 0
        while done < count:
            found: Any = await client.xreadgroup("bare", "one", {inside: ">"}, count=most, block=1000)
            for _, entries in found:
                async with client.pipeline(transaction=False) as sending:
                    for _, fields in entries:
                        sending.xadd(outside, fields)
                    await sending.execute()
                await client.xack(inside, "bare", *(entry for entry, _ in entries))
                done += len(entries)
