"""Events from a JetStream stream, through a durable pull consumer that any number of workers share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.client import JetStreamContext

from ...durations import seconds_of
from ...errors import BrokerRefusedError, BrokerUnavailableError
from ..arguments import LONGEST, check_name, letters_of, text_or
from ..headers import from_ascii
from ..message import KEY, Backlog, SourceMessage
from .connection import NatsConnection
from .dead_letters import NatsDeadLetters

_MOST_AT_ONCE = 512  # of one request for messages
_ACKNOWLEDGED_AT = "$JS.ACK."  # with what follows, the reply subject of a message
_STATUS, _KEPT = "Status", "Status of the sender"  # no sender has a header with spaces


class _Arrived(asyncio.Queue[Msg]):
    """What the server has sent. Only its own answers have a header Status: the client drops whatever has one.

    So a message that its sender gave such a header was never received, and came again for ever.
    """

    def _put(self, item: Msg) -> None:
        if item.headers and _STATUS in item.headers and item.reply.startswith(_ACKNOWLEDGED_AT):
            item.headers[_KEPT] = item.headers.pop(_STATUS)
        super()._put(item)


class NatsSource(NatsDeadLetters):
    """A stream, read through the durable consumer `durable`, which is created if it does not exist.

    `subject`: only messages of that subject, which may hold wildcards. `ack_wait`: how long a worker may be silent
    before what it holds goes to another; `answer_timeout`: how long an answer of the server may take. `dead_letters`: the
    stream for dead letters, made when first needed. `options`: further arguments of `nats.connect`, such as
    `user_credentials` and `tls`.

    Workers that share a consumer get messages in turn, so those of one key keep their order only while one worker reads
    them: give each partition of the subjects a consumer of its own where order matters.
    """

    def __init__(
        self,
        url: str,
        *,
        stream: str,
        durable: str,
        subject: str | None = None,
        ack_wait: timedelta = timedelta(seconds=30),
        dead_letters: str | None = None,
        connect_timeout: timedelta = timedelta(seconds=10),
        answer_timeout: timedelta = timedelta(seconds=5),
        options: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        check_name("stream", stream, also="_-")
        check_name("durable", durable, also="_-")
        letters = letters_of(dead_letters, f"{stream}_dead_letters", stream)
        check_name("dead_letters", letters, also="_-")
        self._ack_seconds = seconds_of("ack_wait", ack_wait, most=LONGEST)
        super().__init__(
            NatsConnection(url, options, connect_timeout, answer_timeout),
            stream,
            durable,
            letters,
        )
        self._subject = None if subject is None else text_or("subject", subject, "")
        self._name = text_or("name", name, f"nats:{stream}/{durable}")
        self._subscription: JetStreamContext.PullSubscription | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}>"

    @property
    def name(self) -> str:
        return self._name

    @property
    def keep_every(self) -> timedelta | None:
        return timedelta(seconds=self._ack_seconds / 3)

    async def open(self) -> None:
        jetstream = await self._connection.jetstream()
        with self._connection.answers(f"opening consumer {self._durable} of stream {self._stream}"):
            try:
                info = await jetstream.consumer_info(self._stream, self._durable)
            except nats.js.errors.NotFoundError:
                info = await self._make(jetstream)
            config = info.config
            pulls = config.ack_policy == AckPolicy.EXPLICIT and not (config.deliver_subject or config.headers_only)
            if not pulls or (config.max_deliver or -1) > 0:
                raise BrokerRefusedError(
                    f"consumer {self._durable} of stream {self._stream} must be a pull consumer of whole messages with an "
                    "explicit ack policy and without max_deliver, which would drop messages that nobody has accepted"
                )
            if self._subscription is None:
                self._subscription = await jetstream.pull_subscribe_bind(consumer=self._durable, stream=self._stream)
                self._subscription._sub._pending_queue = _Arrived(self._subscription._sub._pending_queue.maxsize)

    async def _make(self, jetstream: JetStreamContext) -> Any:
        config = ConsumerConfig(
            durable_name=self._durable,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=self._ack_seconds,
            max_deliver=-1,
            max_ack_pending=-1,
            filter_subject=self._subject,
        )
        try:
            return await jetstream.add_consumer(self._stream, config)
        except nats.js.errors.NotFoundError:
            raise BrokerUnavailableError(
                f"{self._connection.where} has no stream {self._stream}: create it with the subjects of your events"
            ) from None

    async def close(self) -> None:
        try:
            if self._subscription is not None:
                async with asyncio.timeout(self._connection.answer_seconds):
                    await self.give_back((), timedelta(0))
        except (BrokerUnavailableError, TimeoutError):
            pass  # others get it after ack_wait
        self._subscription = None
        await self._connection.close()

    async def receive(self, most: int, wait: timedelta) -> Sequence[SourceMessage]:
        await self._connection.client()
        if self._subscription is None:
            await self.open()
        assert self._subscription is not None
        with self._connection.answers(f"asking for messages of consumer {self._durable}"):
            found = await self._fetch(self._subscription, min(most, _MOST_AT_ONCE), wait.total_seconds())
        return [self._message(one) for one in found]

    async def _fetch(self, subscription: JetStreamContext.PullSubscription, most: int, seconds: float) -> Sequence[Msg]:
        try:
            return await subscription.fetch(most, timeout=seconds)
        except TimeoutError:
            return ()

    @staticmethod
    def _message(one: Msg) -> SourceMessage:
        meta = one.metadata
        headers = from_ascii(one.headers or {})
        if _KEPT in headers:
            headers[_STATUS] = headers.pop(_KEPT)
        # The time too: the numbers of a stream that was made anew begin at 1 again.
        stamp = int(meta.timestamp.timestamp() * 1000)
        return SourceMessage(
            one.data,
            f"nats:{meta.stream}/{meta.sequence.stream}@{stamp}",
            f"stream {meta.stream}, sequence {meta.sequence.stream}, subject {one.subject}",
            headers,
            headers.get(KEY, ""),
            meta.num_delivered,
            meta.timestamp,
            one,
        )

    async def accept(self, messages: Sequence[SourceMessage]) -> None:
        await self._tell(messages, b"+ACK")

    async def keep(self, messages: Sequence[SourceMessage]) -> None:
        await self._tell(messages, b"+WPI")

    async def give_back(self, messages: Sequence[SourceMessage], delay: timedelta) -> None:
        if delay > timedelta(0):
            await self._tell(messages, f"-NAK {json.dumps({'delay': int(delay.total_seconds() * 1e9)})}".encode())
            return
        # A request that is open would get these again at once, and nobody would be there to take them.
        late = await self._end_requests()
        await self._tell([*messages, *late], b"-NAK")

    async def _end_requests(self) -> list[SourceMessage]:
        """Let the server deliver nothing more; return what it had delivered that nobody has received.

        Its requests end with our interest in their answers. Their time says little about when they end, because it
        begins when the server gets to them. The next `receive` subscribes anew.
        """
        client = await self._connection.client()
        subscription, self._subscription = self._subscription, None
        if subscription is None:
            return []
        number, arrived = subscription._sub._id, subscription._sub._pending_queue
        with self._connection.answers("the end of a subscription"):
            try:
                # `unsubscribe` would drop what is on its way; it is here before the answer to `flush`.
                await client._send_unsubscribe(number)
                await client.flush(timeout=self._connection.answer_seconds)  # type: ignore[arg-type]
            finally:
                client._remove_sub(number)
        # The server sees that a request has ended when it has something for it, which then goes behind all others; or when
        # it is asked how many there are.
        jetstream = await self._connection.jetstream()
        with self._connection.answers(f"asking about consumer {self._durable}"):
            await jetstream.consumer_info(self._stream, self._durable)
        waiting = [arrived.get_nowait() for _ in range(arrived.qsize())]
        return [self._message(one) for one in waiting if one.reply.startswith(_ACKNOWLEDGED_AT)]

    async def _tell(self, messages: Sequence[SourceMessage], what: bytes) -> None:
        if not messages:
            return
        client = await self._connection.client()
        with self._connection.answers("an acknowledgement"):
            for message in messages:
                await client.publish(message.token.reply, what)
            await client.flush(timeout=self._connection.answer_seconds)  # type: ignore[arg-type]

    async def backlog(self) -> Backlog:
        jetstream = await self._connection.jetstream()
        with self._connection.answers(f"asking about consumer {self._durable}"):
            info = await jetstream.consumer_info(self._stream, self._durable)
        return Backlog((info.num_pending or 0) + (info.num_ack_pending or 0))
