"""Commands to a Redis stream: sent when the server has appended them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from ...errors import BrokerUnavailableError, DefinitionError
from ...text import given
from ...waiting import start_task
from ..arguments import text_or
from ..message import KEY, SinkMessage
from .connection import ANSWER_SECONDS, RedisConnection, fields

_AT_ONCE = 512
_MOST = 2**63 - 1  # the largest number of Redis


class RedisSink:
    """Appends to `stream`: a name, or a function of the message.

    `most`: about how many entries the stream keeps; older ones are trimmed, whether anybody has read them or not. None:
    all. A server that is killed keeps what its `appendfsync` says: with `always` all that was sent, by default all but the
    last second.
    """

    def __init__(
        self,
        url: str,
        *,
        stream: str | Callable[[SinkMessage], str],
        most: int | None = None,
        options: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        if not callable(stream) and (not isinstance(stream, str) or not stream):
            raise DefinitionError("stream= must be the name of a stream, or a function of the message")
        if most is not None and (type(most) is not int or not 1 <= most <= _MOST):
            raise DefinitionError(f"most= must be a whole number from 1 to {_MOST:,}, or None, not {given(most)}")
        self._connection = RedisConnection(url, options)
        self._stream = stream
        self._most = most
        self._waiting: list[tuple[str, dict[bytes, bytes], asyncio.Future[None]]] = []
        self._sending: asyncio.Task[None] | None = None
        self._name = text_or("name", name, f"redis:{stream if isinstance(stream, str) else '...'}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}>"

    @property
    def name(self) -> str:
        return self._name

    async def send(self, message: SinkMessage) -> None:
        stream = self._stream(message) if callable(self._stream) else self._stream
        headers = {**message.headers, KEY: message.key} if message.key else message.headers
        told = asyncio.get_running_loop().create_future()
        self._waiting.append((stream, fields(message.body, headers), told))
        if self._sending is None:
            self._sending = start_task(self._send_all())
        await told

    async def _send_all(self) -> None:
        """Send what has come together meanwhile as one request, over one connection."""
        while self._waiting:
            some, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
            try:
                with self._connection.answers("messages"):
                    pipeline = self._connection.client.pipeline(transaction=False)
                    for stream, entry, _ in some:
                        pipeline.xadd(stream, entry, maxlen=self._most)
                    results = await pipeline.execute(raise_on_error=False)
            except BaseException as error:
                results = [error] * len(some)
            for (_, _, told), result in zip(some, results, strict=True):
                if told.done():  # its caller was cancelled
                    continue
                if isinstance(result, BaseException):
                    told.set_exception(self._ours(result))
                else:
                    told.set_result(None)
        self._sending = None

    def _ours(self, error: BaseException) -> BaseException:
        try:
            with self._connection.answers("a message"):
                raise error
        except asyncio.CancelledError:
            return BrokerUnavailableError("the sink was closed while it was sending")
        except BaseException as told:
            return told

    async def close(self) -> None:
        if self._sending is not None:
            await asyncio.wait([self._sending], timeout=ANSWER_SECONDS)
        await self._connection.close()
