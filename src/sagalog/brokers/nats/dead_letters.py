"""The dead letters of a NATS source: a stream beside its own, with a subject for each consumer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from typing import Any

import nats.js.errors
from nats.js import JetStreamContext
from nats.js.api import StreamConfig

from ...errors import BrokerRefusedError
from ..headers import encoded, from_ascii, to_ascii
from ..message import (
    KEY,
    POSITION,
    REASON,
    DeadLetter,
    SourceMessage,
    back_headers,
    letter_headers,
)
from ..place import Place
from .connection import NatsConnection

_SUBJECT = "sagalog-subject"  # which the message had
_ONCE = "Nats-Msg-Id"  # by which the server knows what it has already


class NatsDeadLetters(ABC):
    """What a source does with messages that nobody can take."""

    def __init__(self, connection: NatsConnection, stream: str, durable: str, letters: str) -> None:
        self._connection = connection
        self._stream = stream
        self._durable = durable
        self._letters = letters
        self._letter_subject = f"{letters}.{durable}"
        self._place = Place()

    async def _make_stream(self, jetstream: JetStreamContext) -> None:
        source = await jetstream.stream_info(self._stream)
        try:
            await jetstream.stream_info(self._letters)
        except nats.js.errors.NotFoundError:
            await jetstream.add_stream(
                StreamConfig(
                    name=self._letters, subjects=[f"{self._letters}.>"], num_replicas=source.config.num_replicas
                )
            )

    async def reject(self, message: SourceMessage, reason: str) -> None:
        jetstream = await self._connection.jetstream()
        ours = {**letter_headers(message, reason), _SUBJECT: message.token.subject}
        headers = {**_sendable(ours), _ONCE: encoded(f"{self._durable} {message.id}")}
        with self._connection.answers("a dead letter"):
            await self._place.made(lambda: self._make_stream(jetstream))
            try:
                await self._connection.publish(self._letter_subject, message.body, headers)
            except nats.js.errors.NoStreamResponseError:
                self._place.lost()  # somebody has deleted it
                raise
        await self.accept([message])

    @abstractmethod
    async def accept(self, messages: Any) -> None:
        """Say that they are done with; the source does."""

    async def dead_letters(self) -> AsyncIterator[DeadLetter]:
        jetstream = await self._connection.jetstream()
        place = 1
        while True:
            with self._connection.answers("reading dead letters"):
                try:
                    one = await jetstream.get_msg(self._letters, place, subject=self._letter_subject, next=True)
                except nats.js.errors.NotFoundError:
                    return
            place = (one.seq or 0) + 1
            headers = from_ascii({str(name): str(value) for name, value in (one.headers or {}).items()})
            yield DeadLetter(
                str(one.seq),
                headers.get(REASON, ""),
                headers.get(POSITION, ""),
                one.data or b"",
                {name: value for name, value in headers.items() if name != _ONCE},
                headers.get(KEY, ""),
                one.time,
            )

    async def put_back(
        self, letter: DeadLetter, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        subject = letter.headers[_SUBJECT]
        kept = back_headers(letter.headers if headers is None else headers, letter.headers)
        kept.pop(_SUBJECT, None)
        with self._connection.answers("putting a dead letter back"):
            await self._connection.publish(
                subject,
                letter.body if body is None else body,
                {**_sendable(kept), _ONCE: encoded(f"{self._letter_subject} {letter.id}")},
            )
        await self.drop(letter)

    async def drop(self, letter: DeadLetter) -> None:
        jetstream = await self._connection.jetstream()
        with self._connection.answers("dropping a dead letter"):
            try:
                await jetstream.delete_msg(self._letters, int(letter.id))
            except nats.js.errors.APIError as error:
                if error.err_code not in (10037, 10043, 10057):  # it is not there
                    raise


def _sendable(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers as they can be sent: what the sender's client let through and ours does not is left out."""
    found = {}
    for name, value in headers.items():
        if name.lower().startswith("nats-"):
            continue
        try:
            found.update(to_ascii({name: value}))
        except BrokerRefusedError:
            continue
    return found
