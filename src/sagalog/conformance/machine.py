"""Any sequence of calls to a journal does what a dict would do. Needs hypothesis, which is imported only here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import uuid4

import msgspec
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from ..errors import ConflictError, SequenceOutOfOrder
from ..journal.protocol import Journal, MovedDue, PersistentRepr, all_ids

T = TypeVar("T")

_NOW = datetime(2030, 1, 1, tzinfo=UTC)
_NAMES = st.sampled_from(["a", "b", "a::b", "é.*>", "z" * 200])
_NUMBERS = st.integers(0, 8)
_DUE = st.none() | st.integers(0, 30)
_WRONG = st.sampled_from([0, 0, 0, 0, -1, 1])  # mostly the right number
_EPOCH = st.sampled_from([0, 0, 1, 1, 1, 2])  # none stated, mostly the right one, another
_ENTRY = st.tuples(_NAMES, _WRONG, st.booleans(), _DUE, _EPOCH)
Entry = tuple[str, int, bool, int | None, int]


def _moment(seconds: int | None) -> datetime | None:
    return None if seconds is None else _NOW + timedelta(seconds=seconds)


class JournalMachine(RuleBasedStateMachine):
    """Calls a journal, and a model of it: the kept records, highest number, epoch and due moment of each id.

    Its ids have a prefix that no other run has, so that many runs may share one place.
    """

    def __init__(self, make: Callable[[], Journal], *, atomic: bool, ordered: bool, reopens: bool) -> None:
        super().__init__()
        self._make = make
        self.atomic = atomic
        self._ordered = ordered
        self.reopens = reopens
        self._runner = asyncio.Runner()
        self._prefix = f"machine::{uuid4().hex}::"
        self._kept: dict[str, list[PersistentRepr]] = {}
        self._highest: dict[str, int] = {}
        self._epochs: dict[str, int] = {}
        self._purges = 0  # each run of numbers has an epoch that no other has
        self._due: dict[str, datetime] = {}
        self._journal = make()
        self._run(self._journal.open())

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(call)

    def teardown(self) -> None:
        """Close what is open."""
        self._run(self._journal.close())
        self._runner.close()

    @rule(entries=st.lists(_ENTRY, min_size=1, max_size=4), all_or_nothing=st.booleans())
    def write(self, entries: Sequence[Entry], all_or_nothing: bool) -> None:
        """Write records of one or several ids in one call, some with a number or an epoch that is not theirs."""
        atomic = all_or_nothing and self.atomic
        following: dict[str, int] = {}
        records: list[PersistentRepr] = []
        losers: dict[str, None] = {}
        for entry in entries:
            key = self._prefix + entry[0]
            record, wins = self._record(entry, following.get(key, self._highest.get(key, 0)) + 1)
            if not wins:
                losers[key] = None
            following[key] = record.sequence_nr
            records.append(record)
        lost: tuple[str, ...] = ()
        try:
            self._run(self._journal.write_messages(records, atomic=atomic))
        except SequenceOutOfOrder as error:
            lost = error.losers
        if atomic and losers:  # the first that is found is enough to refuse it
            assert lost
            assert set(lost) <= set(losers)
            return
        assert sorted(lost) == sorted(losers)
        for record in records:
            if record.persistence_id not in losers:
                self._store(record)

    @rule(entries=st.lists(_ENTRY, max_size=4, unique_by=lambda entry: entry[0]))
    def write_batch(self, entries: Sequence[Entry]) -> None:
        """Write a batch of different ids; each is told for itself."""
        planned = [self._record(entry, self._highest.get(self._prefix + entry[0], 0) + 1) for entry in entries]
        answers = self._run(self._journal.write_batch([record for record, _ in planned]))
        assert len(answers) == len(planned)
        for (record, wins), answer in zip(planned, answers, strict=True):
            if wins:
                assert answer is None
                self._store(record)
            else:
                assert isinstance(answer, ConflictError)

    def _record(self, entry: Entry, number: int) -> tuple[PersistentRepr, bool]:
        """Return the record of an entry, and whether it has the number and the epoch that are next."""
        name, wrong, deleted, due, epoch = entry
        key = self._prefix + name
        known = self._epochs.get(key)
        if known is None or epoch == 1:
            epoch = known or self._purges + 1
        elif epoch == 2:
            epoch = known + 1_000
        payload = f"{name}-{number}".encode()
        record = PersistentRepr(key, number + wrong, payload, "m", "w", deleted, ("red",), _moment(due), epoch)
        return record, not wrong and epoch in (0, known or epoch)

    def _store(self, record: PersistentRepr) -> None:
        key = record.persistence_id
        epoch = self._epochs.setdefault(key, record.epoch)
        self._kept.setdefault(key, []).append(msgspec.structs.replace(record, epoch=epoch))
        self._highest[key] = record.sequence_nr
        self._due.pop(key, None)
        if record.due_at is not None:
            self._due[key] = record.due_at

    @rule(name=_NAMES, to=_NUMBERS)
    def delete_to(self, name: str, to: int) -> None:
        """Hide the records up to a number; the highest is remembered, and what has none left is not due."""
        key = self._prefix + name
        self._run(self._journal.delete_messages_to(key, to))
        self._kept[key] = [record for record in self._kept.get(key, []) if record.sequence_nr > to]
        if not self._kept[key]:
            self._due.pop(key, None)

    @rule(name=_NAMES, back=st.integers(0, 1))
    def purge(self, name: str, back: int) -> None:
        """Forget an id whose newest record is a tombstone of that number; nothing else."""
        key = self._prefix + name
        number = self._highest.get(key, 0) - back
        self._run(self._journal.purge([(key, number)]))
        kept = self._kept.get(key)
        if kept and kept[-1].deleted and kept[-1].sequence_nr == number:
            del self._kept[key], self._highest[key], self._epochs[key]
            self._purges += 1
            self._due.pop(key, None)

    @rule(before=st.integers(0, 40), until=st.integers(1, 30), limit=st.integers(1, 6))
    def claim(self, before: int, until: int, limit: int) -> None:
        """Claim what is due, the earliest first; it is due again later."""
        at, again = _NOW + timedelta(seconds=before), _NOW + timedelta(seconds=before + until)
        found = self._run(self._journal.claim_due(self._prefix, at, again, limit=limit))
        self._agree(found, at, limit)
        self._due.update((key, again) for key, _ in found)

    @rule(moves=st.lists(st.tuples(_NAMES, st.integers(0, 1), _DUE), max_size=3, unique_by=lambda move: move[0]))
    def move_due(self, moves: Sequence[tuple[str, int, int | None]]) -> None:
        """Let ids be due at another moment, where their newest record is still that number."""
        wanted = [
            MovedDue(self._prefix + n, self._highest.get(self._prefix + n, 0) - back, _moment(d))
            for n, back, d in moves
        ]
        answers = self._run(self._journal.move_due(wanted))
        for (key, number, due_at), moved in zip(wanted, answers, strict=True):
            kept = self._kept.get(key)
            assert moved is bool(kept and kept[-1].sequence_nr == number)
            if moved:
                self._due.pop(key, None)
                if due_at is not None:
                    self._due[key] = due_at

    @precondition(lambda self: self.reopens)
    @rule()
    def reopen(self) -> None:
        """Close the journal, and open it again at the same place."""
        self._run(self._journal.close())
        self._journal = self._make()
        self._run(self._journal.open())

    def _agree(self, found: Sequence[tuple[str, datetime]], before: datetime, limit: int) -> None:
        due = sorted((at, key) for key, at in self._due.items() if at <= before)
        assert [at for _, at in found] == [at for at, _ in due][:limit]
        assert {(at, key) for key, at in found} <= set(due)
        assert len({key for key, _ in found}) == len(found)

    @rule(before=st.integers(0, 40), limit=st.integers(1, 6))
    def due(self, before: int, limit: int) -> None:
        """Ask what is due."""
        at = _NOW + timedelta(seconds=before)
        self._agree(self._run(self._journal.due_ids(self._prefix, at, limit=limit)), at, limit)

    @rule(name=_NAMES, first=_NUMBERS, last=_NUMBERS, most=st.integers(0, 4))
    def read(self, name: str, first: int, last: int, most: int) -> None:
        """Replay a part, and ask for the newest record and the highest number."""
        key = self._prefix + name
        kept = self._kept.get(key, [])

        async def replayed() -> list[PersistentRepr]:
            return [record async for record in self._journal.replay_messages(key, first, last, most)]

        assert self._run(replayed()) == [record for record in kept if first <= record.sequence_nr <= last][:most]
        assert self._run(self._journal.latest_message(key)) == (kept[-1] if kept else None)
        newest = self._run(self._journal.latest_messages([key, self._prefix + "nobody", key]))
        assert list(newest) == [kept[-1] if kept else None, None, kept[-1] if kept else None]
        highest = self._highest.get(key, 0)
        assert self._run(self._journal.highest_sequence_nr(key)) == highest
        assert self._run(self._journal.highest_sequence_nr(key, min(first, highest))) == highest

    @rule(limit=st.integers(1, 4), deleted=st.booleans())
    def ids(self, limit: int, deleted: bool) -> None:
        """List the live ids, or the tombstones, in small pages and all at once."""

        async def paged() -> list[str]:
            found: list[str] = []
            while page := await self._journal.ids_by_prefix(
                self._prefix, after=found[-1] if found else "", limit=limit, deleted=deleted
            ):
                assert len(page) <= limit
                found += page
            return found

        async def together() -> list[str]:
            return [key async for key in all_ids(self._journal, self._prefix, deleted=deleted)]

        found = self._run(paged())
        expected = sorted(key for key, kept in self._kept.items() if kept and kept[-1].deleted is deleted)
        assert sorted(found) == expected
        assert self._run(together()) == found
        if self._ordered:
            assert found == expected


def check(
    make: Callable[[], Journal], *, atomic: bool, ordered: bool, reopens: bool, examples: int, steps: int = 25
) -> None:
    """Run so many sequences of calls. Raises what the first one raises that a dict would not, cut to the shortest."""
    run_state_machine_as_test(
        lambda: JournalMachine(make, atomic=atomic, ordered=ordered, reopens=reopens),  # type: ignore[arg-type]
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            print_blob=True,
            phases=(Phase.reuse, Phase.generate, Phase.shrink),  # explaining would trace every line of a driver
            suppress_health_check=list(HealthCheck),
        ),
    )
