"""Commands to a JetStream stream: sent when the stream has stored them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import nats.errors
import nats.js.errors

from ...errors import BrokerUnavailableError, DefinitionError
from ..arguments import text_or
from ..headers import encoded, to_ascii
from ..message import KEY, SinkMessage
from .connection import NatsConnection


class NatsSink:
    """Sends to `subject`, which must belong to a stream: a string, or a function of the message.

    The server knows messages by their id for as long as its stream's `duplicate_window` says, so that a command that is
    sent again in that time is stored once.
    """

    def __init__(
        self,
        url: str,
        *,
        subject: str | Callable[[SinkMessage], str],
        connect_timeout: timedelta = timedelta(seconds=10),
        answer_timeout: timedelta = timedelta(seconds=5),
        options: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        if not callable(subject) and (not isinstance(subject, str) or not subject):
            raise DefinitionError("subject= must be a string such as 'shipping.orders', or a function of the message")
        self._connection = NatsConnection(url, options, connect_timeout, answer_timeout)
        self._subject = subject
        self._name = text_or("name", name, f"nats:{subject if isinstance(subject, str) else '...'}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}>"

    @property
    def name(self) -> str:
        return self._name

    async def send(self, message: SinkMessage) -> None:
        subject = self._subject(message) if callable(self._subject) else self._subject
        headers = {**to_ascii(message.headers), "Nats-Msg-Id": encoded(message.id)}
        if message.key:
            headers.update(to_ascii({KEY: message.key}))
        with self._connection.answers("a message"):
            try:
                await self._connection.publish(subject, message.body, headers)
            except (nats.js.errors.NoStreamResponseError, nats.errors.NoRespondersError):
                # Perhaps for a while only: while a cluster elects a leader, nobody answers either.
                raise BrokerUnavailableError(
                    f"{self._connection.where}: no stream has the subject {subject!r}"
                ) from None

    async def close(self) -> None:
        await self._connection.close()
