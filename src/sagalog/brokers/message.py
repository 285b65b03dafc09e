"""What sources give and sinks take: a body, headers, and an id that stays the same."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import msgspec

NO_HEADERS: Mapping[str, str] = {}

# Headers of ours, on what lies among the dead letters and on what was put back from there.
MESSAGE_ID = "sagalog-message-id"  # under which it is handled, where the message itself brings no id
REASON = "sagalog-reason"
POSITION = "sagalog-position"
KEY = "sagalog-key"  # the key, where the broker has none
UNDECODABLE = "sagalog-undecodable"  # why the client could not read it: only its position is known
OURS = frozenset({MESSAGE_ID, REASON, POSITION, UNDECODABLE})


def moment_of(seconds: float) -> datetime | None:
    """Return a time since 1970 in UTC, as a sender or a broker gives it; None for one that no calendar has."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def digest_of(id: str) -> str:
    """Return what stands for an id that is too long: it is as much its own."""
    return f"sha256:{sha256(id.encode(errors='surrogatepass')).hexdigest()}"


class SourceMessage(msgspec.Struct, frozen=True, gc=False):
    """A message that a source has received.

    `id` is the broker's own: the same at every delivery, and of no other message; empty where the broker has none.
    `position` says where it lies, for people. `key`: messages of one key are handled in order. `deliveries`: how often
    it has been delivered, this time included, as far as the broker counts. `token` is for its source alone.
    """

    body: bytes
    id: str
    position: str
    headers: Mapping[str, str] = NO_HEADERS
    key: str = ""
    deliveries: int = 1
    published_at: datetime | None = None
    token: Any = None

    def __repr__(self) -> str:  # without what it holds
        return f"<SourceMessage {self.id!r} at {self.position}, {len(self.body):,} bytes>"


class SinkMessage(msgspec.Struct, frozen=True, gc=False):
    """A message for a sink. `id` is the same at every attempt. Messages of one `key` are to stay in order."""

    body: bytes
    id: str
    headers: Mapping[str, str] = NO_HEADERS
    key: str = ""

    def __repr__(self) -> str:  # without what it holds
        return f"<SinkMessage {self.id!r}, {len(self.body):,} bytes>"


class DeadLetter(msgspec.Struct, frozen=True):
    """A message among the dead letters. `id`: its name there; `reason`: why nobody could take it.

    `position` is where it came from. `at`: since when it lies there. `body` and `headers` are as they came.
    """

    id: str
    reason: str
    position: str
    body: bytes
    headers: Mapping[str, str] = NO_HEADERS
    key: str = ""
    at: datetime | None = None

    def __repr__(self) -> str:  # without what it holds
        return f"<DeadLetter {self.id!r} from {self.position}, {len(self.body):,} bytes>"


class Backlog(msgspec.Struct, frozen=True):
    """The messages before a source: how many are not accepted yet, and since when the oldest has waited.

    None where the broker does not say.
    """

    messages: int | None = None
    oldest_at: datetime | None = None


def without_ours(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers as the sender wrote them."""
    return {name: value for name, value in headers.items() if name not in OURS}


def letter_headers(message: SourceMessage, reason: str) -> dict[str, str]:
    """Return the headers of a message that goes to the dead letters."""
    ours = {REASON: reason, POSITION: message.position}
    if message.id:
        ours[MESSAGE_ID] = message.headers.get(MESSAGE_ID, message.id)
    return {**message.headers, **ours}


def back_headers(headers: Mapping[str, str], letter: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a dead letter that is put back: `headers`, and under which id it is handled.

    The broker gives it a new position. Put back twice, it is to be one message all the same.
    """
    kept = {MESSAGE_ID: letter[MESSAGE_ID]} if letter.get(MESSAGE_ID) else {}
    return {**without_ours(headers), **kept}
