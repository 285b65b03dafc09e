"""Messages in pages: a record that holds or keeps many is stored with the newest, and names the records with the others.

    a turn ─► a record that is whole ─► [encode_in_pages] ─► what is stored
    what is stored ─► [whole], with the messages of the records that it names ─► a record that is whole

A parked instance holds each message that comes, and each is a step: with all of them in each record, twice as many would
be four times as many bytes. So the records before are used as pages. Once those that a record holds itself take
`page_bytes`, it becomes a page of the next one, which begins with none. Small pages are stored again as one, so that each
is at least twice as large as the next: some twenty at most, however many messages there are.

A page is the record that a write was based on, or one that this one named. It was stored before, and the write fails
if it is not the newest any more; so nothing is named that may not be there, and a step is still one record. In memory a
record is always whole. Whatever else than adding at the end is done to what is held or kept (a repair, a replay, a kept
message that is handled), the next record has all of it itself; and so has one for which an older page would be deleted,
where a journal keeps some records only.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import chain

import msgspec

from ..errors import CodecError
from .entries import Command, Held, HeldPage
from .record import SagaRecord, encode_record

_encoder = msgspec.json.Encoder()
_NAME = len(b',"held":[]')  # or "kept"
_NAME_OF_PAGES = len(b',"held_in":')


class StoredList(msgspec.Struct, frozen=True):
    """How that is stored what a record holds, or what it keeps: in its pages, and `size` bytes in itself."""

    messages: tuple[Held, ...] = ()
    pages: tuple[HeldPage, ...] = ()
    size: int = 0


NOTHING = StoredList()


class StoredMessages(msgspec.Struct, frozen=True):
    """How the messages are stored of the record of that number. `epoch`: its numbers begin anew after a purge."""

    version: int = 0
    epoch: int = 0
    held: StoredList = NOTHING
    kept: StoredList = NOTHING


NO_MESSAGES = StoredMessages()


class Encoded(msgspec.Struct, frozen=True):
    """A record as it is to be stored. `size`: in bytes, with all its messages, as if it were stored in one."""

    payload: bytes
    size: int
    held: StoredList
    kept: StoredList


def encode_in_pages(record: SagaRecord, before: StoredMessages, page_bytes: int, history: int = 0) -> Encoded:
    """Return a whole record as it is to be stored behind the one that `before` tells of.

    `history`: how many records before this one are certainly kept once it is stored; 0: all of them.
    Its messages are compared with those of that one, pointer by pointer; only what is stored is looked at closer. Raises
    CodecError as `encode_record` does.
    """
    stored = copy.copy(record)
    stored.held_in = _pages(record.held, before.held, before.version, page_bytes, history)
    stored.kept_in = _pages(record.kept, before.kept, before.version, page_bytes, history)
    stored.held = record.held[_count(stored.held_in) :]
    stored.kept = record.kept[_count(stored.kept_in) :]
    payload = encode_record(stored)
    size = len(payload) + _elsewhere(stored.held_in, stored.held) + _elsewhere(stored.kept_in, stored.kept)
    held = StoredList(record.held, stored.held_in, size_of(stored.held))
    return Encoded(payload, size, held, StoredList(record.kept, stored.kept_in, size_of(stored.kept)))


def _pages(
    messages: tuple[Held, ...], before: StoredList, version: int, page_bytes: int, history: int
) -> tuple[HeldPage, ...]:
    """Return the pages that the next record names, behind the one of that version."""
    pages = before.pages
    if messages[: len(before.messages)] != before.messages:
        return ()
    # The oldest, and largest, goes: all is stored again.
    if history and pages and pages[0].version <= version - history:
        return ()
    if before.size < page_bytes:
        return pages
    left, size = len(pages), before.size
    while left and pages[left - 1].size < 2 * size:
        left -= 1
        size += pages[left].size
    if left < len(pages):  # these are stored again, as one
        return pages[:left]
    return (*pages, HeldPage(version, len(before.messages) - _count(pages), before.size))


def _elsewhere(pages: tuple[HeldPage, ...], own: tuple[Held, ...]) -> int:
    """Return how much larger the record would be without pages."""
    if not pages:
        return 0
    size = sum(page.size + 1 for page in pages) - _NAME_OF_PAGES - len(_encoder.encode(pages))
    return size if own else size + _NAME - 1


def size_of(messages: Sequence[Held | Command]) -> int:
    """Return how many bytes messages, or commands, take in a record."""
    return len(_encoder.encode(messages)) - 2 if messages else 0


def whole(record: SagaRecord, named: Mapping[int, SagaRecord]) -> SagaRecord:
    """Return a record with all its messages. `named`: the records that it names, by their number, as they are stored.

    Raises CodecError where one of them is missing, or is not the one that is meant.
    """
    for what, verb, pages in (("held", "holds", record.held_in), ("kept", "keeps", record.kept_in)):
        for page in pages:
            count = _count_in(named.get(page.version), what)
            if count != page.count:
                how = f"has {count:,}" if page.version in named else "cannot be read"
                raise CodecError(
                    f"step {page.version:,}, which has {page.count:,} of the messages that it {verb}, {how}"
                )
    return left_of(record, named)


def left_of(record: SagaRecord, named: Mapping[int, SagaRecord]) -> SagaRecord:
    """Return a record with what is left of its messages, where some of the records that it names are missing."""
    held = [named[p.version].held for p in record.held_in if _count_in(named.get(p.version), "held") == p.count]
    kept = [named[p.version].kept for p in record.kept_in if _count_in(named.get(p.version), "kept") == p.count]
    record = copy.copy(record)
    record.held_in, record.held = (), tuple(chain(*held, record.held))
    record.kept_in, record.kept = (), tuple(chain(*kept, record.kept))
    return record


def _count_in(record: SagaRecord | None, what: str) -> int:
    return 0 if record is None else len(getattr(record, what))


def as_stored(record: SagaRecord, made_whole: SagaRecord, version: int, epoch: int) -> StoredMessages:
    """Return how the messages of a record are stored; `made_whole`: the same one, with all of them."""
    if not made_whole.held and not made_whole.kept:
        return NO_MESSAGES
    held = StoredList(made_whole.held, record.held_in, size_of(record.held))
    kept = StoredList(made_whole.kept, record.kept_in, size_of(record.kept))
    return StoredMessages(version, epoch, held, kept)


def _count(pages: tuple[HeldPage, ...]) -> int:
    return sum(page.count for page in pages)
