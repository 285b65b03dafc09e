"""Records made whole: what a record holds in earlier ones is read from there. See decision/pages.py.

a journal's newest record ─► decode ─► [made_whole], with the records that it names
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

from ..decision.pages import whole
from ..decision.record import Held, HeldPage, SagaRecord, decode_record
from ..errors import CodecError, JournalFormatError
from . import Journal, PersistentRepr

Replay = Callable[[str, int, int], AsyncIterator[PersistentRepr]]  # an id, and two numbers, both inclusive


def page_bytes_of(journal: object) -> int:
    """Return from how many bytes on held messages are left in the records where they are; 0: they never are.

    That may be done only where no record of a live id is deleted. A journal says so by its attribute `page_bytes`.
    """
    found = getattr(journal, "page_bytes", 0)
    return found if type(found) is int and found > 0 else 0


async def held_in(
    replay: Replay, persistence_id: str, epoch: int, pages: Sequence[HeldPage]
) -> dict[int, tuple[Held, ...]]:
    """Return what these records of one id hold themselves, by their number; without those that are gone or damaged.

    One read for each page. Raises JournalUnavailableError.
    """
    found: dict[int, tuple[Held, ...]] = {}
    for page in pages:
        try:
            async for message in replay(persistence_id, page.version, page.version):
                if epoch == 0 or message.epoch in (0, epoch):
                    found[page.version] = decode_record(message.payload).held
        except (CodecError, JournalFormatError):  # one that is damaged is as good as gone
            continue
    return found


async def made_whole(journal: Journal, message: PersistentRepr) -> tuple[PersistentRepr, SagaRecord]:
    """Return a record of a journal, decoded and whole; a newer one where what it names has gone meanwhile.

    Raises CodecError where it cannot be read, or what it names is not there although it is still the newest.
    """
    while True:
        record = decode_record(message.payload)
        if not record.held_in:
            return message, record
        try:
            parts = await held_in(journal.replay_messages, message.persistence_id, message.epoch, record.held_in)
            return message, whole(record, parts)
        except CodecError:
            newest = await journal.latest_message(message.persistence_id)
            if newest is None or not newest.payload or is_same(newest, message):
                raise
            message = newest


def is_same(one: PersistentRepr, other: PersistentRepr) -> bool:
    """Say whether two records are the same one of an id."""
    return (one.sequence_nr, one.epoch) == (other.sequence_nr, other.epoch)
