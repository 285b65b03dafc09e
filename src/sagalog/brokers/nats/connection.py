"""The connection to NATS that a source or a sink has: made when it is first needed, kept by the client."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext

from ...durations import seconds_of
from ...errors import BrokerRefusedError, BrokerUnavailableError, DefinitionError
from ...nats_client import NatsClient
from ..arguments import LONGEST, options_of

_HEADERS_BYTES = len(b"NATS/1.0\r\n\r\n")
_HEADER_BYTES = len(b": \r\n")


class NatsConnection:
    """One connection; `url` may name several servers, `nats://a:4222,b:4222`. `options` are those of `nats.connect`."""

    def __init__(
        self, url: str, options: Mapping[str, Any] | None, connect_timeout: timedelta, answer_timeout: timedelta
    ) -> None:
        if not isinstance(url, str) or "://" not in url:
            raise DefinitionError("url must be a string such as nats://host:4222")
        scheme, _, rest = url.partition("://")
        self._servers = [one if "://" in one else f"{scheme}://{one}" for one in rest.split(",")]
        self._options = options_of(options)
        self._seconds = seconds_of("connect_timeout", connect_timeout, most=LONGEST)
        self.answer_seconds: float = seconds_of("answer_timeout", answer_timeout, most=LONGEST)
        self._client: Client | None = None
        self._opening = asyncio.Lock()
        self.where: str = "NATS " + ",".join(urlsplit(one).netloc.rpartition("@")[2] for one in self._servers)

    async def client(self) -> Client:
        """Return the client, connected. Raises BrokerUnavailableError."""
        if self._client is None:
            async with self._opening:
                if self._client is None:
                    self._client = await self._connect()
        if not self._client.is_connected:
            raise BrokerUnavailableError(f"{self.where}: the connection is lost; the client is reconnecting")
        return self._client

    async def jetstream(self) -> JetStreamContext:
        """Return JetStream, connected."""
        return (await self.client()).jetstream(timeout=self.answer_seconds)

    async def publish(self, subject: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Publish to a stream, and return when it is stored. Raises what the client raises, and BrokerRefusedError."""
        client = await self.client()
        size = len(body) + _HEADERS_BYTES
        size += sum(len(name.encode()) + len(value.encode()) + _HEADER_BYTES for name, value in headers.items())
        if size > client.max_payload:
            # The client counts the body only, and the server would close the connection at each attempt.
            raise BrokerRefusedError(
                f"{self.where}: body and headers take {size:,} bytes, more than its max_payload of {client.max_payload:,}"
            )
        await client.jetstream(timeout=self.answer_seconds).publish(subject, body, headers=dict(headers))

    async def _connect(self) -> Client:
        client = NatsClient()

        async def failed(_: Exception) -> None:
            """Whoever calls is told."""

        connecting = client.connect(
            self._servers,
            **{
                "connect_timeout": 2,
                "reconnect_time_wait": 0.05,
                "max_reconnect_attempts": -1,
                "ping_interval": 10,
                "error_cb": failed,
                **self._options,
            },
        )
        try:
            async with asyncio.timeout(self._seconds):
                await connecting
        except (nats.errors.Error, OSError, TimeoutError, ssl.SSLError) as error:
            await client.close()
            raise BrokerUnavailableError(
                f"{self.where} cannot be reached ({type(error).__name__}): check that it runs, and host, port and login"
            ) from None
        except BaseException:
            await client.close()
            raise
        return client

    @contextmanager
    def answers(self, what: str) -> Iterator[None]:
        """Turn what the client raises into our errors; `what` was asked, named without values."""
        try:
            yield
        except (nats.errors.MaxPayloadError, nats.errors.BadSubjectError, nats.js.errors.BadRequestError) as error:
            raise BrokerRefusedError(f"{self.where} refuses {what}: {_told(error)}") from None
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise BrokerUnavailableError(f"{self.where} did not answer {what}: {_told(error)}") from None

    async def close(self) -> None:
        """Disconnect."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()


def _told(error: BaseException) -> str:
    if isinstance(error, nats.js.errors.APIError):
        return f"{error.description} ({error.err_code})"
    return type(error).__name__
