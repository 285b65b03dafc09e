"""The dead letters of a RabbitMQ source: a queue beside its own, where the broker also puts what it gives up by itself.

A queue has no way to look at a message without taking it. So one is looked at by taking all of them on a channel of its
own, and closing that: the broker puts them back where they were.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from hashlib import sha256
from typing import Any

from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aio_pika.exceptions import PublishError

from ..message import KEY, POSITION, REASON, DeadLetter, SourceMessage, back_headers, letter_headers
from .connection import RabbitConnection, headers_of, properties_of

_MOST = 10_000  # dead letters that are looked at
NO_LIMIT = 1_000_000  # of deliveries: the broker would drop a message after 20 by itself, since version 4


class RabbitDeadLetters(ABC):
    """What a source does with messages that nobody can take."""

    def __init__(self, connection: RabbitConnection, queue: str, letters: str) -> None:
        self._connection = connection
        self._queue_name = queue
        self._letters = letters

    async def _make_letters(self) -> None:
        await self._connection.make_queue(self._letters, {"x-queue-type": "quorum", "x-delivery-limit": NO_LIMIT})

    async def reject(self, message: SourceMessage, reason: str) -> None:
        headers = letter_headers(message, reason)
        await self._publish(self._letters, message.body, headers, message.token.header.properties.message_id or "")
        await self.accept([message])

    @abstractmethod
    async def accept(self, messages: Any) -> None:
        """Say that they are done with; the source does."""

    async def _publish(self, queue: str, body: bytes, headers: Mapping[str, str], message_id: str) -> None:
        sent = {name: value for name, value in headers.items() if not name.startswith("x-")}
        with self._connection.answers("a message of the dead letters"):
            try:
                await self._connection.publish(properties_of(sent, message_id), body, queue)
            except PublishError:
                if queue != self._letters:
                    raise
                await self._make_letters()  # somebody has deleted the queue
                await self._connection.publish(properties_of(sent, message_id), body, queue)

    async def _all(self, channel: AbstractChannel) -> list[AbstractIncomingMessage]:
        await self._make_letters()
        queue = await channel.get_queue(self._letters, ensure=False)
        found: list[AbstractIncomingMessage] = []
        while len(found) < _MOST and (one := await queue.get(no_ack=False, fail=False)) is not None:
            found.append(one)
        return found

    async def dead_letters(self) -> AsyncIterator[DeadLetter]:
        channel = await self._connection.another()
        with self._connection.answers("reading dead letters"):
            try:
                letters = [_letter(one) for one in await self._all(channel)]
            finally:
                await channel.close()
        for letter in letters:
            yield letter

    async def put_back(
        self, letter: DeadLetter, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        kept = back_headers(letter.headers if headers is None else headers, letter.headers)
        message_id = kept.pop(_MESSAGE_ID, "")
        await self._publish(self._queue_name, letter.body if body is None else body, kept, message_id)
        await self.drop(letter)

    async def drop(self, letter: DeadLetter) -> None:
        channel = await self._connection.another()
        with self._connection.answers("dropping a dead letter"):
            try:
                for one in await self._all(channel):
                    if _letter(one).id == letter.id:
                        await one.ack()
                        break
            finally:
                await channel.close()


_MESSAGE_ID = "sagalog-amqp-message-id"  # the property message_id, kept for putting it back


def _letter(one: AbstractIncomingMessage) -> DeadLetter:
    headers = headers_of(one.properties)
    told = {name: value for name, value in sorted(headers.items()) if not name.startswith("x-")}
    if one.message_id:
        headers[_MESSAGE_ID] = one.message_id
    digest = sha256(repr((one.message_id, told, one.body, one.timestamp)).encode()).hexdigest()[:16]
    reason = (
        headers.get(REASON) or f"RabbitMQ gave up on it: {headers.get('x-first-death-reason', 'no reason is known')}"
    )
    return DeadLetter(digest, reason, headers.get(POSITION, ""), one.body, headers, headers.get(KEY, ""), one.timestamp)
