"""The connection to RabbitMQ that a source or a sink has, and what its messages look like.

Attributes of CloudEvents are headers `cloudEvents:...`, as the AMQP binding has it; here they are called `ce-...` as with
every broker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import (
    AMQPError,
    ChannelInvalidStateError,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    DeliveryError,
)
from aiormq import Channel as Client
from aiormq.exceptions import (
    AuthenticationError,
    ChannelAccessRefused,
    ChannelLockedResource,
    InvalidFrameError,
    ProbableAuthenticationError,
)
from pamqp.commands import Basic
from yarl import URL

from ...errors import BrokerRefusedError, BrokerUnavailableError, DefinitionError
from ..arguments import options_of
from ..headers import bytes_of, text_of
from ..message import digest_of

ANSWER_SECONDS = 10.0
_HEADER_FRAME_BYTES = 8 + 14  # of a frame itself, and of a content header beside the properties
SHORT_TEXT = 255  # bytes that a short text of AMQP holds: an id, the name of a queue
_CONTENT_TYPE = "content-type"
_OURS, _THEIRS = "ce-", "cloudEvents:"


class _ClosedOnFailure(aio_pika.Connection):
    """One that could not be made is closed at once. Its finalizer would close it, in whatever thread it is collected."""

    async def connect(self, *how: Any, **more: Any) -> None:
        try:
            await super().connect(*how, **more)
        except BaseException:
            await self.close()
            raise


class RabbitConnection:
    """One connection with one channel. `options` are those of `aio_pika.connect`.

    It is made anew by whoever needs it after it was lost, so that everybody sees that it was.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None) -> None:
        if not isinstance(url, str) or not url.startswith(("amqp://", "amqps://")):
            raise DefinitionError("url must be a string such as amqp://host:5672/ or amqps://host/")
        self._url = url
        self._options = options_of(options)
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._opening = asyncio.Lock()
        # A broker that hangs reads nothing: then one message at a time waits to be written, and no others pile up here.
        self._hangs = False
        parts = URL(url)
        self.where: str = f"RabbitMQ {parts.host}:{parts.port or 5672}"
        self._virtual_host: str = parts.path[1:].replace("%2F", "/") or "/"

    @property
    def lost(self) -> bool:
        """There is no open channel."""
        return self._channel is None or self._channel.is_closed

    async def channel(self) -> AbstractChannel:
        """Return the channel, open; publisher confirms are on. Raises BrokerUnavailableError."""
        if self.lost:
            async with self._opening:
                if self.lost:
                    await self.close()
                    with self.answers("connecting"):
                        async with asyncio.timeout(ANSWER_SECONDS):
                            self._connection = await self._connected()
                            self._channel = await self._connection.channel(on_return_raises=True)
        assert self._channel is not None
        return self._channel

    async def _connected(self) -> AbstractConnection:
        try:
            connection: AbstractConnection = await aio_pika.connect(
                self._url, **{"connection_class": _ClosedOnFailure, **self._options}
            )
        except InvalidFrameError:  # the broker ended the connection when it was asked for the virtual host
            raise BrokerUnavailableError(
                f"{self.where} does not let this user into virtual host {self._virtual_host!r}: create it (rabbitmqctl "
                "add_vhost), grant the user rights there (rabbitmqctl set_permissions), or use another one in the URL"
            ) from None
        return connection

    async def another(self) -> AbstractChannel:
        """Return a channel for one piece of work: what goes wrong there, or is not acknowledged there, is gone with it."""
        await self.channel()
        assert self._connection is not None
        with self.answers("opening a channel"):
            return await self._connection.channel(on_return_raises=True)

    async def make_queue(self, queue: str, arguments: dict[str, Any]) -> bool:
        """Make a durable queue; return False if there is one already, which stays as it is."""
        channel = await self.another()
        with self.answers(f"opening queue {queue}"):
            try:
                await channel.declare_queue(queue, passive=True)
            except ChannelNotFoundEntity:  # which closes the channel
                channel = await self.another()
                await channel.declare_queue(queue, durable=True, arguments=arguments)
                return True
            finally:
                await channel.close()
        return False

    async def publish(self, properties: Basic.Properties, body: bytes, routing_key: str, exchange: str = "") -> None:
        """Return when the broker has confirmed it. Raises what the client raises, and BrokerRefusedError."""
        client = await client_of(await self.channel())
        most = client.connection.connection_tune.frame_max
        if most and _at_most(properties) > most and len(properties.marshal()) + _HEADER_FRAME_BYTES > most:
            # The broker would close the connection, for all that is on its way there, at each attempt.
            raise BrokerRefusedError(f"{self.where}: the headers take more than its frame_max of {most:,} bytes")
        try:
            await client.basic_publish(
                body,
                exchange=exchange,
                routing_key=routing_key,
                properties=properties,
                mandatory=True,
                timeout=ANSWER_SECONDS,
                wait=self._hangs,  # for the socket; the confirmation is waited for in any case
            )
        except TimeoutError:
            self._hangs = True
            raise
        except (TypeError, ValueError) as error:  # of the client, whose text may quote values
            raise BrokerRefusedError(
                f"{self.where}: the client does not accept this message ({type(error).__name__}): AMQP takes texts of "
                "UTF-8, a content type, a routing key and an exchange of at most 255 bytes"
            ) from None
        self._hangs = False

    @contextmanager
    def answers(self, what: str) -> Iterator[None]:
        """Turn what the client raises into our errors; `what` was asked, named without values."""
        try:
            yield
        except (AuthenticationError, ProbableAuthenticationError):
            raise BrokerRefusedError(f"{self.where} refuses {what}: check user, password and virtual host") from None
        except (ChannelPreconditionFailed, ChannelAccessRefused, ChannelLockedResource) as error:
            raise BrokerRefusedError(f"{self.where} refuses {what}: {error}") from None
        except DeliveryError:
            raise BrokerUnavailableError(
                f"{self.where} did not accept {what}: no queue is bound for it, or its queue is full"
            ) from None
        except (AMQPError, ChannelInvalidStateError, OSError, TimeoutError, RuntimeError) as error:
            raise BrokerUnavailableError(
                f"{self.where} did not answer {what} ({type(error).__name__}): check that it runs, and the URL"
            ) from None

    async def close(self) -> None:
        """Disconnect."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None and not connection.is_closed:
            try:
                await asyncio.wait_for(connection.close(), ANSWER_SECONDS)
            except (AMQPError, OSError, TimeoutError, RuntimeError):
                return


async def client_of(channel: AbstractChannel) -> Client:
    """Return what is below a channel. A message there has no object and no task of its own."""
    client = await channel.get_underlay_channel()
    assert isinstance(client, Client)
    return client


def properties_of(headers: Mapping[str, str], message_id: str) -> Basic.Properties:
    """Return the properties of a message that survives a restart of the broker, where its queue does."""
    sent: dict[str, Any] = {}
    for name, value in headers.items():
        if name.lower() != _CONTENT_TYPE:
            theirs = _THEIRS + name[len(_OURS) :] if name.startswith(_OURS) else name
            sent[theirs] = bytearray(bytes_of(value)) if _was_bytes(value) else value  # which is AMQP's type for bytes
    return Basic.Properties(
        headers=sent,
        content_type=headers.get(_CONTENT_TYPE, "").encode(errors="replace").decode() or None,
        message_id=_short(message_id) or None,
        timestamp=datetime.now(UTC),
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT.value,
    )


def _short(message_id: str) -> str:
    fits = len(bytes_of(message_id)) <= SHORT_TEXT and not _was_bytes(message_id)
    return message_id if fits else digest_of(message_id)


def _at_most(properties: Basic.Properties) -> int:
    """Return a bound of the bytes that they take, which costs less than to count them."""
    headers: Mapping[str, Any] = properties.headers or {}
    most = sum(len(name) + len(value) for name, value in headers.items())
    most += len(properties.content_type or "") + len(properties.message_id or "")
    return _HEADER_FRAME_BYTES + 64 + 8 * len(headers) + 4 * most


def _was_bytes(value: str) -> bool:
    return not value.isprintable() and any("\ud800" <= char <= "\udfff" for char in value)


def headers_of(properties: Basic.Properties) -> dict[str, str]:
    """Return the headers of a message as texts. Tables and lists, which only the broker writes, are passed over."""
    found = {}
    headers: Mapping[str, Any] = properties.headers or {}
    for name, value in headers.items():
        if isinstance(value, (bytes, bytearray)):
            value = text_of(bytes(value))
        if isinstance(value, (str, int, float)):
            found[_OURS + name[len(_THEIRS) :] if name.startswith(_THEIRS) else name] = str(value)
    if properties.content_type:
        found[_CONTENT_TYPE] = properties.content_type
    return found
