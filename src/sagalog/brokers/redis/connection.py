"""The connections to Redis that a source or a sink has, and what its entries look like.

An entry of a stream holds the body in its field `data`; its other fields are the headers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    DataError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from ...errors import BrokerRefusedError, BrokerUnavailableError, DefinitionError
from ..arguments import options_of
from ..headers import bytes_of, text_of

ANSWER_SECONDS = 5.0
BODY = "data"
_PASSES = (BusyLoadingError, ReadOnlyError, ClusterDownError, MasterDownError, OutOfMemoryError)


class RedisConnection:
    """One pool of connections. `options` are those of `redis.asyncio.Redis.from_url`."""

    def __init__(self, url: str, options: Mapping[str, Any] | None) -> None:
        if not isinstance(url, str) or "://" not in url:
            raise DefinitionError("url must be a string such as redis://host:6379/0")
        self._url = url
        # The time limit is for what blocks for less; the client tries once more by itself where that changes nothing.
        self._options = {
            "socket_connect_timeout": 2,
            "socket_timeout": ANSWER_SECONDS,
            "max_connections": 50,
            "timeout": ANSWER_SECONDS,  # so long one of them is waited for: a burst is no trouble of the server
            "protocol": 2,
            **options_of(options),
        }
        self._client: Redis | None = None
        self.where: str = "Redis " + urlsplit(url).netloc.rpartition("@")[2]

    @property
    def client(self) -> Any:
        """The client; it connects by itself, again and again."""
        if self._client is None:
            try:
                self._client = Redis.from_pool(BlockingConnectionPool.from_url(self._url, **self._options))
            except ValueError as error:
                raise DefinitionError(f"the client does not accept this URL: {type(error).__name__}") from None
        return self._client

    @contextmanager
    def answers(self, what: str) -> Iterator[None]:
        """Turn what the client raises into our errors; `what` was asked, named without values."""
        try:
            yield
        except _PASSES as error:
            raise BrokerUnavailableError(f"{self.where} cannot do this now ({what}): {type(error).__name__}") from None
        except (ResponseError, DataError) as error:
            said = str(error).split(" ", 1)[0][:40]  # its kind, such as WRONGTYPE; the rest may quote
            if said in ("NOGROUP", "LOADING", "UNBLOCKED", "NOREPLICAS", "MISCONF"):
                raise BrokerUnavailableError(f"{self.where} cannot do this now ({what}): {said}") from None
            hint = ": check user and rights" if isinstance(error, NoPermissionError) else ""
            raise BrokerRefusedError(f"{self.where} refuses {what}: {said or type(error).__name__}{hint}") from None
        except (AuthenticationError, AuthorizationError):
            raise BrokerRefusedError(f"{self.where} refuses {what}: check user and password") from None
        except (RedisError, OSError, TimeoutError) as error:
            raise BrokerUnavailableError(
                f"{self.where} did not answer {what} ({type(error).__name__}): check that it runs, and its URL"
            ) from None

    async def close(self) -> None:
        """Disconnect."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


def fields(body: bytes, headers: Mapping[str, str]) -> dict[bytes, bytes]:
    """Return the fields of an entry."""
    found = {bytes_of(name): bytes_of(value) for name, value in headers.items()}
    return {BODY.encode(): body, **found}


def parts(entry: Mapping[bytes, bytes]) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of an entry."""
    headers = {text_of(name): text_of(value) for name, value in entry.items() if name != BODY.encode()}
    return entry.get(BODY.encode(), b""), headers
