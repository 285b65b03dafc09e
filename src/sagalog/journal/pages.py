"""Records made whole: what a record holds or keeps in earlier ones is read from there. See decision/pages.py.

a journal's newest record ─► decode ─► [made_whole], with the records that it names
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable

import msgspec

from ..decision.pages import whole
from ..decision.record import SagaRecord, decode_record
from ..errors import CodecError, JournalFormatError
from . import Journal, PersistentRepr

_PAGE_BYTES = 4096
Replay = Callable[[str, int, int], AsyncIterator[PersistentRepr]]  # an id, and two numbers, both inclusive


def page_bytes_of(journal: object) -> int:
    """Return from how many bytes on messages are left in the records where they are; 0: they never are.

    That may be done only where no record of a live id is deleted. A journal says so by its attribute `page_bytes`.
    """
    found = getattr(journal, "page_bytes", 0)
    return found if type(found) is int and found > 0 else 0


class Paging(msgspec.Struct, frozen=True):
    """How messages are left in earlier records: from how many bytes on (0: not at all), of so many records (0: of all)."""

    page_bytes: int
    history: int


def paging_of(journal: object) -> Paging:
    """Return what a journal says by its attributes `page_bytes`, or `kept_records` where it does not keep them all."""
    page_bytes = page_bytes_of(journal)
    kept = getattr(journal, "kept_records", 0)
    if page_bytes or type(kept) is not int or kept < 1:
        return Paging(page_bytes, 0)
    return Paging(_PAGE_BYTES, kept)


def named_by(*records: SagaRecord) -> list[int]:
    """Return the numbers of the records in which these have messages, in order, each once."""
    return sorted({page.version for record in records for page in (*record.held_in, *record.kept_in)})


async def records_at(replay: Replay, persistence_id: str, epoch: int, numbers: Iterable[int]) -> dict[int, SagaRecord]:
    """Return the records of one id with these numbers, as they are stored; without those that are gone or damaged.

    One read for each. Raises JournalUnavailableError.
    """
    found: dict[int, SagaRecord] = {}
    for number in numbers:
        try:
            async for message in replay(persistence_id, number, number):
                if epoch == 0 or message.epoch in (0, epoch):
                    found[number] = decode_record(message.payload)
        except (CodecError, JournalFormatError):  # one that is damaged is as good as gone
            continue
    return found


async def made_whole(journal: Journal, message: PersistentRepr) -> tuple[PersistentRepr, SagaRecord]:
    """Return a record of a journal, decoded and whole; a newer one where what it names has gone meanwhile.

    Raises CodecError where it cannot be read, or what it names is not there although it is still the newest.
    """
    while True:
        record = decode_record(message.payload)
        if not record.in_pages:
            return message, record
        try:
            named = await records_at(journal.replay_messages, message.persistence_id, message.epoch, named_by(record))
            return message, whole(record, named)
        except CodecError:
            newest = await journal.latest_message(message.persistence_id)
            if newest is None or not newest.payload or is_same(newest, message):
                raise
            message = newest


def is_same(one: PersistentRepr, other: PersistentRepr) -> bool:
    """Say whether two records are the same one of an id."""
    return (one.sequence_nr, one.epoch) == (other.sequence_nr, other.epoch)
