"""A repair ends, whatever the journal does: tried a bounded number of times, with pauses."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from sagalog import ConflictError, InMemoryJournal, OutcomeUnknownError, PersistentRepr, SagaRecord, Status
from sagalog.decision.record import decode_record, encode_record
from sagalog.decision.repair import Repair, cancel, edit
from sagalog.operating.apply import WAITING, apply
from sagalog.waiting import Waiting

NOW = datetime.now(UTC)
FEW = Waiting(attempts=7, first=0.001, most=0.002)
REPAIR = cancel(compensate=False)


class Moves(InMemoryJournal):
    """A journal whose instance has moved on each time a repair would store; or whose answers are lost."""

    def __init__(self, *, answers: bool = True) -> None:
        super().__init__()
        self.tried = 0
        self.answers = answers

    async def write_messages(self, messages: Sequence[PersistentRepr], *, atomic: bool = False) -> None:
        if messages[0].sequence_nr == 1:
            return await super().write_messages(messages, atomic=atomic)
        self.tried += 1
        if not self.answers:
            raise OutcomeUnknownError("no answer")
        latest = await self.latest_message(messages[0].persistence_id)
        assert latest is not None
        moved = msgspec.structs.replace(latest, sequence_nr=latest.sequence_nr + 1)
        await super().write_messages([moved])
        return await super().write_messages(messages, atomic=atomic)


async def running(journal: InMemoryJournal, **more: Any) -> None:
    record = SagaRecord(1, Status.RUNNING, msgspec.Raw(b"{}"), NOW, NOW)
    await journal.write_messages([PersistentRepr("saga::order::a", 1, encode_record(record), **more)])


async def test_a_repair_of_an_instance_that_always_moves_on_gives_up_and_has_stored_nothing() -> None:
    journal = Moves()
    await running(journal)
    with pytest.raises(ConflictError):
        await apply(journal, "order", "a", REPAIR, waiting=FEW)
    assert journal.tried == 7
    latest = await journal.latest_message("saga::order::a")
    assert latest is not None
    assert decode_record(latest.payload).audit == ()


async def test_a_repair_whose_outcome_nobody_tells_gives_up_and_says_that_it_is_unknown() -> None:
    journal = Moves(answers=False)
    await running(journal)
    with pytest.raises(OutcomeUnknownError):
        await apply(journal, "order", "a", REPAIR, waiting=FEW)
    assert journal.tried == 7


async def test_a_repair_that_waits_can_be_cancelled() -> None:
    journal = Moves()
    await running(journal)
    made = asyncio.ensure_future(apply(journal, "order", "a", REPAIR, waiting=Waiting(first=3600.0, most=3600.0)))
    while not journal.tried:
        await asyncio.sleep(0)
    made.cancel()
    with pytest.raises(asyncio.CancelledError):
        await made


def test_without_being_told_a_repair_takes_half_a_minute_at_most() -> None:
    assert WAITING.attempts is not None
    assert WAITING.attempts <= 50
    assert WAITING.seconds is not None
    assert WAITING.seconds <= 30


@pytest.mark.parametrize(
    "made", [REPAIR, edit(b'{"total":2}', state_version=1)], ids=["which ends it", "which does not"]
)
async def test_a_repair_does_not_overwrite_an_instance_that_was_purged_and_began_anew_meanwhile(made: Repair) -> None:
    class Purged(InMemoryJournal):
        again = True

        async def write_messages(self, messages: Sequence[PersistentRepr], *, atomic: bool = False) -> None:
            if messages[0].sequence_nr == 2 and self.again:
                self.again = False
                await super().write_messages([msgspec.structs.replace(messages[0], payload=b"", deleted=True)])
                await self.purge([("saga::order::a", 2)])
                await running(self, epoch=2)
            return await super().write_messages(messages, atomic=atomic)

    journal = Purged()
    await running(journal, epoch=1)
    with pytest.raises(ConflictError):
        await apply(journal, "order", "a", made, expected_version=1)
    latest = await journal.latest_message("saga::order::a")
    assert latest is not None
    assert (latest.sequence_nr, latest.deleted, latest.epoch) == (1, False, 2)
