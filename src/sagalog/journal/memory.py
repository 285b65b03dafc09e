"""The journal in memory: the contract in its plainest form. Nothing survives the process."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from itertools import count
from operator import itemgetter
from typing import Self

from msgspec import structs

from ..errors import DefinitionError, InvalidEventError, JournalUnavailableError, SagalogError, SequenceOutOfOrder
from .arguments import checks_arguments
from .checks import check_moment, check_moves, checked, checked_batch, wanted_terms
from .protocol import MAX_SEQUENCE_NR, Finding, MovedDue, PersistentRepr, all_ids


@checks_arguments
class InMemoryJournal:
    """A journal that lives as long as its process. For tests, and for sagas that may be forgotten."""

    sorted_ids = True
    page_bytes = 4096

    def __init__(self) -> None:
        self._records: dict[str, list[PersistentRepr]] = {}
        self._highest: dict[str, int] = {}
        self._epochs: dict[str, int] = {}
        self._due: dict[str, datetime] = {}
        self._terms: dict[str, tuple[str, ...]] = {}  # of live ids that have some
        self._by_term: dict[str, dict[str, None]] = {}
        self._log: list[tuple[int, PersistentRepr]] = []
        self._offsets = count(1)
        self._closed = False

    def __repr__(self) -> str:
        return f"<InMemoryJournal of {len(self._records)} ids{', closed' if self._closed else ''}>"

    @classmethod
    def from_url(cls, rest: str) -> InMemoryJournal:
        """Return a new, empty journal for `memory://`."""
        if rest:
            raise DefinitionError("memory:// takes no path: each journal in memory is new and empty")
        return cls()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise JournalUnavailableError("the journal is closed")

    async def write_messages(self, messages: Sequence[PersistentRepr], *, atomic: bool = False) -> None:
        self._check_open()
        messages = [checked(message) for message in messages]
        losers: list[str] = []
        expected: dict[str, int] = {}
        for message in messages:
            key = message.persistence_id
            if message.sequence_nr != expected.get(key, self._highest.get(key, 0)) + 1 or self._of_another(message):
                losers.append(key)
            expected[key] = message.sequence_nr
        lost = tuple(dict.fromkeys(losers))
        if not (atomic and lost):
            for message in messages:
                if message.persistence_id not in lost:
                    self._store(message)
        if lost:
            raise SequenceOutOfOrder(lost)

    async def write_batch(self, records: Sequence[PersistentRepr]) -> list[SagalogError | None]:
        if self._closed:
            return [JournalUnavailableError("the journal is closed")] * len(records)
        answers: list[SagalogError | None] = []
        highest = self._highest
        for record in checked_batch(records):
            if isinstance(record, InvalidEventError):
                answers.append(record)
                continue
            number = record.sequence_nr
            if number != highest.get(record.persistence_id, 0) + 1 or self._of_another(record):
                answers.append(SequenceOutOfOrder((record.persistence_id,)))
                continue
            self._store(record)
            answers.append(None)
        return answers

    def _of_another(self, message: PersistentRepr) -> bool:
        if not message.epoch:
            return False
        known = self._epochs.get(message.persistence_id, 0)
        return known not in (0, message.epoch)

    def _store(self, message: PersistentRepr) -> None:
        key = message.persistence_id
        epoch = self._epochs.get(key, 0)
        if not epoch and message.epoch:
            epoch = self._epochs[key] = message.epoch
        if message.epoch != epoch:
            message = structs.replace(message, epoch=epoch)
        if message.terms is not None or (message.deleted and key in self._terms):
            self._index(key, () if message.deleted else message.terms or ())
            message = structs.replace(message, terms=None)
        self._records.setdefault(key, []).append(message)
        self._highest[key] = message.sequence_nr
        self._log.append((next(self._offsets), message))
        if message.due_at is None:
            self._due.pop(key, None)
        else:
            self._due[key] = message.due_at

    def _index(self, key: str, terms: tuple[str, ...]) -> None:
        for term in self._terms.pop(key, ()):
            del self._by_term[term][key]
            if not self._by_term[term]:
                del self._by_term[term]
        if terms:
            self._terms[key] = terms
        for term in terms:
            self._by_term.setdefault(term, {})[key] = None

    async def latest_by_terms(
        self, terms: Sequence[str], *, after: str = "", limit: int = 1000
    ) -> tuple[list[PersistentRepr], str]:
        self._check_open()
        wanted = wanted_terms(terms)
        fewest = min((self._by_term.get(term, {}) for term in wanted), key=len)
        keys = sorted(key for key in fewest if key > after and set(wanted) <= set(self._terms[key]))
        found = [self._records[key][-1] for key in keys if self._records[key]]
        return found[:limit], found[limit - 1].persistence_id if len(found) > limit else ""

    async def replay_messages(
        self,
        persistence_id: str,
        from_sequence_nr: int = 1,
        to_sequence_nr: int = MAX_SEQUENCE_NR,
        max: int = MAX_SEQUENCE_NR,
    ) -> AsyncIterator[PersistentRepr]:
        self._check_open()
        for message in list(self._records.get(persistence_id, ())):
            if max <= 0:
                return
            if from_sequence_nr <= message.sequence_nr <= to_sequence_nr:
                max -= 1
                yield message

    async def highest_sequence_nr(self, persistence_id: str, from_sequence_nr: int = 0) -> int:
        self._check_open()
        return self._highest.get(persistence_id, 0)

    async def delete_messages_to(self, persistence_id: str, to_sequence_nr: int) -> None:
        self._check_open()
        records = self._records.get(persistence_id, [])
        gone = {id(r) for r in records if r.sequence_nr <= to_sequence_nr}
        records[:] = [r for r in records if id(r) not in gone]
        self._log = [entry for entry in self._log if id(entry[1]) not in gone]
        if not records:
            self._due.pop(persistence_id, None)

    def all_persistence_ids(self) -> AsyncIterator[str]:
        return all_ids(self, "")

    async def events_by_tag(self, tag: str, offset: int = 0) -> AsyncIterator[tuple[int, PersistentRepr]]:
        self._check_open()
        for number, message in list(self._log):
            if number > offset and tag in message.tags:
                yield number, message

    async def latest_message(self, persistence_id: str) -> PersistentRepr | None:
        self._check_open()
        records = self._records.get(persistence_id)
        return records[-1] if records else None

    async def latest_messages(self, persistence_ids: Sequence[str]) -> list[PersistentRepr | None]:
        self._check_open()
        found = [self._records.get(persistence_id) for persistence_id in persistence_ids]
        return [records[-1] if records else None for records in found]

    async def ids_by_prefix(
        self, prefix: str, *, after: str = "", limit: int = 1000, deleted: bool = False
    ) -> list[str]:
        found = await self.latest_by_prefix(prefix, after=after, limit=limit, deleted=deleted)
        return [message.persistence_id for message in found]

    async def latest_by_prefix(
        self, prefix: str, *, after: str = "", limit: int = 1000, deleted: bool | None = False
    ) -> list[PersistentRepr]:
        self._check_open()
        found = sorted(
            key
            for key, records in self._records.items()
            if records and deleted in (None, records[-1].deleted) and key.startswith(prefix) and key > after
        )
        return [self._records[key][-1] for key in found[:limit]]

    async def newest_offset(self) -> int:
        self._check_open()
        return self._log[-1][0] if self._log else 0

    async def records_after(self, offset: int, *, limit: int = 1000) -> tuple[list[PersistentRepr], int]:
        self._check_open()
        found = self._log[bisect_right(self._log, offset, key=itemgetter(0)) :][:limit]
        return [message for _, message in found], found[-1][0] if found else offset

    async def due_ids(self, prefix: str, before: datetime, *, limit: int = 1000) -> list[tuple[str, datetime]]:
        self._check_open()
        found = [(at, key) for key, at in self._due.items() if at <= before and key.startswith(prefix)]
        return [(key, at) for at, key in sorted(found)[:limit]]

    async def claim_due(
        self, prefix: str, before: datetime, until: datetime, *, limit: int = 1000
    ) -> list[tuple[str, datetime]]:
        check_moment(until, "until")
        found = await self.due_ids(prefix, before, limit=limit)
        self._due.update((persistence_id, until) for persistence_id, _ in found)
        return found

    async def move_due(self, moves: Sequence[MovedDue]) -> list[bool]:
        self._check_open()
        check_moves(moves)
        answers = []
        for persistence_id, sequence_nr, due_at in moves:
            records = self._records.get(persistence_id)
            moved = bool(records) and records is not None and records[-1].sequence_nr == sequence_nr
            answers.append(moved)
            if moved and due_at is not None:
                self._due[persistence_id] = due_at
            elif moved:
                self._due.pop(persistence_id, None)
        return answers

    async def purge(self, tombstones: Sequence[tuple[str, int]]) -> None:
        self._check_open()
        gone = set()
        for persistence_id, sequence_nr in tombstones:
            records = self._records.get(persistence_id)
            if records and records[-1].deleted and records[-1].sequence_nr == sequence_nr:
                gone.add(persistence_id)
        for persistence_id in gone:
            del self._records[persistence_id], self._highest[persistence_id]
            self._epochs.pop(persistence_id, None)
            self._due.pop(persistence_id, None)
            self._index(persistence_id, ())
        if gone:
            self._log = [entry for entry in self._log if entry[1].persistence_id not in gone]

    async def examine(self) -> list[Finding]:
        return [
            Finding(
                "durable",
                "fail",
                "in memory: nothing survives the process",
                "use a file or a server, e.g. sqlite:///orders.db",
            )
        ]

    async def open(self) -> None:
        """Nothing: there is nothing to connect to."""

    async def close(self) -> None:
        self._closed = True
