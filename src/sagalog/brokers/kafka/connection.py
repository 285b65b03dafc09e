"""Where the brokers are, how we log in there, and what their client raises."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from aiokafka.errors import (
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    UnsupportedCodecError,
)

from ...errors import BrokerRefusedError, BrokerUnavailableError, DefinitionError
from ..arguments import options_of
from ..headers import bytes_of, text_of

ANSWER_SECONDS = 10.0
_REFUSED = (
    InvalidTopicError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
)


class KafkaServers:
    """The servers `host:9092,host2:9092` (`kafka://` before them is passed over). `options`: for every client."""

    def __init__(self, servers: str, options: Mapping[str, Any] | None) -> None:
        if not isinstance(servers, str) or not servers:
            raise DefinitionError("servers must be a string such as host:9092,host2:9092")
        bare = servers.removeprefix("kafka://")
        if "@" in bare or "/" in bare:
            raise DefinitionError("servers may name hosts and ports only: pass user and password in options=")
        self.where: str = f"Kafka {bare}"
        self.options: dict[str, Any] = {
            "bootstrap_servers": bare,
            "request_timeout_ms": int(ANSWER_SECONDS * 1000),
            **options_of(options),
        }

    @contextmanager
    def takes_options(self) -> Iterator[None]:
        """Turn what the client raises for `options=` into our error."""
        try:
            yield
        except (TypeError, ValueError, AssertionError, ImportError) as error:
            said = str(error).partition("argument ")[2] if isinstance(error, TypeError) else type(error).__name__
            raise BrokerRefusedError(f"the client of {self.where} does not accept these options: {said}") from None

    @contextmanager
    def answers(self, what: str) -> Iterator[None]:
        """Turn what the client raises into our errors; `what` was asked, named without values."""
        try:
            yield
        except _REFUSED as error:
            raise BrokerRefusedError(f"{self.where} refuses {what}: {type(error).__name__}") from None
        except UnsupportedCodecError as error:
            raise BrokerRefusedError(
                f"{self.where}, {what}: {error}: pip install 'sagalog[kafka]', which has the libraries of all codecs"
            ) from None
        except UnknownTopicOrPartitionError:
            raise BrokerUnavailableError(f"{self.where}: there is no such topic yet ({what}): create it") from None
        except (KafkaError, OSError, TimeoutError) as error:
            raise BrokerUnavailableError(
                f"{self.where} did not answer {what} ({type(error).__name__}): check that it runs, and the servers"
            ) from None


def encoded(headers: Mapping[str, str]) -> list[tuple[str, bytes]]:
    """Return headers as Kafka has them; attributes of CloudEvents begin with `ce_` there, and with `ce-` here."""
    return [(re.sub("^ce-", "ce_", name), bytes_of(value)) for name, value in headers.items()]


def decoded(headers: Any) -> dict[str, str]:
    """Return headers as texts; the last one of a name wins."""
    return {re.sub("^ce_", "ce-", name): text_of(value or b"") for name, value in headers or ()}
