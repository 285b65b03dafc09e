"""Numbers begin anew where an instance was purged: what is left of the forgotten lives never reaches the new ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sagalog import (
    CommandRefused,
    Complete,
    InMemoryJournal,
    Journal,
    JournalSagaStateStore,
    ManualClock,
    RunnerSettings,
    Saga,
    SagaRecord,
    SagaRunner,
    Send,
    on,
    open_journal,
    starts,
)
from sagalog.decision.record import decode_record

from .conftest import Gate

KEY = "saga::errand::a"


@dataclass
class Opened:
    id: str


@dataclass
class Done:
    """Answers a command."""

    id: str


@dataclass
class Closed:
    id: str


@dataclass
class Booked:
    """Answers a command, to another saga."""

    book: str


@dataclass
class Do:
    id: str


@dataclass
class Log:
    log: list[str] = field(default_factory=list)


class Errand(Saga[Log]):
    name = "errand"
    commands = 1

    @starts(Opened, key="id")
    def opened(self, state: Log, event: Opened) -> Any:
        state.log.append("opened")
        return [Send(Do(event.id)) for _ in range(self.commands)]

    @on(Done, key="id")
    def done(self, state: Log, event: Done) -> None:
        state.log.append("done")

    @on(Closed, key="id")
    def closed(self, state: Log, event: Closed) -> Any:
        return Complete()


class Book(Saga[Log]):
    name = "book"

    @starts(Booked, key="book")
    def booked(self, state: Log, event: Booked) -> None:
        state.log.append("booked")


@pytest.fixture(params=["memory", "sqlite"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Journal:
    return InMemoryJournal() if request.param == "memory" else open_journal(f"sqlite:///{tmp_path / 'j.db'}")


async def stored(journal: Journal) -> SagaRecord:
    saved = await JournalSagaStateStore(journal, "errand").load_with_tombstone("a")
    assert saved is not None
    return decode_record(saved.payload)


class Workers:
    """One worker that falls asleep with a command in hand, and another that continues without it."""

    def __init__(self, journal: Journal, at_work: Callable[[Do], Any]) -> None:
        self.journal = journal
        self.clock = ManualClock(datetime(2030, 1, 1, tzinfo=UTC))
        self.carries_out = asyncio.Event()  # the other one
        self.carries_out.set()
        gate = Gate(JournalSagaStateStore(journal, "errand"))
        gate.deaf = True
        self.asleep = self._runner(gate, at_work)
        self.other = self._runner(journal, self._carry_out)

    def _runner(self, source: Any, dispatch: Callable[[Do], Any]) -> SagaRunner:
        settings = RunnerSettings(
            lease=timedelta(minutes=10),
            due_poll=timedelta(milliseconds=20),
            stop_timeout=timedelta(milliseconds=500),
        )
        return SagaRunner(source, sagas=[Errand], dispatch=dispatch, clock=self.clock, settings=settings)

    async def _carry_out(self, command: Do) -> None:
        await self.carries_out.wait()

    async def begin_anew(self) -> None:
        """Let the other one take over, end the life, and begin a new one after a purge; its command is not carried out."""
        self.clock.advance(timedelta(seconds=1200))
        while self.other.counters.commands < Errand.commands:
            await asyncio.sleep(0.01)
        await self.other.handle(Closed("a"))
        newest = await self.journal.latest_message(KEY)
        assert newest is not None
        assert newest.deleted
        await self.journal.purge([(KEY, newest.sequence_nr)])
        self.carries_out.clear()
        self.clock.advance(timedelta(seconds=1))
        await self.other.handle(Opened("a"))
        assert (await stored(self.journal)).outbox[0].id == "1/0"


async def test_that_a_command_was_accepted_in_a_forgotten_life_says_nothing_of_the_new_one(journal: Journal) -> None:
    workers = Workers(journal, lambda _: None)
    async with workers.asleep as asleep, workers.other:
        await asleep.handle(Opened("a"))  # accepted, and not recorded yet
        await workers.begin_anew()
        await asleep.handle(Done("a"))  # it reads what is stored now
        assert [entry.id for entry in (await stored(journal)).outbox] == ["1/0"]
        workers.carries_out.set()
        await workers.other.settle()
    await journal.close()


@pytest.mark.parametrize("how", ["an answer", "a refusal", "nothing"])
@pytest.mark.parametrize("reads", ["before", "after"])
@pytest.mark.parametrize("commands", [1, 2])
async def test_how_a_command_of_a_forgotten_life_ends_does_not_reach_the_new_one(
    journal: Journal, how: str, reads: str, commands: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Errand, "commands", commands)
    begun, ends = asyncio.Event(), asyncio.Event()

    async def at_work(command: Do) -> Any:
        begun.set()
        await ends.wait()
        if how == "a refusal":
            raise CommandRefused("no")
        return Done("a") if how == "an answer" else None

    workers = Workers(journal, at_work)
    async with workers.other, workers.asleep as asleep:
        await asleep.handle(Opened("a"))
        await begun.wait()
        await workers.begin_anew()
        if reads == "before":
            await asleep.handle(Done("a"))
        ends.set()
        await asleep.settle()
        if reads == "after":
            await asleep.handle(Done("a"))
        record = await stored(journal)
        assert [entry.id for entry in record.outbox] == ["1/0", "1/1"][:commands]
        assert not record.parked
        assert bytes(record.state) == b'{"log":["opened","done"]}'
        workers.carries_out.set()
        await workers.other.settle()
    await journal.close()


async def test_what_a_new_life_is_answered_is_no_duplicate_of_what_a_forgotten_one_was(journal: Journal) -> None:
    clock = ManualClock(datetime(2030, 1, 1, tzinfo=UTC))
    runner = SagaRunner(journal, sagas=[Errand, Book], dispatch=lambda _: Booked("b"), clock=clock)
    async with runner:
        for _ in range(2):
            await runner.handle(Opened("a"))
            await runner.settle()
            await runner.handle(Closed("a"))
            await runner.settle()
            newest = await journal.latest_message(KEY)
            assert newest is not None
            await journal.purge([(KEY, newest.sequence_nr)])
            clock.advance(timedelta(seconds=1))
        assert (await runner.state(Book, "b")).log == ["booked", "booked"]
    await journal.close()
