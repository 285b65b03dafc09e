"""Many commands of one step, each answered by an event: their answers are stored together, and in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from sagalog import (
    CommandRefused,
    InMemoryJournal,
    JournalUnavailableError,
    RetryPolicy,
    RunnerSettings,
    Saga,
    SagaRecord,
    SagaRunner,
    Send,
    on,
    starts,
)
from sagalog.decision.record import decode_record

from ..testing.parcels import Hand, Packed, ParcelSaga, Shipped, Withdrawn

PATIENT = RunnerSettings(lease=timedelta(seconds=60))  # a busy machine stops a process for longer than the usual 5 s


class Counting(InMemoryJournal):
    """Counts what is written; `refuses` says which write fails."""

    def __init__(self) -> None:
        super().__init__()
        self.written = self.records = 0
        self.refuses: Callable[[SagaRecord], bool] = lambda record: False
        self.seen: list[SagaRecord] = []

    async def write_batch(self, messages: Any, **keywords: Any) -> Any:
        for message in messages:
            record = decode_record(message.payload)
            self.seen.append(record)
            self.written += len(message.payload)
            self.records += 1
            if self.refuses(record):
                raise JournalUnavailableError("away")
        return await super().write_batch(messages, **keywords)


async def packed(journal: Counting, parcels: int, dispatch: Any, **settings: Any) -> SagaRecord:
    """Handle an order of so many parcels to its end, and return its last record."""
    async with SagaRunner(journal, sagas=[ParcelSaga], dispatch=dispatch, **settings) as runner:
        await runner.handle(Packed("p", parcels))
        await runner.settle()
    return journal.seen[-1]


def answers(command: Any) -> Shipped | None:
    return Shipped(command.id, command.number) if isinstance(command, Hand) else None


async def answers_later(command: Any) -> Shipped | None:
    await asyncio.sleep(0)
    return answers(command)


@pytest.mark.parametrize("handler", [answers, answers_later])
async def test_answers_share_records_whatever_their_number(handler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sagalog.runner.answers._BYTES_A_SECOND", 1)  # on a busy machine, too
    few, many = Counting(), Counting()
    for journal, parcels in ((few, 500), (many, 2000)):
        last = await packed(journal, parcels, handler, settings=PATIENT)
        state = ParcelSaga().decode_state(last.state_bytes())
        assert state.shipped == list(range(parcels)), "an answer is missing, or came twice, or out of order"
        assert last.status == "completed"
        assert not last.outbox
    assert many.records < 100
    assert many.written < 20_000_000, "with one record for each answer it was 190 MB"


async def test_a_refusal_comes_after_the_answers_before_it() -> None:
    def refuses_the_fourth(command: Any) -> Any:
        if isinstance(command, Hand) and command.number == 3:
            raise CommandRefused("no")
        return answers(command)

    journal = Counting()
    last = await packed(journal, 6, refuses_the_fourth)
    handled = [one for record in journal.seen for one in record.handled]
    refused = next(number for number, one in enumerate(handled) if one.type == "Hand")
    assert [one.id.rpartition("/")[2] for one in handled[1:refused]] == ["0", "0", "0"], (
        "of three commands, each the first"
    )
    assert last.status == "compensated"


async def test_an_undo_leaves_only_when_the_answers_before_it_are_stored() -> None:
    journal, seen = Counting(), []
    answered, compensating = asyncio.Event(), asyncio.Event()

    async def dispatch(command: Any) -> Any:
        seen.append(command)
        if command == Hand("p", 1):
            answered.set()
            await compensating.wait()
        return answers(command) if command.number == 0 else None

    journal.refuses = lambda record: any(one.type == "Shipped" for one in record.handled)
    hour = RunnerSettings(dispatch_retry=RetryPolicy(base=timedelta(seconds=3600), cap=timedelta(seconds=3600)))
    async with SagaRunner(journal, sagas=[ParcelSaga], dispatch=dispatch, settings=hour) as runner:
        await runner.handle(Packed("p", 3))
        await answered.wait()
        while not any(one.type == "Shipped" for record in journal.seen for one in record.handled):
            await asyncio.sleep(0)
        await runner.handle(Withdrawn("p"))
        compensating.set()
        while runner.counters.commands < 2:  # those without an answer
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
    assert seen == [Hand("p", 0), Hand("p", 1), Hand("p", 2)], "the first may have to be carried out again"
    last = journal.seen[-1]
    assert [bool(entry.undo) for entry in last.outbox] == [False, True, True, True]


async def test_an_answer_that_can_never_be_taken_stops_the_commands_behind_it() -> None:
    called = []

    def says_true(command: Any) -> Any:
        called.append(command.number)
        return True if command.number == 2 else answers(command)

    last = await packed(Counting(), 9, says_true)
    assert called == [0, 1, 2]
    assert last.parked
    assert last.stuck == last.outbox[0].id, "the two before it are accepted"


async def test_answers_on_their_way_are_stored_before_the_runner_stops() -> None:
    journal, begun = Counting(), asyncio.Event()

    async def dispatch(command: Any) -> Any:
        if command.number == 400:
            begun.set()
        return answers(command)

    async with SagaRunner(journal, sagas=[ParcelSaga], dispatch=dispatch) as runner:
        await runner.handle(Packed("p", 800))
        await begun.wait()
    last = journal.seen[-1]
    done = ParcelSaga().decode_state(last.state_bytes()).shipped
    assert len(done) >= 400
    assert len(done) + len(last.outbox) == 800, "what was answered is accepted, the others are still to be delivered"


@dataclass
class Count:
    number: int = 0


class CountingSaga(Saga[Count]):
    name = "counting"

    @starts(Packed, key="id")
    def packed(self, state: Count, event: Packed):
        return Send(Hand(event.id, event.parcels))

    @on(Shipped, key="id")
    def shipped(self, state: Count, event: Shipped) -> None:
        state.number += 1


async def test_answers_that_are_yielded_write_as_much_each_whatever_their_number() -> None:
    async def yields(command: Hand) -> AsyncIterator[Shipped]:
        for number in range(command.number):
            yield Shipped(command.id, number)

    written = []
    for parcels in (200, 800):
        journal = Counting()
        async with SagaRunner(journal, sagas=[CountingSaga], dispatch=yields) as runner:
            await runner.handle(Packed("p", parcels), message_id="first")
            await runner.settle()
        last = journal.seen[-1]
        assert CountingSaga().decode_state(last.state_bytes()).number == parcels
        assert last.inbox == ("first", f"saga::counting::p/1/0/reply/Shipped@{last.first_start}/0-{parcels - 1}")
        written.append(journal.written / parcels)
    assert written[1] < 1.1 * written[0]
