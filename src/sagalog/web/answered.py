"""What a receiver has answered a command with: one event as a CloudEvent, in whatever mode, or its status alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..brokers.cloudevents import STRUCTURED
from ..brokers.headers import from_ascii
from ..brokers.message import SourceMessage
from ..brokers.reading import MessageReader, UnreadableError, UntakenError
from ..definition.codec import NOT_JSON

_MAX_ANSWER = 1024 * 1024  # bytes


class AnsweredOddlyError(Exception):
    """The answer is an event that cannot be read, so the same one would come again. Its text quotes no values."""


class _SpecVersion(msgspec.Struct):
    """As much of a JSON object as tells a CloudEvent from any other."""

    specversion: Any = None


_specversion = msgspec.json.Decoder(_SpecVersion)


class AnswerReader:
    """Makes an event of an answer, or None of one whose status says all. `replies`: the classes of events by their type.

    An event that is passed over is lost, and its saga waits for it for ever. So what says that it is a CloudEvent is
    read, or told to be unreadable. Web frameworks answer with application/json unless told otherwise: where replies are
    expected, an object with a `specversion` is an event as well.
    """

    def __init__(self, replies: Mapping[str, type]) -> None:
        self._expected = bool(replies)
        self._reader = MessageReader(dict(replies))

    async def read(self, answer: Any) -> Any:
        """Return the event. Raises AnsweredOddlyError, and what httpx raises where the answer breaks off."""
        headers = {name.lower(): value for name, value in answer.headers.items()}
        content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type.startswith("application/cloudevents") or "ce-specversion" in headers:
            body = await _whole(answer)
            if body is None:
                raise AnsweredOddlyError(f"more than {_MAX_ANSWER:,} bytes, or compressed")
        elif self._expected and content_type == "application/json":
            body = await _whole(answer)
            if body is None or not _is_event(body):
                return None
            headers["content-type"] = STRUCTURED
        else:
            return None
        try:
            return self._reader.read(SourceMessage(body, "", "", from_ascii(headers))).event
        except (UnreadableError, UntakenError) as error:
            raise AnsweredOddlyError(str(error)) from None


def _is_event(body: bytes) -> bool:
    try:
        return _specversion.decode(body).specversion is not None
    except NOT_JSON:
        return False


async def _whole(answer: Any) -> bytes | None:
    """Return the body of an answer as it was sent; None if it is too large, or not sent as it is."""
    if answer.headers.get("content-encoding", "identity") != "identity":  # a few bytes may stand for any number
        return None
    found = bytearray()
    async for chunk in answer.aiter_raw():
        found += chunk
        if len(found) > _MAX_ANSWER:
            return None
    return bytes(found)
