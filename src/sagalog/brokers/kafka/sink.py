"""Commands to a Kafka topic: sent when all in-sync replicas have them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from aiokafka import AIOKafkaProducer

from ...errors import BrokerRefusedError, DefinitionError
from ..arguments import options_of, text_or
from ..headers import bytes_of
from ..message import SinkMessage
from .connection import ANSWER_SECONDS, KafkaServers, encoded


class KafkaProducer:
    """A producer that is started when it is first needed, and made anew after it could not be started."""

    def __init__(self, servers: KafkaServers, options: Mapping[str, Any] | None = None) -> None:
        self._servers = servers
        self._options = {"acks": "all", **servers.options, **options_of(options)}
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()

    async def send(self, topic: str, body: bytes | None, key: str, headers: Mapping[str, str]) -> None:
        """Return when the topic has it. Messages of one key go to one partition, in order."""
        with self._servers.answers(f"a message for topic {topic}"):
            producer = self._producer or await self._start()
            try:
                await producer.send_and_wait(topic, body, key=bytes_of(key) or None, headers=encoded(headers))
            except (ValueError, TypeError, AssertionError) as error:
                raise BrokerRefusedError(
                    f"{self._servers.where}: the client does not accept this message ({type(error).__name__})"
                ) from None

    async def _start(self) -> AIOKafkaProducer:
        async with self._starting:
            if self._producer is None:
                with self._servers.takes_options():
                    producer = AIOKafkaProducer(**self._options)
                try:
                    async with asyncio.timeout(ANSWER_SECONDS):
                        await producer.start()
                except BaseException:
                    await producer.stop()
                    raise
                self._producer = producer
        return self._producer

    async def close(self) -> None:
        """Send what is buffered, and disconnect."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.stop()


class KafkaSink:
    """Sends to `topic`: a name, or a function of the message.

    Keys decide the partition, so the commands of one instance stay in order. A message whose answer is lost is sent again
    under the same id. `options`: further arguments of `aiokafka.AIOKafkaProducer`, such as `ssl_context`,
    `sasl_mechanism` and `enable_idempotence`.
    """

    def __init__(
        self,
        servers: str,
        *,
        topic: str | Callable[[SinkMessage], str],
        options: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        if not callable(topic) and (not isinstance(topic, str) or not topic):
            raise DefinitionError("topic= must be the name of a topic, or a function of the message")
        self._producer = KafkaProducer(KafkaServers(servers, None), options)
        self._topic = topic
        self._name = text_or("name", name, f"kafka:{topic if isinstance(topic, str) else '...'}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}>"

    @property
    def name(self) -> str:
        return self._name

    async def send(self, message: SinkMessage) -> None:
        topic = self._topic(message) if callable(self._topic) else self._topic
        await self._producer.send(topic, message.body, message.key, message.headers)

    async def close(self) -> None:
        await self._producer.close()
