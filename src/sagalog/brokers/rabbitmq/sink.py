"""Commands to RabbitMQ: sent when the broker has confirmed them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...errors import DefinitionError
from ...text import given
from ..arguments import text_or
from ..message import KEY, SinkMessage
from .connection import RabbitConnection, properties_of


class RabbitSink:
    """Publishes to `exchange` (default: the default exchange, where the routing key is the name of a queue).

    `routing_key`: a text, or a function that makes it of the message. A message that no queue takes was not sent: it is
    tried again. Use quorum queues behind it, so that what was confirmed survives the loss of a node.
    """

    def __init__(
        self,
        url: str,
        *,
        routing_key: str | Callable[[SinkMessage], str],
        exchange: str = "",
        options: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        if not callable(routing_key) and not isinstance(routing_key, str):
            raise DefinitionError("routing_key= must be a string, or a function of the message")
        if not isinstance(exchange, str):
            raise DefinitionError(f"exchange= must be the name of an exchange, not {given(exchange)}")
        self._connection = RabbitConnection(url, options)
        self._routing_key = routing_key
        self._exchange = exchange
        shown = routing_key if isinstance(routing_key, str) else "..."
        self._name = text_or("name", name, f"rabbitmq:{exchange}/{shown}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}>"

    @property
    def name(self) -> str:
        return self._name

    async def send(self, message: SinkMessage) -> None:
        key = self._routing_key(message) if callable(self._routing_key) else self._routing_key
        headers = {**message.headers, KEY: message.key} if message.key else message.headers
        with self._connection.answers("a message"):
            await self._connection.publish(properties_of(headers, message.id), message.body, key, self._exchange)

    async def close(self) -> None:
        await self._connection.close()
