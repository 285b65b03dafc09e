"""The saga store over a journal, which keeps each record under the persistence id that `decision.ids` makes."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from datetime import datetime
from functools import partial
from typing import Any
from uuid import uuid4

from ..decision.ids import prefix_of, tag_of
from ..errors import ConflictError, DefinitionError, InvalidEventError, JournalUnavailableError, SequenceOutOfOrder
from ..waiting import Attempts, Waiting
from . import Journal, PersistentRepr
from .checks import check_text
from .memory import InMemoryJournal
from .pages import Replay
from .protocol import WritesInTransactions, all_ids
from .state_store import SavedState

Terms = tuple[str, ...] | None  # of PersistentRepr
STATE_MANIFEST = "saga-state"
TOMBSTONE_MANIFEST = "saga-tombstone"
_HELD = Waiting(attempts=15, first=0.002, most=0.25)  # behind one number
_CONTENDED = Waiting(first=0.0002, most=0.01, seconds=60.0)  # one of many writers wins each time


def _ALL() -> float:  # noqa: N802
    return 1.0  # no chance in it, so that a simulated run can be repeated


def new_epoch() -> int:
    """Return an epoch for an id that nothing is known of: nobody who knew it before a purge takes the next one for it."""
    return int.from_bytes(os.urandom(8)) >> 1 or 1


class JournalSagaStateStore:
    """The saga store over a journal: one record a save, one lookup a load. Remembers tombstones, finds due instances."""

    def __init__(self, journal: Journal, saga_name: str) -> None:
        if isinstance(journal, type) or not hasattr(journal, "write_messages"):
            given = f"the class {journal.__name__}" if isinstance(journal, type) else type(journal).__name__
            raise DefinitionError(f"journal= must be a journal, not {given}")
        if not isinstance(saga_name, str):
            raise DefinitionError(f"saga_name must be a str, not {type(saga_name).__name__}")
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", saga_name):
            raise DefinitionError(f"a saga's name may have letters, digits, '_', '.' and '-', not {saga_name!r}")
        self._journal = journal
        self.saga_name = saga_name
        self.prefix: str = prefix_of(saga_name)
        self.writer_uuid: str = f"saga-{uuid4()}"
        self._tags = (tag_of(saga_name),)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.saga_name!r} over {self._journal!r}>"

    @staticmethod
    def _check_version(expected_version: int | None) -> None:
        if expected_version is not None and (type(expected_version) is not int or expected_version < 0):
            raise InvalidEventError(
                f"expected_version must be a whole number from 0, or None, not {expected_version!r:.40}; nothing was stored"
            )

    def _id_of(self, correlation_id: str) -> str:
        """Return the persistence id. Raises InvalidEventError for what is no id."""
        if type(correlation_id) is not str or not correlation_id.isascii():  # mostly, it is
            check_text(correlation_id)
        if not correlation_id:
            raise InvalidEventError("a correlation id must be a string that is not empty; nothing was stored")
        return self.prefix + correlation_id

    async def load(self, correlation_id: str) -> SavedState | None:
        found = await self.load_with_tombstone(correlation_id)
        return None if found is None or found.tombstone else found

    async def load_with_tombstone(self, correlation_id: str) -> SavedState | None:
        latest = await self._journal.latest_message(self._id_of(correlation_id))
        return None if latest is None else saved_of(latest)

    async def save(
        self,
        correlation_id: str,
        payload: bytes,
        *,
        expected_version: int | None = None,
        due_at: datetime | None = None,
        epoch: int = 0,
        terms: Terms = None,
    ) -> int:
        return await self._write(
            correlation_id, expected_version, payload, due_at, deleted=False, epoch=epoch, terms=terms
        )

    async def create(
        self,
        correlation_id: str,
        payload: bytes,
        *,
        due_at: datetime | None = None,
        epoch: int = 0,
        terms: Terms = None,
    ) -> int:
        return await self._write_next(correlation_id, 0, payload, due_at, deleted=False, epoch=epoch, terms=terms)

    async def delete(
        self, correlation_id: str, *, expected_version: int | None = None, tombstone: bytes | None = None
    ) -> None:
        self._check_version(expected_version)
        persistence_id = self._id_of(correlation_id)
        pauses = _Pauses(persistence_id)
        while True:
            # What is live, and the number that it has, come from one read: between two of them others write.
            latest = await self._journal.latest_message(persistence_id)
            if latest is None or latest.deleted:
                if expected_version:
                    raise ConflictError(persistence_id, expected_version)
                return
            number = latest.sequence_nr
            if expected_version not in (None, number):
                raise ConflictError(persistence_id, expected_version)
            try:
                await self._write_next(correlation_id, number, tombstone or b"", None, deleted=True, epoch=latest.epoch)
                return
            except ConflictError:
                if expected_version is not None:
                    raise
            await pauses.after(number)

    async def delete_until(
        self,
        correlation_id: str,
        *,
        expected_version: int | None,
        tombstone: bytes | None,
        purge_at: datetime,
        epoch: int = 0,
    ) -> int:
        if expected_version == 0:  # nothing may be stored: a tombstone knows ids that this step has not looked for
            return await self._write_next(correlation_id, 0, tombstone or b"", purge_at, deleted=True, epoch=epoch)
        return await self._write(
            correlation_id, expected_version, tombstone or b"", purge_at, deleted=True, epoch=epoch
        )

    async def _write(
        self,
        correlation_id: str,
        expected: int | None,
        payload: bytes,
        due_at: datetime | None,
        *,
        deleted: bool,
        epoch: int = 0,
        terms: Terms = None,
    ) -> int:
        """Write behind whatever there is (None), behind a tombstone or nothing (0), or behind that very version."""
        self._check_version(expected)
        if expected:
            return await self._write_next(
                correlation_id, expected, payload, due_at, deleted=deleted, epoch=epoch, terms=terms
            )
        persistence_id = self._id_of(correlation_id)
        pauses = _Pauses(persistence_id)
        number, epoch = 0, 0
        if expected is None:
            number = await self._journal.highest_sequence_nr(persistence_id)
        while True:
            try:
                return await self._write_next(
                    correlation_id, number, payload, due_at, deleted=deleted, epoch=epoch, terms=terms
                )
            except ConflictError:
                pass
            await pauses.after(number)
            if expected is None:
                number = await self._journal.highest_sequence_nr(persistence_id)
            else:
                number, epoch = await self._behind_nothing_live(persistence_id)

    async def _behind_nothing_live(self, persistence_id: str) -> tuple[int, int]:
        """Return the number and epoch to write behind if nothing live exists; raise ConflictError if something does.

        The numbers go on behind a tombstone, and behind records that were deleted. The number is read before it is seen
        that nothing is live, never after: a record of another creator that comes in between has a higher one, so that the
        write behind ours is refused.
        """
        highest = await self._journal.highest_sequence_nr(persistence_id)
        latest = await self._journal.latest_message(persistence_id)
        if latest is None:
            return highest, 0
        if not latest.deleted:
            raise ConflictError(persistence_id, 0)
        return latest.sequence_nr, latest.epoch

    async def _write_next(
        self,
        correlation_id: str,
        version: int,
        payload: bytes,
        due_at: datetime | None,
        *,
        deleted: bool,
        epoch: int = 0,
        terms: Terms = None,
    ) -> int:
        message = self.repr_of(correlation_id, version + 1, payload, due_at, deleted=deleted, epoch=epoch, terms=terms)
        try:
            await self._journal.write_messages((message,))
        except SequenceOutOfOrder:
            raise ConflictError(message.persistence_id, version) from None
        return version + 1

    def repr_of(
        self,
        correlation_id: str,
        number: int,
        payload: bytes,
        due_at: datetime | None,
        *,
        deleted: bool,
        epoch: int = 0,
        terms: Terms = None,
    ) -> PersistentRepr:
        """Return the record that keeps a state (with `deleted` a tombstone) under that number."""
        if number == 1:
            epoch = epoch or new_epoch()
        return PersistentRepr(
            self._id_of(correlation_id),
            number,
            payload,
            TOMBSTONE_MANIFEST if deleted else STATE_MANIFEST,
            self.writer_uuid,
            deleted,
            self._tags,
            due_at,
            epoch,
            terms,
        )

    async def keys(self) -> AsyncIterator[str]:
        async for key in self._pages(deleted=False):
            yield key

    async def tombstones(self) -> AsyncIterator[str]:
        """Yield the ids of remembered finished instances."""
        async for key in self._pages(deleted=True):
            yield key

    async def _pages(self, *, deleted: bool) -> AsyncIterator[str]:
        async for persistence_id in all_ids(self._journal, self.prefix, deleted=deleted):
            yield persistence_id[len(self.prefix) :]

    async def due(self, before: datetime, *, limit: int = 1000) -> list[tuple[str, datetime]]:
        found = await self._journal.due_ids(self.prefix, before, limit=limit)
        return [(persistence_id[len(self.prefix) :], at) for persistence_id, at in found]

    async def claim(self, before: datetime, until: datetime, *, limit: int = 1000) -> list[tuple[str, datetime]]:
        found = await self._journal.claim_due(self.prefix, before, until, limit=limit)
        return [(persistence_id[len(self.prefix) :], at) for persistence_id, at in found]

    @property
    def journal(self) -> Journal:
        """The journal that it keeps its records in."""
        return self._journal

    @property
    def writes_in_transactions(self) -> bool:
        """The journal can write within the caller's own transaction."""
        return isinstance(self._journal, WritesInTransactions)

    def replaying(self, connection: Any = None) -> Replay:
        """Return what reads the records of an id; with a connection, as the transaction open on it sees them."""
        if connection is None:
            return self._journal.replay_messages
        assert isinstance(self._journal, WritesInTransactions)
        return partial(self._journal.replay_in_transaction, connection)

    async def load_in_transaction(self, connection: Any, correlation_id: str) -> SavedState | None:
        """Return what is stored, a tombstone included, as the transaction open on `connection` sees it."""
        assert isinstance(self._journal, WritesInTransactions)
        latest = await self._journal.latest_in_transaction(connection, self._id_of(correlation_id))
        return None if latest is None else saved_of(latest)

    async def save_in_transaction(
        self,
        connection: Any,
        correlation_id: str,
        payload: bytes,
        *,
        expected_version: int,
        due_at: datetime | None,
        deleted: bool,
        epoch: int = 0,
        terms: Terms = None,
    ) -> int:
        """Save, or leave a tombstone, within that transaction; durable when it commits. Raises ConflictError."""
        assert isinstance(self._journal, WritesInTransactions)
        message = self.repr_of(
            correlation_id, expected_version + 1, payload, due_at, deleted=deleted, epoch=epoch, terms=terms
        )
        try:
            await self._journal.write_in_transaction(connection, message)
        except SequenceOutOfOrder:
            raise ConflictError(message.persistence_id, expected_version) from None
        return message.sequence_nr

    async def purge(self, correlation_id: str, version: int) -> None:
        await self._journal.purge([(self._id_of(correlation_id), version)])

    async def history(self, correlation_id: str) -> AsyncIterator[SavedState]:
        """Yield the records that are kept, oldest first, the tombstone last."""
        async for message in self._journal.replay_messages(self._id_of(correlation_id)):
            yield saved_of(message)


def saved_of(message: PersistentRepr) -> SavedState:
    """Return what a store tells of a journal's record."""
    return SavedState(message.payload, message.sequence_nr, message.deleted, message.epoch)


class _Pauses:
    """Waits between attempts to write behind the newest number, and ends them.

    Where that number stays the newest, nobody else's success is the reason: a journal may count a row as lost that
    somebody's open transaction holds. Where it moves on, others write all the time.
    """

    def __init__(self, persistence_id: str) -> None:
        self._persistence_id = persistence_id
        self._number = -1
        self._held = Attempts(_HELD, chance=_ALL)
        self._contended = Attempts(_CONTENDED, chance=_ALL)

    async def after(self, number: int) -> None:
        """Wait. Raises JournalUnavailableError when it is enough."""
        if self._number == -1:
            self._number = number
            return  # what was expected at first, without a look
        if number == self._number:
            again, why = await self._held.wait(), "is held by somebody's open transaction"
        else:
            self._held.reset()
            self._number = number
            again, why = await self._contended.wait(), "is being written by others all the time"
        if not again:
            raise JournalUnavailableError(f"{self._persistence_id!r} {why}; nothing was stored")


class InMemorySagaStateStore(JournalSagaStateStore):
    """A store that lives as long as its process."""

    def __init__(self, saga_name: str = "saga") -> None:
        super().__init__(InMemoryJournal(), saga_name)
