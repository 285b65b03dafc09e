"""One message of the stream: usually one record, its payload as it is and the rest in a header.

Records of one id that were written in one call are one message, so that they stand or fall together; their payloads
are then packed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from nats.aio.msg import Msg

from ...errors import JournalFormatError
from ..protocol import PersistentRepr

HEADER = "Sagalog"
EXPECTED = "Nats-Expected-Last-Subject-Sequence"
MESSAGE_ID = "Nats-Msg-Id"
EXPECTED_STREAM = "Nats-Expected-Stream"


class Head(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """What the header says: of the newest record in the message.

    A field that this code does not know is refused: hiding records writes the header anew, and would drop it.
    """

    nr: int
    count: int = 1  # of records in the message; several are packed
    manifest: str = ""
    writer: str = ""
    deleted: bool = False
    tags: tuple[str, ...] = ()
    due_at: datetime | None = None
    hidden_to: int = 0  # records up to this number were deleted
    epoch: int = 0


class Stored(msgspec.Struct):
    """A message as it is in the stream."""

    sequence: int
    persistence_id: str
    head: Head
    data: bytes

    @property
    def empty(self) -> bool:
        """All its records were deleted."""
        return self.head.hidden_to >= self.head.nr

    def records(self) -> list[PersistentRepr]:
        """Return its records, oldest first. Raises JournalFormatError if they are damaged."""
        head = self.head
        if head.count > 1:
            try:
                packed = _packed.decode(self.data)
            except ValueError:
                raise _damaged(f"message {self.sequence}") from None
            if [(r.persistence_id, r.sequence_nr) for r in packed] != [
                (self.persistence_id, number) for number in range(head.nr - head.count + 1, head.nr + 1)
            ]:
                raise _damaged(f"message {self.sequence}")
            return [record for record in packed if record.sequence_nr > head.hidden_to]
        if self.empty:
            return []
        return [
            PersistentRepr(
                self.persistence_id,
                head.nr,
                self.data,
                head.manifest,
                head.writer,
                head.deleted,
                head.tags,
                head.due_at,
                head.epoch,
            )
        ]


_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def in_utc(at: datetime) -> datetime:
    """Return the same moment in UTC, or the end of the calendar that it is beyond there."""
    try:
        return at.astimezone(UTC)
    except OverflowError:
        return _FIRST if at.year == 1 else _LAST


def header_of(value: Any) -> str:
    """Return a header's value: JSON in ASCII."""
    text = msgspec.json.encode(value).decode()
    return text if text.isascii() else json.dumps(json.loads(text))


def message_of(records: Sequence[PersistentRepr], hidden_to: int, epoch: int) -> tuple[str, bytes]:
    """Return the header and the body for records of one id, oldest first."""
    newest = records[-1]
    head = Head(
        newest.sequence_nr,
        len(records),
        newest.manifest,
        newest.writer_uuid,
        newest.deleted,
        newest.tags,
        None if newest.due_at is None else in_utc(newest.due_at),
        hidden_to,
        epoch,
    )
    if len(records) == 1:
        return header_of(head), newest.payload
    packed = [msgspec.structs.replace(record, epoch=epoch) for record in records]
    return header_of(head), msgspec.msgpack.encode(packed)


_packed = msgspec.msgpack.Decoder(list[PersistentRepr])
_head = msgspec.json.Decoder(Head)


def head_of(header: str, subject: str) -> Head:
    """Return what the header of a record says. Raises JournalFormatError."""
    try:
        return _head.decode(header)
    except ValueError:  # not JSON, other fields, or a lone surrogate
        raise _damaged(f"a message on {subject}") from None


def _damaged(what: str) -> JournalFormatError:
    return JournalFormatError(
        f"{what} of the stream is damaged, or was written by something else or by a newer version; it was left as it is"
    )


def header_in(raw: bytes) -> str:
    """Return our header in the headers of a message as the server gives them; empty if there is none."""
    for line in raw.decode(errors="replace").split("\r\n"):
        name, _, value = line.partition(":")
        if name == HEADER:
            return value.strip()
    return ""


def header(message: Msg) -> str:
    """Return our header of a message."""
    return (message.headers or {}).get(HEADER, "")
