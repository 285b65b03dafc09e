"""Unique keys in a journal: they are reserved before the step that is to hold them, one record for each value.

A journal writes one id at a time. So a step that takes a unique key is two writes: the reservation, then the record of the
instance, each by compare-and-set. What a reservation is worth is said by the record of its holder alone
(decision/reservation.py); here is what is read and written, and in which order.

    reserve    nobody has it, or it is free: written, for that number of that instance
               it is held: KeyTakenError; nothing is written
               it is pending: its holder is given some time, and is then fenced: its newest record is written once more,
               under the number that was reserved for, so that the step on its way is lost, and decided again
    sweep      what is free, and was not touched for a retention, is forgotten
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol, cast

from ..decision.ids import persistence_id, reservation_id, reservations_of
from ..decision.keys import KeyValue
from ..decision.record import decode_record, encode_record
from ..decision.reservation import (
    MANIFEST,
    Reservation,
    Standing,
    decode_reservation,
    encode_reservation,
    key_in,
    standing,
)
from ..errors import (
    CodecError,
    ConflictError,
    JournalUnavailableError,
    KeyTakenError,
    OutcomeUnknownError,
    SagalogError,
)
from ..waiting import Attempts, Waiting
from . import Journal, PersistentRepr
from .protocol import LAST_MOMENT, WritesInTransactions, one_by_one
from .store import JournalSagaStateStore, new_epoch, saved_of

_PATIENCE = Waiting(first=0.002, most=0.1, seconds=1.0)  # for a step that may be on its way
_NONE = Waiting(attempts=1)
_CONTENDED = Waiting(first=0.002, most=0.5, seconds=20.0)
_AT_ONCE = 100


def _certain() -> float:
    return 1.0  # no chance in it, so that a simulated run can be repeated


class NotReservedError(JournalUnavailableError):
    """A unique key could be neither reserved nor found to be taken; the step was not stored. Another attempt may do it."""


class ReadsAndWrites(Protocol):
    """What is asked of a journal, or of a transaction within one, to reserve a key."""

    async def latest_message(self, persistence_id: str) -> PersistentRepr | None:
        """See Journal."""

    async def latest_messages(self, persistence_ids: Sequence[str]) -> Sequence[PersistentRepr | None]:
        """See Journal."""

    async def write_batch(self, records: Sequence[PersistentRepr]) -> Sequence[SagalogError | None]:
        """See Journal."""

    async def write_messages(self, messages: Sequence[PersistentRepr], *, atomic: bool = False) -> None:
        """See Journal."""


class _InTransaction:
    """A journal as a transaction of a caller sees it."""

    def __init__(self, journal: WritesInTransactions, connection: Any) -> None:
        self._journal = journal
        self._connection = connection

    async def latest_message(self, persistence_id: str) -> PersistentRepr | None:
        return await self._journal.latest_in_transaction(self._connection, persistence_id)

    async def latest_messages(self, persistence_ids: Sequence[str]) -> Sequence[PersistentRepr | None]:
        return [await self.latest_message(one) for one in persistence_ids]

    async def write_messages(self, messages: Sequence[PersistentRepr], *, atomic: bool = False) -> None:
        for message in messages:
            await self._journal.write_in_transaction(self._connection, message)

    async def write_batch(self, records: Sequence[PersistentRepr]) -> Sequence[SagalogError | None]:
        return await one_by_one(self, records)


class Reservations:
    """The unique keys of one saga. `now` and `clock`: the time of day, and seconds that only go forward."""

    def __init__(
        self,
        journal: ReadsAndWrites,
        saga: str,
        now: Callable[[], datetime],
        clock: Callable[[], float],
        retention: timedelta,
        *,
        patience: Waiting | None = None,
    ) -> None:
        self._journal = journal
        self._saga = saga
        self._now = now
        self._clock = clock
        self._retention = retention
        self._store = JournalSagaStateStore(journal, saga)  # type: ignore[arg-type]  # it only writes here
        self._patience = patience

    def within(self, connection: Any) -> Reservations:
        """Return these as a transaction of a caller sees and changes them, together with the step that it writes.

        A step on its way is fenced at once: nobody is to be waited for while that transaction is open.
        """
        journal: Any = self._journal
        inside = _InTransaction(journal, connection)
        return Reservations(inside, self._saga, self._now, self._clock, self._retention, patience=_NONE)

    async def reserve(self, holder: str, version: int, epoch: int, keys: Sequence[KeyValue]) -> None:
        """Reserve keys for the step of `holder` that is to be written under that number; durable on return.

        Raises KeyTakenError where another live instance holds one, NotReservedError where that could not be found out.
        """
        wanted = Reservation(holder, version, self._now(), epoch if version > 1 else 0)
        missing = list(keys)
        contended = Attempts(_CONTENDED, clock=self._clock, chance=_certain)
        patience = Attempts(self._patience or _PATIENCE, clock=self._clock, chance=_certain)
        try:
            if len(missing) == 1 and await self._written(missing[0], wanted, None):  # mostly, nobody had it
                return
            while True:
                newest = await self._journal.latest_messages([self._id(key) for key in missing])
                standings = [
                    await self._standing(key, found, wanted) for key, found in zip(missing, newest, strict=True)
                ]
                free = [
                    (key, found)
                    for key, found, one in zip(missing, newest, standings, strict=True)
                    if one is Standing.FREE
                ]
                written = [key for key, found in free if await self._written(key, wanted, found)]
                missing = [
                    key for key, one in zip(missing, standings, strict=True) if one is not None and key not in written
                ]
                if not missing:
                    return
                if Standing.PENDING in standings:
                    if await patience.wait():
                        continue
                    for found, one in zip(newest, standings, strict=True):
                        if one is Standing.PENDING and found is not None:
                            await self._fence(decode_reservation(found.payload))
                if not await contended.wait():
                    raise NotReservedError(
                        f"saga {self._saga!r}, id {holder!r}: others keep trying to take its unique key; nothing was "
                        "stored"
                    )
        except (JournalUnavailableError, OutcomeUnknownError, ConflictError) as error:
            if isinstance(error, NotReservedError):
                raise
            raise NotReservedError(
                f"saga {self._saga!r}, id {holder!r}: the journal did not answer while a unique key was being "
                "reserved; the step was not stored"
            ) from error

    async def check(self, holder: str, version: int, keys: Sequence[KeyValue]) -> None:
        """Raise KeyTakenError where another live instance holds one of these; nothing is written."""
        wanted = Reservation(holder, version, self._now())
        newest = await self._journal.latest_messages([self._id(key) for key in keys])
        for key, found in zip(keys, newest, strict=True):
            await self._standing(key, found, wanted)

    async def holder_of(self, key: KeyValue) -> str | None:
        """Return the instance that may hold a key; whether it does, its own record says."""
        found = await self._journal.latest_message(self._id(key))
        if found is None or found.deleted:
            return None
        return decode_reservation(found.payload).holder

    async def _standing(self, key: KeyValue, found: PersistentRepr | None, wanted: Reservation) -> Standing | None:
        """Return what a reservation is worth to who wants it; None: it is reserved already, or the step is lost anyhow."""
        if found is None or found.deleted:
            return Standing.FREE
        try:
            reserved = decode_reservation(found.payload)
        except CodecError as error:
            raise KeyTakenError(self._saga, wanted.holder, key[0], "", str(error)) from error
        newest = None
        own = reserved.holder == wanted.holder
        if not own or reserved.epoch != wanted.epoch:
            newest = await self._journal.latest_message(persistence_id(self._saga, reserved.holder))
        if own:
            return Standing.FREE if _outdated(reserved, wanted, newest) else None
        worth = standing(reserved, key, None if newest is None else (newest.payload, newest.sequence_nr, newest.epoch))
        if worth is Standing.HELD:
            raise KeyTakenError(self._saga, wanted.holder, key[0], reserved.holder)
        return worth

    async def _written(self, key: KeyValue, wanted: Reservation, found: PersistentRepr | None) -> bool:
        """Write a reservation behind what was found; say whether it is stored, as far as is known."""
        number, epoch = (1, new_epoch()) if found is None else (found.sequence_nr + 1, found.epoch)
        record = self._record(key, number, epoch, encode_reservation(wanted), due_at=self._later())
        (answer,) = await self._journal.write_batch([record])
        if answer is not None and not isinstance(answer, (ConflictError, OutcomeUnknownError)):
            raise answer
        return answer is None

    def _record(
        self, key: KeyValue, number: int, epoch: int, payload: bytes, *, due_at: datetime | None, deleted: bool = False
    ) -> PersistentRepr:
        writer = self._store.writer_uuid
        return PersistentRepr(self._id(key), number, payload, MANIFEST, writer, deleted, due_at=due_at, epoch=epoch)

    def _later(self) -> datetime:
        return min(self._now(), LAST_MOMENT - self._retention) + self._retention

    def _id(self, key: KeyValue) -> str:
        return reservation_id(self._saga, *key)

    async def _fence(self, reserved: Reservation) -> None:
        """Write the newest record of a holder once more, so that a step on its way comes too late; if it does not move on.

        A holder of which nothing is stored gets an empty tombstone. Losing a race has no effect: another look will tell.
        """
        newest = await self._journal.latest_message(persistence_id(self._saga, reserved.holder))
        try:
            if newest is None:
                await self._store.delete_until(
                    reserved.holder, expected_version=0, tombstone=None, purge_at=self._later()
                )
                return
            saved = saved_of(newest)
            payload = saved.payload
            if payload:
                record = decode_record(payload)
                record.handled = ()  # it does nothing
                payload = encode_record(record)
            again = self._store.repr_of(
                reserved.holder, saved.version + 1, payload, newest.due_at, deleted=saved.tombstone, epoch=saved.epoch
            )
            await self._journal.write_messages([again])
        except (ConflictError, OutcomeUnknownError):
            pass

    async def sweep(self) -> int:
        """Forget reservations that are worth nothing and were not touched for a retention; return how many.

        Some at a time; one that another worker looks at is left to it.
        """
        now, prefix = self._now(), reservations_of(self._saga)
        journal = cast(Journal, self._journal)
        claimed = await journal.claim_due(prefix, now, self._later(), limit=_AT_ONCE)
        ids = [one for one, _ in claimed]
        swept = 0
        for found in await self._journal.latest_messages(ids) if ids else ():
            if found is not None and await self.forget(found):
                swept += 1
        return swept

    async def worth(self, found: PersistentRepr) -> Standing:
        """Return what a stored reservation is worth: held, also where this code cannot read it."""
        key = key_in(self._saga, found.persistence_id)
        if key is None:
            return Standing.HELD
        if found.deleted:
            return Standing.FREE
        try:
            reserved = decode_reservation(found.payload)
        except CodecError:
            return Standing.HELD
        newest = await self._journal.latest_message(persistence_id(self._saga, reserved.holder))
        return standing(reserved, key, None if newest is None else (newest.payload, newest.sequence_nr, newest.epoch))

    async def forget(self, found: PersistentRepr) -> bool:
        """Forget a reservation, if it is worth nothing; say whether it is forgotten.

        A step that it was made for must have had its time: if it may still be on its way, it is fenced.
        """
        key = key_in(self._saga, found.persistence_id)
        worth = await self.worth(found)
        if worth is Standing.PENDING:
            await self._fence(decode_reservation(found.payload))
            worth = await self.worth(found)
        if worth is not Standing.FREE or key is None:
            return False
        number = found.sequence_nr
        if not found.deleted:
            number += 1
            gone = self._record(key, number, found.epoch, b"", due_at=self._now(), deleted=True)
            (answer,) = await self._journal.write_batch([gone])
            if isinstance(answer, SagalogError):
                return False
        await cast(Journal, self._journal).purge([(found.persistence_id, number)])
        return True


def _outdated(reserved: Reservation, wanted: Reservation, newest: PersistentRepr | None) -> bool:
    """Say whether a reservation of the same instance is to be replaced by that for another step of it.

    Only forwards: another worker may be about to write the step that is reserved for, and this one may be late. `newest`:
    the newest record of the instance, where the epochs differ.
    """
    if reserved.epoch == wanted.epoch:
        return reserved.version < wanted.version
    if newest is None:
        return wanted.version == 1
    return wanted.version > 1 and newest.epoch == wanted.epoch
