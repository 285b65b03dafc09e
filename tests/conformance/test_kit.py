"""The conformance kit finds what is wrong: each bug that is planted into the memory journal fails a test of the kit."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec
import pytest

from sagalog import InMemoryJournal, PersistentRepr, SagalogError
from sagalog.errors import (
    InvalidEventError,
    JournalUnavailableError,
    OutcomeUnknownError,
    PayloadTooLargeError,
    SequenceOutOfOrder,
)
from sagalog.journal.protocol import MovedDue

Answers = list[SagalogError | None]


class ALostRecordIsToldStored(InMemoryJournal):
    async def write_batch(self, records: Sequence[PersistentRepr]) -> Answers:
        return [None if isinstance(one, SequenceOutOfOrder) else one for one in await super().write_batch(records)]


class AnInvalidRecordLosesItsBatch(InMemoryJournal):
    async def write_batch(self, records: Sequence[PersistentRepr]) -> Answers:
        before = await InMemoryJournal().write_batch(records)
        if any(isinstance(one, InvalidEventError) for one in before):
            return [InvalidEventError("one of them is invalid")] * len(records)
        return await super().write_batch(records)


class ATooLargeRecordIsToldSoAndStored(InMemoryJournal):
    async def write_batch(self, records: Sequence[PersistentRepr]) -> Answers:
        answers = await super().write_batch(records)
        large = [len(one.payload) > 2_000_000 for one in records]
        return [
            PayloadTooLargeError("a record", 3_000_000, 2_000_000) if big else answer
            for big, answer in zip(large, answers, strict=True)
        ]


class ALostRecordLosesItsBatch(InMemoryJournal):
    async def write_batch(self, records: Sequence[PersistentRepr]) -> Answers:
        try:
            await self.write_messages(records, atomic=True)
        except SequenceOutOfOrder as error:
            return [error] * len(records)
        except InvalidEventError:
            return await super().write_batch(records)
        return [None] * len(records)


class AnswersAreSorted(InMemoryJournal):
    async def write_batch(self, records: Sequence[PersistentRepr]) -> Answers:
        return sorted(await super().write_batch(records), key=lambda one: one is not None)


class AStoredRecordIsToldLost(InMemoryJournal):
    async def write_batch(self, records: Sequence[PersistentRepr]) -> Answers:
        answers = await super().write_batch(records)
        return [SequenceOutOfOrder((one.persistence_id,)) for one in records] if len(records) > 999 else answers


class AnIdMayComeTwiceInABatch(InMemoryJournal):
    async def write_batch(self, records: Sequence[PersistentRepr]) -> Answers:
        return [(await InMemoryJournal.write_batch(self, [one]))[0] for one in records]


class ABatchRaisesWhenClosed(InMemoryJournal):
    async def write_batch(self, records: Sequence[PersistentRepr]) -> Answers:
        self._check_open()
        return await super().write_batch(records)


class TheNewestComeInOrderOfTheirIds(InMemoryJournal):
    async def latest_messages(self, persistence_ids: Sequence[str]) -> list[PersistentRepr | None]:
        return await super().latest_messages(sorted(persistence_ids))


class TheUnknownAreLeftOut(InMemoryJournal):
    async def latest_messages(self, persistence_ids: Sequence[str]) -> list[PersistentRepr | None]:
        return [one for one in await super().latest_messages(persistence_ids) if one is not None]


class EpochsAreIgnored(InMemoryJournal):
    def _of_another(self, message: PersistentRepr) -> bool:
        return False


class ASingleReadLosesTheEpoch(InMemoryJournal):
    async def latest_message(self, persistence_id: str) -> PersistentRepr | None:
        found = await super().latest_message(persistence_id)
        return found and msgspec.structs.replace(found, epoch=0)


class PurgeRemembersTheEpoch(InMemoryJournal):
    async def purge(self, tombstones: Sequence[tuple[str, int]]) -> None:
        before = dict(self._epochs)
        await super().purge(tombstones)
        self._epochs = before


class DeletionForgetsTheEpoch(InMemoryJournal):
    async def delete_messages_to(self, persistence_id: str, to_sequence_nr: int) -> None:
        await super().delete_messages_to(persistence_id, to_sequence_nr)
        if not self._records.get(persistence_id):
            self._epochs.pop(persistence_id, None)


class MovesWhateverTheNumber(InMemoryJournal):
    async def move_due(self, moves: Sequence[MovedDue]) -> list[bool]:
        newest = [await self.highest_sequence_nr(one.persistence_id) for one in moves]
        return await super().move_due(
            [one._replace(sequence_nr=number) for one, number in zip(moves, newest, strict=True)]
        )


class MovesNothingAndSaysItDid(InMemoryJournal):
    async def move_due(self, moves: Sequence[MovedDue]) -> list[bool]:
        before = dict(self._due)
        answers = await super().move_due(moves)
        self._due = before
        return answers


class NeverIsNotMovedTo(InMemoryJournal):
    async def move_due(self, moves: Sequence[MovedDue]) -> list[bool]:
        before = dict(self._due)
        answers = await super().move_due(moves)
        self._due.update(
            {
                one.persistence_id: before[one.persistence_id]
                for one in moves
                if one.due_at is None and one.persistence_id in before
            }
        )
        return answers


class ARecordDoesNotEndAMove(InMemoryJournal):
    def __init__(self) -> None:
        super().__init__()
        self._moved: dict[str, datetime] = {}

    async def move_due(self, moves: Sequence[MovedDue]) -> list[bool]:
        answers = await super().move_due(moves)
        self._moved.update({one.persistence_id: one.due_at for one in moves if one.due_at})
        return answers

    def _store(self, message: PersistentRepr) -> None:
        super()._store(message)
        if message.persistence_id in self._moved:
            self._due[message.persistence_id] = self._moved[message.persistence_id]


class PurgesWhateverTheNumber(InMemoryJournal):
    async def purge(self, tombstones: Sequence[tuple[str, int]]) -> None:
        await super().purge([(key, await self.highest_sequence_nr(key)) for key, _ in tombstones])


class PurgesOnlyTheFirst(InMemoryJournal):
    async def purge(self, tombstones: Sequence[tuple[str, int]]) -> None:
        await super().purge(tombstones[:1])


class TheHighestIsCountedFromTheBound(InMemoryJournal):
    async def highest_sequence_nr(self, persistence_id: str, from_sequence_nr: int = 0) -> int:
        return from_sequence_nr or await super().highest_sequence_nr(persistence_id)


class Breakable(InMemoryJournal):
    """A memory journal with a way to lose a batch on its way there or back; it tells what it cannot know as unknown."""

    lost = ""

    async def write_batch(self, records: Sequence[PersistentRepr]) -> Answers:
        lost, self.lost = self.lost, ""
        if lost != "request":
            answers = await super().write_batch(records)
        return [OutcomeUnknownError("it may be stored")] * len(records) if lost else answers


class AnUnknownIsToldNotStored(Breakable):
    async def write_batch(self, records: Sequence[PersistentRepr]) -> Answers:
        answers = await super().write_batch(records)
        return [JournalUnavailableError("x") if isinstance(one, OutcomeUnknownError) else one for one in answers]


class AnUnknownIsToldStored(Breakable):
    async def write_batch(self, records: Sequence[PersistentRepr]) -> Answers:
        answers = await super().write_batch(records)
        return [None if isinstance(one, OutcomeUnknownError) else one for one in answers]


class ABreakRaises(Breakable):
    async def write_batch(self, records: Sequence[PersistentRepr]) -> Answers:
        answers = await super().write_batch(records)
        if any(isinstance(one, OutcomeUnknownError) for one in answers):
            raise OutcomeUnknownError("it may be stored")
        return answers


BUGS = [
    one
    for one in vars().copy().values()
    if isinstance(one, type) and issubclass(one, InMemoryJournal) and one not in (InMemoryJournal, Breakable)
]

SUITE = """
from contextlib import asynccontextmanager
import pytest
from sagalog.conformance import Capability, JournalConformance
from tests.conformance.test_kit import {bug} as Planted

class TestPlanted(JournalConformance):
    capabilities = {{Capability.ATOMIC, Capability.ORDERED, Capability.TAGS{more}}}
    made = {{}}

    @classmethod
    def make(cls, place):
        return cls.made.setdefault(place, Planted())

    @asynccontextmanager
    async def breakable(self, place):
        broken = self.make(place)
        yield broken, lambda what: setattr(broken, "lost", what)
"""


async def fails(bug: type[InMemoryJournal], folder: Path) -> list[str]:
    """Run the kit in a process of its own, and return which of its tests failed."""
    more = ", Capability.BREAKABLE" if issubclass(bug, Breakable) else ""
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_planted.py").write_text(SUITE.format(bug=bug.__name__, more=more))
    arguments = ["-m", "pytest", "-q", "--tb=no", "-rf", "-p", "no:cacheprovider"]
    root = Path(__file__).parents[2]
    run = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        "-k",
        "not dict_would_do",
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{root}:{root / 'src'}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = (await run.communicate())[0].decode()
    assert " passed" in said, said
    return [line.partition("::TestPlanted::")[2] for line in said.splitlines() if line.startswith("FAILED")]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
async def test_the_kit_finds_it(bug: type[InMemoryJournal], tmp_path: Path) -> None:
    assert await fails(bug, tmp_path)


async def test_the_kit_finds_nothing_in_a_journal_that_breaks_and_says_so(tmp_path: Path) -> None:
    assert await fails(Breakable, tmp_path) == []
