"""The conformance kit finds what is wrong: each bug that is planted into the memory journal fails a test of the kit."""

from __future__ import annotations

import os
import subprocess
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

PREAMBLE = """
from contextlib import asynccontextmanager
from sagalog.conformance import Capability, JournalConformance
from tests.conformance import test_kit

class Planted(JournalConformance):
    capabilities = {Capability.ATOMIC, Capability.ORDERED, Capability.TAGS}
    made = {}

    @classmethod
    def make(cls, place):
        return cls.made.setdefault(place, cls.journal_class())

    @asynccontextmanager
    async def breakable(self, place):
        broken = self.make(place)
        yield broken, lambda what: setattr(broken, "lost", what)
"""
SUITE = """
class Test{name}(Planted):
    capabilities = Planted.capabilities | {{Capability.BREAKABLE}} if {breakable} else Planted.capabilities
    journal_class = test_kit.{name}
"""
ABOUT = (
    "batch or too_large or epoch or moved or purge or lower_bound or closed_journal or looked_up or among_the_newest"
)


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What fails when the kit is run over all of them, in one process of its own: Test<class>::<test>."""
    folder = tmp_path_factory.mktemp("kit")
    (folder / "pytest.ini").write_text("[pytest]\n")
    suites = [SUITE.format(name=one.__name__, breakable=issubclass(one, Breakable)) for one in (*BUGS, Breakable)]
    (folder / "test_planted.py").write_text(PREAMBLE + "".join(suites))
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [
            sys.executable,
            *("-m", "pytest", "-q", "--tb=no", "--assert=plain", "-rf", "-p", "no:cacheprovider", "-k", ABOUT),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{root}:{root / 'src'}"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert " passed" in run.stdout, run.stdout
    return [line.partition("::")[2] for line in run.stdout.splitlines() if line.startswith("FAILED")]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_the_kit_finds_a_planted_bug(bug: type[InMemoryJournal], failed: list[str]) -> None:
    assert any(one.startswith(f"Test{bug.__name__}::") for one in failed)


def test_the_kit_finds_nothing_in_a_journal_that_breaks_and_says_so(failed: list[str]) -> None:
    assert not any(one.startswith("TestBreakable::") for one in failed)
