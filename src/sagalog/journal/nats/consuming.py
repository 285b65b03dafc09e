"""Reading many messages of the stream: all that were acknowledged before, or what a replica has now."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from uuid import uuid4

import msgspec
import nats.errors
from nats.aio.msg import Msg

from ...waiting import Attempts, Waiting
from .connection import Connection
from .messages import EXPECTED_STREAM
from .publishing import Publisher
from .refusals import Rejected
from .requests import Requests

_FETCH = 500


class Consumers:
    """Reads by consumers, each made for one reading and removed after it."""

    def __init__(self, connection: Connection, requests: Requests, publisher: Publisher) -> None:
        self._connection = connection
        self._requests = requests
        self._publisher = publisher

    async def read(self, subjects: Sequence[str], *, after: int | None = None) -> AsyncIterator[Msg]:
        """Yield what was acknowledged before the call, and perhaps later ones: the heads of the newest message of each
        subject that matches; or with `after` every whole message behind that stream sequence. In stored order.

        What is read from may be a replica that is behind, so a mark is stored first: with the mark, all before it is there.
        """
        mark = self._requests.subjects.mark(uuid4().hex)
        (answer,) = await self._publisher.publish((mark, b"", {EXPECTED_STREAM: self._requests.stream}))
        if isinstance(answer, Rejected):
            raise self._requests.refused(answer)
        try:
            async for message in self._consume([*subjects, mark], after, until=mark):
                if message.subject != mark:
                    yield message
        finally:
            await self._requests.purge(mark, answer["seq"])

    def stored_after(self, subjects: Sequence[str], after: int) -> AsyncGenerator[Msg]:
        """Yield the messages behind that stream sequence that the replica which answers has now, in stored order."""
        return self._consume(subjects, after, until=None)

    async def _consume(self, subjects: Sequence[str], after: int | None, *, until: str | None) -> AsyncGenerator[Msg]:
        """Yield messages until none is pending and one of the subject `until` was among them."""
        client, stream = await self._connection.client(), self._requests.stream
        start = {"deliver_policy": "last_per_subject", "headers_only": True}
        if after is not None:
            start = {"deliver_policy": "by_start_sequence", "opt_start_seq": after + 1}
        config = {
            **start,
            **({"filter_subjects": list(subjects)} if len(subjects) > 1 else {"filter_subject": subjects[0]}),
            "ack_policy": "none",
            "replay_policy": "instant",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": 30_000_000_000,
        }
        try:
            made = await self._requests.ask(f"CONSUMER.CREATE.{stream}", stream_name=stream, config=config)
        except Rejected as error:
            raise self._requests.refused(error) from None
        name, pending = made["name"], made["num_pending"]
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox)
        batch = _FETCH if after is None else self._connection.at_once  # heads alone are small
        request = msgspec.json.encode({"batch": batch, "no_wait": True})
        asked = 0
        attempts = Attempts(Waiting(most=0.1, seconds=self._connection.patience))
        try:
            while pending or until is not None:
                if not asked:
                    await client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}", request, reply=inbox)
                    asked = batch
                message = await subscription.next_msg(timeout=self._connection.timeout)
                if message.headers and "Status" in message.headers:
                    status = message.headers["Status"]
                    if status in ("404", "408") and until is None:  # what was pending has been removed meanwhile
                        return
                    # The mark has not reached this replica; or the consumer is not known everywhere yet (503).
                    if not await attempts.wait():
                        raise self._connection.away(f"reading broke off: {status}")
                    asked = 0
                    continue
                asked -= 1
                pending = message.metadata.num_pending
                if message.subject == until:
                    until = None
                yield message
        except (nats.errors.Error, TimeoutError) as error:
            raise self._connection.away(f"reading broke off: {type(error).__name__}") from None
        finally:
            if not self._connection.closed:
                await subscription.unsubscribe()
                await client.publish(f"$JS.API.CONSUMER.DELETE.{stream}.{name}")
