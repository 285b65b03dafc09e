"""Events from a RabbitMQ queue. What is not acknowledged goes back to the queue as soon as the connection is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError
from aiormq import Channel as Client
from aiormq.abc import DeliveredMessage

from ...errors import BrokerRefusedError, BrokerUnavailableError, DefinitionError
from ...text import given
from ..arguments import letters_of, text_or
from ..message import KEY, MESSAGE_ID, Backlog, SourceMessage
from .connection import ANSWER_SECONDS, SHORT_TEXT, RabbitConnection, client_of, headers_of
from .dead_letters import NO_LIMIT, RabbitDeadLetters


class RabbitSource(RabbitDeadLetters):
    """A queue, which is created as a durable quorum queue if it does not exist.

    `prefetch`: how many unacknowledged messages the broker gives to this source. `single`: when the queue is made, let one
    worker at a time read it, so that messages keep their order; the others stand by. `dead_letters`: the queue for dead
    letters; RabbitMQ puts there, too, what it gives up by itself. `options`: further arguments of `aio_pika.connect`,
    such as `ssl_context`.

    RabbitMQ has no id of its own for a message: unless it is a CloudEvent, the sender has to set `message_id`.
    """

    def __init__(
        self,
        url: str,
        *,
        queue: str,
        prefetch: int = 512,
        single: bool = False,
        dead_letters: str | None = None,
        options: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        letters = letters_of(dead_letters, f"{queue}.dead-letters", queue)
        for what, name_of in (("queue", queue), ("dead_letters", letters)):
            if not isinstance(name_of, str) or not 0 < len(name_of.encode(errors="replace")) <= SHORT_TEXT:
                raise DefinitionError(f"{what}= must be a name of at most {SHORT_TEXT} bytes, not {name_of!r}")
        if type(prefetch) is not int or not 1 <= prefetch <= 65_535:
            raise DefinitionError(f"prefetch= must be a whole number from 1 to 65,535, not {given(prefetch)}")
        if not isinstance(single, bool):
            raise DefinitionError(f"single= must be True or False, not {given(single)}")
        super().__init__(RabbitConnection(url, options), queue, letters)
        self._prefetch = prefetch
        self._single = single
        self._name = text_or("name", name, f"rabbitmq:{queue}")
        self._channel: AbstractChannel | None = None
        self._client: Client | None = None  # what the messages of that channel say that they came by
        self._arrived: asyncio.Queue[DeliveredMessage | None] = asyncio.Queue()
        self._reads: Callable[[], bool] = lambda: True
        self._given_back: list[DeliveredMessage] = []
        # What is delivered here and not acknowledged: the broker does not count it as waiting.
        self._held: set[int] = set()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}>"

    @property
    def name(self) -> str:
        return self._name

    @property
    def keep_every(self) -> timedelta | None:
        return None

    async def open(self) -> None:
        if self._channel is not None and not self._channel.is_closed:
            return
        await self._make()
        arrived: asyncio.Queue[DeliveredMessage | None] = asyncio.Queue()
        channel = await self._connection.another()
        with self._connection.answers(f"reading queue {self._queue_name}"):
            await channel.set_qos(prefetch_count=self._prefetch)
            channel.close_callbacks.add(lambda *_: arrived.put_nowait(None), weak=False)
            client = await client_of(channel)
            tag = (await client.basic_consume(self._queue_name, arrived.put)).consumer_tag
            self._reads = lambda: tag in client.consumers
        self._channel, self._client, self._arrived = channel, client, arrived
        self._held = set()
        self._given_back = []

    async def _make(self) -> None:
        await self._make_letters()
        arguments: dict[str, Any] = {
            "x-queue-type": "quorum",
            "x-delivery-limit": NO_LIMIT,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": self._letters,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }
        if self._single:
            arguments["x-single-active-consumer"] = True
        if not await self._connection.make_queue(self._queue_name, arguments):
            await self._refuse_stream()

    async def _refuse_stream(self) -> None:
        """Raise BrokerRefusedError if the queue is a stream: there, to acknowledge a message does not say where to go on.

        A stream is the only queue for which the second argument is what RabbitMQ does not accept; no queue can be made so.
        """
        channel = await self._connection.another()
        try:
            with self._connection.answers(f"asking about queue {self._queue_name}"):
                arguments: dict[str, Any] = {"x-queue-type": "stream", "x-max-age": "none"}
                await channel.declare_queue(self._queue_name, durable=True, arguments=arguments)
        except BrokerRefusedError as error:
            if "inequivalent arg 'x-max-age'" in str(error):
                raise BrokerRefusedError(
                    f"{self._connection.where}: queue {self._queue_name} is a stream, which does not keep what was "
                    "acknowledged: let the events go to a quorum or a classic queue"
                ) from None
        finally:
            await channel.close()

    async def close(self) -> None:
        try:
            await self._stop_reading()  # after the acknowledgements that are on their way
        finally:  # also where a broker that hangs was waited for too long
            await self._connection.close()

    async def receive(self, most: int, wait: timedelta) -> Sequence[SourceMessage]:
        if self._channel is None:
            await self.open()
        if self._given_back:
            await self._return()
        found: list[SourceMessage] = []
        try:
            one = await asyncio.wait_for(self._arrived.get(), wait.total_seconds())
        except TimeoutError:
            if self._reads():
                return found
            one = None  # the broker has ended the reading: the queue was deleted, and the channel stays open
        while one is not None:
            try:
                found.append(self._message(one))
            except Exception:
                await self._stop_reading()  # after a fault of ours: the queue gets back what was taken from it
                raise
            if len(found) == most or self._arrived.empty():
                return found
            one = self._arrived.get_nowait()
        await self._stop_reading()
        if found:  # they come again, and are known
            return found
        raise BrokerUnavailableError(
            f"{self._connection.where} ended the reading of queue {self._queue_name}: its connection is lost, or the queue"
        )

    async def _stop_reading(self) -> None:
        """Close the channel, so that the queue gets back what it gave to it. The next `receive` opens another one."""
        channel, self._channel = self._channel, None
        if channel is not None and not channel.is_closed:
            try:
                await asyncio.wait_for(channel.close(), ANSWER_SECONDS)
            except (AMQPError, ChannelInvalidStateError, OSError, TimeoutError, RuntimeError):
                return

    def _message(self, one: DeliveredMessage) -> SourceMessage:
        properties = one.header.properties
        headers = headers_of(properties)
        named = properties.message_id or headers.get(MESSAGE_ID, "")
        count = (properties.headers or {}).get("x-delivery-count")
        self._held.add(one.delivery_tag or 0)
        return SourceMessage(
            one.body,
            f"rabbitmq:{properties.message_id}" if properties.message_id else "",
            f"queue {self._queue_name}, message {named or 'without an id'}",
            {name: value for name, value in headers.items() if not name.startswith("x-")},
            headers.get(KEY, ""),
            int(count) + 1 if isinstance(count, int) else 1 + bool(one.redelivered),
            properties.timestamp,
            one,
        )

    async def accept(self, messages: Sequence[SourceMessage]) -> None:
        """Acknowledge all that nothing is under way in front of by one frame, and each of the others by its own."""
        client = self._client
        if client is None:
            return
        came = {one.token.delivery_tag for one in messages if one.token.channel is client}
        tags = sorted(self._held.intersection(came))  # those of an earlier channel come again
        first = min(self._held.difference(tags), default=None)
        together = [tag for tag in tags if first is None or tag < first]
        for frame in [together, *([tag] for tag in tags[len(together) :])]:
            if not frame:
                continue
            try:
                await client.basic_ack(frame[-1], multiple=len(frame) > 1)
            except (AMQPError, ChannelInvalidStateError, OSError, RuntimeError):
                continue  # its channel is gone: it comes again
            finally:
                self._held.difference_update(frame)  # not before: another call must not cover it meanwhile

    async def keep(self, messages: Sequence[SourceMessage]) -> None:
        """A broker sees by the connection that we are alive."""

    async def give_back(self, messages: Sequence[SourceMessage], delay: timedelta) -> None:
        """Keep them until this source receives again or is closed.

        Returned at once, a message would come to us again at once, behind all that was delivered here and not received. A
        channel that is closed returns all of its messages in the order in which they came.
        """
        self._given_back += [message.token for message in messages]

    async def _return(self) -> None:
        """Return what was given back, and behind it what was delivered after it and not received."""
        given_back, self._given_back = self._given_back, []
        client = self._client
        left = [one for one in given_back if one.channel is client and one.delivery_tag in self._held]
        while not self._arrived.empty():
            one = self._arrived.get_nowait()
            if one is None:  # the channel is closed, which has returned everything
                self._arrived.put_nowait(None)
                return
            left.append(one)
        for one in left:
            try:
                await one.channel.basic_nack(one.delivery_tag or 0, requeue=True)
            except (AMQPError, ChannelInvalidStateError, OSError, RuntimeError):
                continue
            finally:
                self._held.discard(one.delivery_tag or 0)  # not before: what is behind it is acknowledged together

    async def backlog(self) -> Backlog:
        channel = await self._connection.another()
        with self._connection.answers(f"asking about queue {self._queue_name}"):
            try:
                queue = await channel.declare_queue(self._queue_name, passive=True)
            finally:
                await channel.close()
        here = len(self._held) + self._arrived.qsize()
        return Backlog((queue.declaration_result.message_count or 0) + here)
