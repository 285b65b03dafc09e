"""Reading many messages of the stream: all that were acknowledged before, or what a replica has now."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from math import inf
from typing import Any
from uuid import uuid4

import msgspec
import nats.errors
from nats.aio.msg import Msg

from ...errors import OutcomeUnknownError
from ...waiting import Attempts, Waiting
from .connection import Connection
from .messages import EXPECTED_STREAM
from .publishing import Publisher
from .refusals import Rejected, takes_no_more
from .requests import Requests

_FETCH = 500
_BEHIND_SECONDS = 1.0  # that a consumer may wait for what was acknowledged before it was made


class _BehindError(Exception):
    """A replica had not yet stored what was acknowledged before a reading began."""


class _Mark(msgspec.Struct):
    """What a reading goes up to: what to read, the place of the mark in the stream, and its subject, if it is ours."""

    subjects: list[str]
    place: int  # 0: there is nothing to read
    own: str | None


class Consumers:
    """Reads by consumers, each made for one reading and removed after it."""

    def __init__(self, connection: Connection, requests: Requests, publisher: Publisher) -> None:
        self._connection = connection
        self._requests = requests
        self._publisher = publisher

    async def newest(self, subjects: Sequence[str]) -> list[Msg]:
        """Return the heads of the newest message of each subject that matches, in stored order.

        What was acknowledged before the call is there, and what was purged before it is not. A replica that was behind when
        the reading began, and had the mark later than that, may have given what it had not purged yet: it is read again.
        """
        attempts = Attempts(Waiting(most=0.1, seconds=self._connection.patience))
        async with self._marked(subjects) as mark:
            while mark.place:
                try:
                    async with aclosing(self._consume(mark.subjects, None, until=mark.place)) as messages:
                        return [message async for message in messages if message.subject != mark.own]
                except _BehindError:
                    await self._again(attempts)
        return []

    async def read_after(self, subjects: Sequence[str], after: int) -> AsyncIterator[Msg]:
        """Yield every whole message behind that stream sequence that matches, in stored order.

        What was acknowledged before the call is among them, and perhaps what came later.
        """
        attempts = Attempts(Waiting(most=0.1, seconds=self._connection.patience))
        async with self._marked(subjects) as mark:
            while after < mark.place:
                try:
                    async with aclosing(self._consume(mark.subjects, after, until=mark.place)) as messages:
                        async for message in messages:
                            if message.subject != mark.own:
                                yield message
                            after = message.metadata.sequence.stream
                    return
                except _BehindError:
                    await self._again(attempts)

    async def _again(self, attempts: Attempts) -> None:
        if not await attempts.wait():
            raise self._connection.away("reading failed: its replicas are behind") from None

    @asynccontextmanager
    async def _marked(self, subjects: Sequence[str]) -> AsyncIterator[_Mark]:
        """Store a mark, and remove it afterwards.

        What is read from may be a replica that is behind: with the mark, all that came before it is there. A stream that
        takes no more, because it is full or sealed, has to be read all the same: there the newest of what is wanted is
        the mark. Only of what was purged behind it a replica may not know yet.
        """
        own, answer = await self._store_mark()
        if isinstance(answer, Rejected):
            if not takes_no_more(answer):
                raise self._requests.refused(answer)
            newest = [await self._requests.last_of(one) for one in subjects]
            yield _Mark(list(subjects), max((one.sequence for one in newest if one is not None), default=0), None)
            return
        try:
            yield _Mark([*subjects, own], answer["seq"], own)
        finally:
            await self._requests.purge(own, answer["seq"])

    async def _store_mark(self) -> tuple[str, dict[str, Any] | Rejected]:
        """Return the subject of a new mark, and what the stream says to it. Raises JournalUnavailableError."""
        own = self._requests.subjects.mark(uuid4().hex)
        attempts = Attempts(Waiting(seconds=self._connection.patience))
        while True:
            try:
                (answer,) = await self._publisher.publish((own, b"", {EXPECTED_STREAM: self._requests.stream}))
            except OutcomeUnknownError:  # one that is stored is removed with the next
                if not await attempts.wait():
                    raise self._connection.away("no answer") from None
            else:
                return own, answer

    async def touch(self) -> None:
        """Store what nobody needs, and remove it. Raises what says why the stream refuses it."""
        own, answer = await self._store_mark()
        if isinstance(answer, Rejected):
            raise self._requests.refused(answer)
        await self._requests.purge(own, answer["seq"])

    def stored_after(self, subjects: Sequence[str], after: int) -> AsyncGenerator[Msg]:
        """Yield the messages behind that stream sequence that the replica which answers has now, in stored order."""
        return self._consume(subjects, after, until=None)

    async def _consume(self, subjects: Sequence[str], after: int | None, *, until: int | None) -> AsyncGenerator[Msg]:
        """Yield messages until none is pending and the one at the place `until` was among them.

        Raises _BehindError if that one does not come for a while, or was not there when the reading began and the newest of
        each subject are asked for.
        """
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
        there = pending if after is None else inf
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox)
        batch = _FETCH if after is None else self._connection.at_once  # heads alone are small
        request = msgspec.json.encode({"batch": batch, "no_wait": True})
        asked = 0
        patience = self._connection.patience if until is None else _BEHIND_SECONDS
        attempts = Attempts(Waiting(most=0.1, seconds=patience))
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
                        if until is None:
                            raise self._connection.away(f"reading broke off: {status}")
                        raise _BehindError  # another consumer may get another replica, or find this one up to date
                    asked = 0
                    continue
                asked -= 1
                pending = message.metadata.num_pending
                if until is not None and message.metadata.sequence.stream >= until:
                    if there <= 0:
                        raise _BehindError
                    until = None
                there -= 1
                yield message
        except (nats.errors.Error, TimeoutError) as error:
            raise self._connection.away(f"reading broke off: {type(error).__name__}") from None
        finally:
            if not self._connection.closed:
                await subscription.unsubscribe()
                await client.publish(f"$JS.API.CONSUMER.DELETE.{stream}.{name}")
