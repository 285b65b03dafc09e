"""What a journal is: records by persistence id and sequence number, and the promises every backend keeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, Protocol, Self, runtime_checkable

import msgspec

from ..errors import SagalogError, SequenceOutOfOrder

MAX_SEQUENCE_NR = 2**63 - 1
# Moments that every journal can store, and that stay within the years 1 to 9999 in any time zone, with a lease added.
FIRST_MOMENT = datetime(1, 1, 3, tzinfo=UTC)
LAST_MOMENT = datetime(9999, 12, 29, tzinfo=UTC)
MAX_TERM_BYTES = 1024
MAX_TERMS = 32  # of one id
MAX_ID_BYTES = 1024  # of a persistence id in UTF-8, so that an id that one journal takes is taken by all
_IDS_AT_ONCE = 10_000  # a journal may have to list all of them for each page


class PersistentRepr(msgspec.Struct, frozen=True):
    """One record. A record with `deleted` ends the life of its id: the id is no longer live, its payload is the tombstone.

    `due_at` (aware) says when the id next needs attention; only that of the latest record counts.

    `epoch` names the unbroken run of numbers that a record belongs to: it is stored with the first record of an id that
    nothing is known of, and stays that of the id until it is purged. A later write that states one (not 0) is out of
    order where another is stored, so that a writer that slept through a purge is never taken for the next one
    although its number is. Journals give it back with every record that they read.

    `terms` are texts by which the id is to be found while its newest record is live (FindsByTerms): these, and no others;
    None: the same as before. A tombstone has none. Journals that find nothing by terms pass over them, and none gives them
    back.
    """

    persistence_id: str
    sequence_nr: int
    payload: bytes
    manifest: str = ""
    writer_uuid: str = ""
    deleted: bool = False
    tags: tuple[str, ...] = ()
    due_at: datetime | None = None
    epoch: int = 0  # 0 to 2**63 - 1
    terms: tuple[str, ...] | None = None  # of at most MAX_TERM_BYTES each in UTF-8, without NUL

    def __repr__(self) -> str:  # without what it holds
        end = ", deleted" if self.deleted else ""
        due = "" if self.due_at is None else f", due at {self.due_at}"
        return f"<PersistentRepr {self.persistence_id!r} {self.sequence_nr}, {len(self.payload):,} bytes{end}{due}>"


class MovedDue(NamedTuple):
    """A request to let an id be due at another time (None: never), if its newest record still has that number."""

    persistence_id: str
    sequence_nr: int
    due_at: datetime | None


@runtime_checkable
class Journal(Protocol):
    """An append-only record store with compare-and-set by sequence number. Meanings follow Apache Pekko's journals.

    Every call may raise JournalUnavailableError (nothing stored, retry) and, when writing, OutcomeUnknownError. A journal
    that lists ids by their code points says so with an attribute `sorted_ids = True`: readers may then skip. One that keeps
    every record of a live id says so with `page_bytes = 4096`: from so many bytes on, the messages that a parked instance
    holds are not written again with each record, but read from the records before. One that keeps at least so many records
    of a live id before its newest says so with `kept_records = 100`: then they are written again once for each hundred.
    """

    async def write_messages(self, messages: Sequence[PersistentRepr], *, atomic: bool = False) -> None:
        """Store the records; durable on return.

        Numbers of an id start at 1 and have no gaps, also across deletions. Records of one id in one call stand or
        fall together. Raises SequenceOutOfOrder naming the ids of which nothing was stored; the other ids of the call
        are stored, unless `atomic` asks for all or nothing.
        """

    async def write_batch(self, records: Sequence[PersistentRepr]) -> Sequence[SagalogError | None]:
        """Store each record by itself, those that can be in as few transactions as possible; the engine's write.

        Returns what became of each, in the order given. None: it is stored, and durable. The ids are distinct: where
        one comes again, its second record and those after it are answered with InvalidEventError, and not stored.
        ConflictError: its number is not the next one, or its epoch is not the stored one; JournalUnavailableError,
        PayloadTooLargeError, InvalidEventError: certainly not stored. OutcomeUnknownError: it may be stored. Where the
        connection breaks in the middle of a batch, only those whose fate is open are unknown. Raises nothing of all
        this; a caller that is cancelled meanwhile knows nothing of any of them.
        """

    def replay_messages(
        self,
        persistence_id: str,
        from_sequence_nr: int = 1,
        to_sequence_nr: int = MAX_SEQUENCE_NR,
        max: int = MAX_SEQUENCE_NR,
    ) -> AsyncIterator[PersistentRepr]:
        """Yield the records that are kept, in order; both bounds inclusive; none for a reversed range or max=0."""

    async def highest_sequence_nr(self, persistence_id: str, from_sequence_nr: int = 0) -> int:
        """Return the highest number ever written, also if deleted; 0 for an unknown id.

        `from_sequence_nr` is a hint that the number is not below it, for a journal that can search less by it.
        """

    async def delete_messages_to(self, persistence_id: str, to_sequence_nr: int) -> None:
        """Hide the records up to and including that number for good. The highest number is remembered."""

    def all_persistence_ids(self) -> AsyncIterator[str]:
        """Yield every live id once, paged inside, also while others write."""

    def events_by_tag(self, tag: str, offset: int = 0) -> AsyncIterator[tuple[int, PersistentRepr]]:
        """Yield (offset, record) in write order, of records with `tag` whose offset is greater than `offset`."""

    async def latest_message(self, persistence_id: str) -> PersistentRepr | None:
        """Return the newest record in one lookup, also a tombstone (`deleted`); None if nothing is kept."""

    async def latest_messages(self, persistence_ids: Sequence[str]) -> Sequence[PersistentRepr | None]:
        """Return what `latest_message` would for each id, in the order given, in one lookup."""

    async def ids_by_prefix(
        self, prefix: str, *, after: str = "", limit: int = 1000, deleted: bool = False
    ) -> list[str]:
        """Return up to `limit` live ids (with `deleted` the tombstones) that start so and come after `after`.

        The order is the journal's own, and does not change: a page holds what the pages before it did not.
        """

    async def due_ids(self, prefix: str, before: datetime, *, limit: int = 1000) -> list[tuple[str, datetime]]:
        """Return up to `limit` ids that are due at `before` or earlier, earliest first, tombstones included."""

    async def claim_due(
        self, prefix: str, before: datetime, until: datetime, *, limit: int = 1000
    ) -> list[tuple[str, datetime]]:
        """Return what `due_ids` would, and let it be due again at `until` only, unless a record is written first.

        So workers that ask at the same time get different ids, and what a worker claims and leaves comes up again.
        Raises InvalidEventError for an `until` that some journal cannot carry; nothing was claimed.
        """

    async def move_due(self, moves: Sequence[MovedDue]) -> Sequence[bool]:
        """Let ids be due at another moment, without a record; say of each, in the order given, whether it was moved.

        One whose newest record is another by now is left as it is. So a lease is prolonged at the price of one number.
        Raises InvalidEventError for a moment that some journal cannot carry; nothing was moved.
        """

    async def purge(self, tombstones: Sequence[tuple[str, int]]) -> None:
        """Forget ids altogether, records and numbers: of each (id, number) whose newest kept record is that tombstone."""

    async def open(self) -> None:
        """Connect and check what is there, where the constructor did not. The runner calls it.

        Calling it again has no effect. Raises JournalUnavailableError, JournalFormatError.
        """

    async def close(self) -> None:
        """Finish what waits and release everything. Calls afterwards raise JournalUnavailableError."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None:
        """Close."""


@runtime_checkable
class WritesInTransactions(Protocol):
    """A journal whose records can be written within the caller's own transaction, on a connection of its driver.

    A runner gives it a `CallersConnection`: its `driver` is the driver's own connection, under whatever the caller has.
    """

    async def write_in_transaction(self, connection: Any, message: PersistentRepr) -> None:
        """Store a record when the transaction that is open on `connection` commits, and not before.

        Raises SequenceOutOfOrder, which leaves that transaction usable.
        """

    async def latest_in_transaction(self, connection: Any, persistence_id: str) -> PersistentRepr | None:
        """Return the newest record as that transaction sees it, its own writes included."""

    def replay_in_transaction(
        self, connection: Any, persistence_id: str, from_sequence_nr: int, to_sequence_nr: int
    ) -> AsyncIterator[PersistentRepr]:
        """Yield what `replay_messages` would, as that transaction sees it."""


@runtime_checkable
class FindsInTransactions(Protocol):
    """A journal with an index of terms that can be searched within the caller's own transaction."""

    async def ids_in_transaction(
        self, connection: Any, term: str, *, after: str = "", limit: int = 1000
    ) -> tuple[list[str], str]:
        """Return live ids with a term as that transaction sees it, its own writes included, and the place to go on from."""


@runtime_checkable
class WaitsForWriters(Protocol):
    """A journal where a transaction may seem to have ended, to another thread, before what it wrote can be read."""

    async def after_writers(self) -> None:
        """Return when every transaction that was being committed has ended."""


class HeldError(SequenceOutOfOrder):
    """A transaction that is open holds a record up, whose number is the next still; nothing of it was stored."""


@runtime_checkable
class TellsHeld(Protocol):
    """A journal whose writes do not wait for a transaction of somebody else: they lose, and it may end without a record."""

    async def held(self, records: Sequence[PersistentRepr]) -> list[bool]:
        """Say of each record that lost whether its number is the next one still, as far as is committed."""


@runtime_checkable
class TellsTime(Protocol):
    """A journal on a server whose clock all workers can agree on."""

    async def server_time(self) -> datetime:
        """Return the server's time now, aware."""


async def server_now(journal: Journal) -> datetime:
    """Return the time of the journal's server, or of this machine where it has none."""
    return await journal.server_time() if isinstance(journal, TellsTime) else datetime.now(UTC)


@runtime_checkable
class ListsLatest(Protocol):
    """A journal that returns the newest records of many ids in one call."""

    async def latest_by_prefix(
        self, prefix: str, *, after: str = "", limit: int = 1000, deleted: bool | None = False
    ) -> list[PersistentRepr]:
        """Return the newest record of each id that `ids_by_prefix` would return, in its order; None: live or not."""


@runtime_checkable
class Followable(Protocol):
    """A journal whose new records, of whatever id, can be read without looking at the old ones."""

    async def newest_offset(self) -> int:
        """Return an offset such that every record that is written from now on comes after it."""

    async def records_after(self, offset: int, *, limit: int = 1000) -> tuple[list[PersistentRepr], int]:
        """Return some `limit` records behind `offset`, in write order, and the offset to go on from.

        A record that was removed meanwhile (by a history setting, a purge) is not among them.
        """


@runtime_checkable
class FindsByTerms(Protocol):
    """A journal that finds live ids by their terms, with an index that is written together with the record."""

    async def latest_by_terms(
        self, terms: Sequence[str], *, after: str = "", limit: int = 1000
    ) -> tuple[list[PersistentRepr], str]:
        """Return up to `limit` newest records of live ids that have all these terms, and the place to go on from.

        The place is the journal's own; empty: there are no more. Pages follow an order that does not change: what has
        the terms all the while comes once. Raises InvalidEventError where no term is given.
        """


async def one_by_one(journal: Any, records: Sequence[PersistentRepr]) -> list[SagalogError | None]:
    """Write the records of a batch each by itself, all at once."""

    async def one(record: PersistentRepr) -> SagalogError | None:
        try:
            await journal.write_messages((record,))
        except SagalogError as error:
            return error
        return None

    return list(await asyncio.gather(*map(one, records)))


async def latest_page(
    journal: Journal, prefix: str, *, after: str = "", limit: int = 1000, deleted: bool = False
) -> list[PersistentRepr]:
    """Return the newest record of each id of a page, in one go where the journal can. Fewer than asked may be the end.

    An id whose record went between two lookups is left out, so that only an empty page is the end for sure.
    """
    if isinstance(journal, ListsLatest):
        return await journal.latest_by_prefix(prefix, after=after, limit=limit, deleted=deleted)
    while ids := await journal.ids_by_prefix(prefix, after=after, limit=limit, deleted=deleted):
        found = [one for one in await asyncio.gather(*map(journal.latest_message, ids)) if one is not None]
        if found:
            return found
        after = ids[-1]
    return []


class Finding(msgspec.Struct, frozen=True):
    """The result of one health check: how it is, and what to do if it is not well."""

    name: str
    level: Literal["ok", "warn", "fail"]
    text: str
    remedy: str = ""


@runtime_checkable
class ExaminesItself(Protocol):
    """A journal that can say how durable its acknowledged writes are, and what it found at the other end."""

    async def examine(self) -> list[Finding]:
        """Look, change nothing, and tell. Raises as any other call where nobody answers."""


class CommitCounts(msgspec.Struct):
    """What a journal has committed since it was opened: transactions with records in them, and how long they took."""

    commits: int = 0
    records: int = 0
    seconds: float = 0.0

    def add(self, records: int, seconds: float) -> None:
        """Count one transaction; by one thread only."""
        self.commits += 1
        self.records += records
        self.seconds += seconds


@runtime_checkable
class CountsCommits(Protocol):
    """A journal that stores what waits together in one transaction (group commit), and counts."""

    commit_counts: CommitCounts


async def all_ids(journal: Journal, prefix: str, *, deleted: bool = False) -> AsyncIterator[str]:
    """Yield every live id (with `deleted` every tombstone) that starts so, page by page."""
    after = ""
    while page := await journal.ids_by_prefix(prefix, after=after, limit=_IDS_AT_ONCE, deleted=deleted):
        for persistence_id in page:
            yield persistence_id
        after = page[-1]


async def all_latest(
    journal: Journal, prefix: str, *, limit: int, deleted: bool = False
) -> AsyncIterator[PersistentRepr]:
    """Yield the newest record of every id that `all_ids` yields; `limit` of them are looked up at a time."""
    if isinstance(journal, ListsLatest):
        after = ""
        while page := await journal.latest_by_prefix(prefix, after=after, limit=limit, deleted=deleted):
            for message in page:
                yield message
            after = page[-1].persistence_id
        return
    async for group in in_groups(all_ids(journal, prefix, deleted=deleted), limit):
        for one in await journal.latest_messages(group):
            if one is not None:
                yield one


async def in_groups(ids: AsyncIterator[str], size: int) -> AsyncIterator[list[str]]:
    """Yield ids so many at a time."""
    group: list[str] = []
    async for one in ids:
        group.append(one)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
