"""One message of the stream: usually one record, its payload as it is and the rest in a header.

Records of one id that were written in one call are one message, so that they stand or fall together; their payloads
are then packed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from ..protocol import PersistentRepr

HEADER = "Sagalog"
EXPECTED = "Nats-Expected-Last-Subject-Sequence"
MESSAGE_ID = "Nats-Msg-Id"
EXPECTED_STREAM = "Nats-Expected-Stream"


class Head(msgspec.Struct, omit_defaults=True):
    """What the header says: of the newest record in the message."""

    nr: int
    count: int = 1  # of records in the message; several are packed
    manifest: str = ""
    writer: str = ""
    deleted: bool = False
    tags: tuple[str, ...] = ()
    due_at: datetime | None = None
    hidden_to: int = 0  # records up to this number were deleted


class Due(msgspec.Struct):
    """What a due entry says: `nr` is the record that it was written for."""

    nr: int
    due_at: datetime


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
        """Return its records, oldest first."""
        head = self.head
        if head.count > 1:
            packed = msgspec.msgpack.decode(self.data, type=list[PersistentRepr])
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
            )
        ]


def header_of(value: Any) -> str:
    """Return a header's value: JSON in ASCII."""
    text = msgspec.json.encode(value).decode()
    return text if text.isascii() else json.dumps(json.loads(text))


def message_of(records: Sequence[PersistentRepr], hidden_to: int) -> tuple[str, bytes]:
    """Return the header and the body for records of one id, oldest first."""
    newest = records[-1]
    head = Head(
        newest.sequence_nr,
        len(records),
        newest.manifest,
        newest.writer_uuid,
        newest.deleted,
        newest.tags,
        newest.due_at,
        hidden_to,
    )
    return header_of(head), newest.payload if len(records) == 1 else msgspec.msgpack.encode(list(records))


_head = msgspec.json.Decoder(Head)


def head_of(header: str) -> Head:
    """Return what a header says."""
    return _head.decode(header)
