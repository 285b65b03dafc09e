"""Held messages in pages: a record that holds many is stored with the newest of them, and names the records with the rest.

    a turn ─► a record that is whole ─► [encode_in_pages] ─► what is stored
    what is stored ─► [whole], with the messages of the records that it names ─► a record that is whole

A parked instance holds each message that comes, and each is a step: with all of them in each record, twice as many would
be four times as many bytes. So the records before are used as pages. Once those that a record holds itself take
`page_bytes`, it becomes a page of the next one, which begins with none. Small pages are stored again as one, so that each
is at least twice as large as the next: some twenty at most, however many messages there are.

A page is the record that a write was based on, or one that this one named. It was stored before, and the write fails
if it is not the newest any more; so nothing is named that may not be there, and a step is still one record. In memory a
record is always whole. Whatever else than adding at the end is done to what is held (a repair, a replay), the next record
holds all of it itself.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import chain
from typing import NamedTuple

import msgspec

from ..errors import CodecError
from .record import Held, HeldPage, SagaRecord, encode_record

_encoder = msgspec.json.Encoder()
_NAME = len(b',"held":[]')
_NAME_OF_PAGES = len(b',"held_in":')


class StoredHeld(NamedTuple):
    """How that is stored what the record of that number holds: in its pages, and `size` bytes in itself.

    `epoch`: of the record. Its numbers begin anew after a purge.
    """

    version: int = 0
    epoch: int = 0
    held: tuple[Held, ...] = ()
    pages: tuple[HeldPage, ...] = ()
    size: int = 0


NOTHING_HELD = StoredHeld()


class Encoded(NamedTuple):
    """A record as it is to be stored. `size`: in bytes, with all that it holds, as if it were stored in one."""

    payload: bytes
    size: int
    pages: tuple[HeldPage, ...]
    own: int  # bytes of the held messages that it holds itself


def encode_in_pages(record: SagaRecord, before: StoredHeld, page_bytes: int) -> Encoded:
    """Return a whole record as it is to be stored behind the one that `before` tells of.

    What it holds is compared with what that one held, pointer by pointer; only what is stored is looked at closer. Raises
    CodecError as `encode_record` does.
    """
    pages = _pages(record, before, page_bytes)
    stored = copy.copy(record)
    stored.held_in, stored.held = pages, record.held[_count(pages) :]
    payload = encode_record(stored)
    own = held_size(stored.held)
    size = len(payload)
    if pages:
        size += sum(page.size + 1 for page in pages) - _NAME_OF_PAGES - len(_encoder.encode(pages))
        if not stored.held:
            size += _NAME - 1
    return Encoded(payload, size, pages, own)


def _pages(record: SagaRecord, before: StoredHeld, page_bytes: int) -> tuple[HeldPage, ...]:
    """Return the pages that the next record names."""
    pages = before.pages
    if record.held[: len(before.held)] != before.held:
        return ()
    if before.size < page_bytes:
        return pages
    left, size = len(pages), before.size
    while left and pages[left - 1].size < 2 * size:
        left -= 1
        size += pages[left].size
    if left < len(pages):  # these are stored again, as one
        return pages[:left]
    return (*pages, HeldPage(before.version, len(before.held) - _count(pages), before.size))


def held_size(held: tuple[Held, ...]) -> int:
    """Return how many bytes held messages take in a record."""
    return len(_encoder.encode(held)) - 2 if held else 0


def whole(record: SagaRecord, held: Mapping[int, tuple[Held, ...]]) -> SagaRecord:
    """Return a record with all that it holds. `held`: what the records that it names hold themselves, by their number.

    Raises CodecError where one of them is missing, or is not the one that is meant.
    """
    for page in record.held_in:
        part = held.get(page.version)
        if part is None or len(part) != page.count:
            what = "cannot be read" if part is None else f"has {len(part):,}"
            raise CodecError(f"step {page.version:,}, which has {page.count:,} of the messages that it holds, {what}")
    return left_of(record, held)


def left_of(record: SagaRecord, held: Mapping[int, tuple[Held, ...]]) -> SagaRecord:
    """Return a record with what is left of all that it holds, where some of the records that it names are missing."""
    parts = [part for page in record.held_in if len(part := held.get(page.version, ())) == page.count]
    record = copy.copy(record)
    record.held_in, record.held = (), tuple(chain(*parts, record.held))
    return record


def as_stored(record: SagaRecord, made_whole: SagaRecord, version: int, epoch: int) -> StoredHeld:
    """Return how that is stored what a record holds; `made_whole`: the same one, with all of it."""
    if not made_whole.held:
        return NOTHING_HELD
    return StoredHeld(version, epoch, made_whole.held, record.held_in, held_size(record.held))


def _count(pages: tuple[HeldPage, ...]) -> int:
    return sum(page.count for page in pages)
