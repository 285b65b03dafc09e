"""One source and one sink of each broker, for tests that are the same for all. A place is a URL and a name."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sagalog.brokers import Sink, Source


def source(kind: str, place: str, group: str = "workers") -> Source:
    url, name = place.split()
    if kind == "nats":
        from sagalog.brokers.nats import NatsSource

        return NatsSource(
            url, stream=name, durable=group, ack_wait=timedelta(seconds=1.5), answer_timeout=timedelta(seconds=1)
        )
    if kind == "redis":
        from sagalog.brokers.redis import RedisSource

        return RedisSource(url, stream=name, group=group, claim_after=timedelta(seconds=1.5))
    if kind == "kafka":
        from sagalog.brokers.kafka import KafkaSource

        return KafkaSource(
            url,
            topic=name,
            group=f"{name}-{group}",
            session_timeout=timedelta(seconds=1),
            revoke_timeout=timedelta(seconds=1),
        )
    if kind == "rabbitmq":
        from sagalog.brokers.rabbitmq import RabbitSource

        return RabbitSource(url, queue=name)
    raise AssertionError(kind)


def sink(kind: str, place: str) -> Sink:
    url, name = place.split()
    made: Any
    if kind == "nats":
        from sagalog.brokers.nats import NatsSink

        made = NatsSink(url, subject=f"{name}.sent", answer_timeout=timedelta(seconds=1))
    elif kind == "redis":
        from sagalog.brokers.redis import RedisSink

        made = RedisSink(url, stream=name)
    elif kind == "kafka":
        from sagalog.brokers.kafka import KafkaSink

        made = KafkaSink(url, topic=name, options={"request_timeout_ms": 2000})
    elif kind == "rabbitmq":
        from sagalog.brokers.rabbitmq import RabbitSink

        made = RabbitSink(url, routing_key=name)
    else:
        raise AssertionError(kind)
    result: Sink = made
    return result
