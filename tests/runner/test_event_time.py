"""Event time: the same log gives the same history, whatever the speed, the kills and the number of runs."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from sagalog import (
    Action,
    CommandRefused,
    Compensate,
    Complete,
    EventClock,
    Incoming,
    InMemoryJournal,
    Journal,
    RetryPolicy,
    RunnerSettings,
    RunnerStoppedError,
    Saga,
    SagaRunner,
    Send,
    SetTimer,
    StepContext,
    on,
    open_journal,
    starts,
)
from sagalog.decision.record import decode_record

START = datetime(2030, 1, 1, tzinfo=UTC)


@dataclass
class Placed:
    id: str


@dataclass
class Noted:
    id: str
    text: str


@dataclass
class Reserved:
    id: str


@dataclass
class Overdue:
    id: str


@dataclass
class Cancelled:
    id: str


@dataclass
class Closed:
    id: str


@dataclass
class Reserve:
    id: str


@dataclass
class Release:
    id: str


@dataclass
class Note:
    id: str
    text: str


@dataclass
class Remind:
    id: str
    number: int


@dataclass
class Reminded:
    id: str
    number: int


@dataclass
class Silence:
    id: str


@dataclass
class Story:
    told: list[str] = field(default_factory=list)


class Order(Saga[Story]):
    name = "order"

    def tell(self, state: Story, what: str, context: StepContext) -> None:
        state.told.append(f"{what} {context.now.isoformat()}")

    @starts(Placed, key="id")
    def placed(self, state: Story, event: Placed, context: StepContext) -> Any:
        self.tell(state, "placed", context)
        yield Send(Reserve(event.id), undo=Release(event.id))
        yield SetTimer("late", Overdue(event.id), after=timedelta(hours=5))

    @on(Reserved, key="id")
    def reserved(self, state: Story, event: Reserved, context: StepContext) -> None:
        self.tell(state, "reserved", context)

    @on(Noted, key="id")
    def noted(self, state: Story, event: Noted, context: StepContext) -> Any:
        self.tell(state, f"noted {event.text}", context)
        return Send(Note(event.id, event.text))

    @on(Overdue, key="id")
    def overdue(self, state: Story, event: Overdue, context: StepContext) -> Any:
        self.tell(state, "overdue", context)
        return [
            Send(Remind(event.id, len(state.told))),
            SetTimer("late", Overdue(event.id), after=timedelta(hours=7)),
            SetTimer("later", Silence(event.id), after=timedelta(hours=len(state.told) % 3)),
        ]

    @on(Reminded, key="id")
    def reminded(self, state: Story, event: Reminded, context: StepContext) -> Any:
        self.tell(state, f"reminded of {event.number}", context)
        return Send(Note(event.id, "x" if event.number % 5 == 4 else f"reminded {event.number}"))

    @on(Silence, key="id")
    def silence(self, state: Story, event: Silence, context: StepContext) -> Any:
        self.tell(state, "silence", context)
        return [Send(Note(event.id, "silence")), Compensate()] if len(state.told) > 20 else None

    @on(Cancelled, key="id")
    def cancelled(self, state: Story, event: Cancelled, context: StepContext) -> Any:
        self.tell(state, "cancelled", context)
        return Compensate()

    @on(Closed, key="id")
    def closed(self, state: Story, event: Closed, context: StepContext) -> Any:
        self.tell(state, "closed", context)
        return Complete()


class Dying(InMemoryJournal):
    """Answers nothing more after so many writes: to the run that uses it this is its death."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 10**9
        self.died = asyncio.Event()

    async def write_batch(self, records: Any) -> Any:
        if self.left <= 0:
            self.died.set()
            await asyncio.Event().wait()
        self.left -= 1
        return await super().write_batch(records)


Line = tuple[str, datetime, Any]


def log_of(chance: random.Random, orders: int) -> list[Line]:
    lines: list[tuple[datetime, Any]] = []
    for number in range(orders):
        key, at = f"o{number}", START + timedelta(minutes=chance.randrange(600))
        if chance.random() < 0.5:
            lines.append((at - timedelta(minutes=5), Noted(key, "too early")))
        lines.append((at, Placed(key)))
        for step in range(chance.randrange(6)):
            at += timedelta(minutes=chance.choice([0, 1, 50, 300, 900]))
            lines.append(
                (at, chance.choice([Noted(key, str(step)), Noted(key, "x"), Placed(key), Cancelled(key), Closed(key)]))
            )
        if chance.random() < 0.5:
            lines.append((at + timedelta(days=30), Placed(key)))
    lines.sort(key=lambda line: line[0])
    return [(f"m{number}", at, event) for number, (at, event) in enumerate(lines)]


def runner_of(journal: Journal, chance: random.Random) -> SagaRunner:
    async def dispatch(command: Any) -> Any:
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        if isinstance(command, Note) and command.text == "x":
            raise CommandRefused("no")
        if isinstance(command, Remind):
            return Reminded(command.id, command.number)
        return Reserved(command.id) if isinstance(command, Reserve) else None

    return SagaRunner(
        journal,
        sagas=[Order],
        dispatch=dispatch,
        clock=EventClock(),
        settings=RunnerSettings(
            lease=timedelta(milliseconds=20),
            retention=timedelta(days=1),
            stop_timeout=timedelta(0),
            max_in_flight=chance.choice([1, 7, 500]),
        ),
    )


async def run(journal: Journal, log: list[Line], chance: random.Random) -> None:
    async with runner_of(journal, chance) as runner:
        await runner.handle_many([Incoming(event, message_id, at) for message_id, at, event in log])
        await runner.settle()


async def history(journal: Journal) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    ids = [one async for one in journal.all_persistence_ids()]
    ids += await journal.ids_by_prefix("saga::", deleted=True)
    for persistence_id in sorted(set(ids)):
        latest = await journal.latest_message(persistence_id)
        assert latest is not None
        record = decode_record(latest.payload)
        sent: list[str] = []
        async for one in journal.replay_messages(persistence_id):
            before = decode_record(one.payload)
            sent += [
                f"{c.command.type} {bytes(c.command.data)!r}"
                for c in before.outbox
                if c.id.startswith(f"{one.sequence_nr}/")
            ]
        found[persistence_id] = [record.status, bytes(record.state), record.incarnation, sorted(record.timers), sent]
    return found


class Soon(Saga[Story]):
    name = "soon"

    @starts(Placed, key="id")
    def placed(self, state: Story, event: Placed) -> list[Action]:
        return [Send(Reserve(event.id)), SetTimer("late", Overdue(event.id), after=timedelta(seconds=1))]

    @on(Overdue, key="id")
    def late(self, state: Story, event: Overdue) -> None:
        state.told.append("late")


@pytest.mark.parametrize("fed_again", [True, False])
async def test_a_command_that_waited_for_its_next_attempt_is_delivered_by_the_next_run(fed_again: bool) -> None:
    journal, tried = InMemoryJournal(), asyncio.Event()

    def runner(receiver: Any, start: datetime | None = None) -> SagaRunner:
        hour = timedelta(hours=1)
        settings = RunnerSettings(stop_timeout=timedelta(0), dispatch_retry=RetryPolicy(base=hour, cap=hour))
        return SagaRunner(journal, sagas=[Soon], dispatch=receiver, clock=EventClock(start), settings=settings)

    async def away(command: Any) -> None:
        tried.set()
        raise ConnectionError

    async with runner(away) as first:
        waiting = asyncio.create_task(first.handle(Placed("a"), message_id="m", at=START))
        await tried.wait()
        for _ in range(50):  # what is written because of that is written
            await asyncio.sleep(0)
    with suppress(RunnerStoppedError):
        await waiting
    seen: list[Any] = []
    async with runner(seen.append, None if fed_again else START + timedelta(seconds=1)) as second:
        async with asyncio.timeout(30):
            if fed_again:
                await second.handle(Placed("a"), message_id="m", at=START)
            await second.settle()
    assert seen == [Reserve("a")]


async def test_a_run_that_is_killed_at_any_write_leaves_nothing_that_the_next_one_does_not_find() -> None:
    log = log_of(random.Random(3), 3)
    whole = InMemoryJournal()
    await run(whole, log, random.Random(1))
    expected = await history(whole)
    for writes in count(1):
        journal = Dying()
        journal.left = writes
        running = asyncio.create_task(run(journal, log, random.Random(1)))
        dying = asyncio.create_task(journal.died.wait())
        await asyncio.wait([running, dying], return_when=asyncio.FIRST_COMPLETED)
        survived = running.done()
        for task in (running, dying):
            task.cancel()
        await asyncio.gather(running, dying, return_exceptions=True)
        journal.left = 10**9
        await run(journal, log, random.Random(1))
        assert await history(journal) == expected, f"killed at write {writes}"
        if survived:
            break
    assert writes > 20


@pytest.mark.parametrize("seed", range(25))
async def test_a_log_that_is_cut_killed_and_fed_again_gives_the_same_history(seed: int) -> None:
    chance = random.Random(seed)
    log = log_of(chance, 8)
    whole = InMemoryJournal()
    await run(whole, log, random.Random(1))
    expected = await history(whole)

    journal = Dying()
    for _ in range(6):
        journal.left, journal.died = chance.randrange(1, 40), asyncio.Event()
        part = log[: chance.randrange(1, len(log) + 1)]
        running = asyncio.create_task(run(journal, part, chance))
        dying = asyncio.create_task(journal.died.wait())
        await asyncio.wait([running, dying], return_when=asyncio.FIRST_COMPLETED)
        for task in (running, dying):
            task.cancel()
        await asyncio.gather(running, dying, return_exceptions=True)
    journal.left = 10**9
    for _ in range(2):
        await run(journal, log, chance)
    assert await history(journal) == expected


async def test_a_second_run_over_a_file_changes_nothing(tmp_path: Path) -> None:
    chance = random.Random(3)
    log = log_of(chance, 20)
    async with open_journal(f"sqlite:///{tmp_path}/a.db") as journal:
        await run(journal, log, chance)
        first = await history(journal)
        numbers = {key: await journal.highest_sequence_nr(key) for key in first}
        await run(journal, log, chance)
        assert await history(journal) == first
        assert {key: await journal.highest_sequence_nr(key) for key in first} == numbers


async def test_a_log_that_ends_before_1970_fires_no_timer_behind_its_end() -> None:
    at = datetime(1890, 1, 1, tzinfo=UTC)
    async with runner_of(InMemoryJournal(), random.Random(1)) as runner:
        await runner.handle(Placed("o"), message_id="m0", at=at)
        await runner.handle(Noted("o", "end"), message_id="m1", at=at + timedelta(hours=10))
        await runner.settle()
        told = (await runner.state(Order, "o")).told
    assert told[-1] == "noted end 1890-01-01T10:00:00+00:00"
    assert "overdue 1890-01-01T05:00:00+00:00" in told


@pytest.mark.parametrize("seed", [1, 5])  # one event at work at a time, or many
async def test_a_line_without_a_time_comes_at_that_of_the_lines_before_it(seed: int, tmp_path: Path) -> None:
    lines = [
        Incoming(Placed("o"), "m0", START),
        Incoming(Noted("o", "without"), "m1"),
        Incoming(Noted("o", "with"), "m2", START + timedelta(hours=1)),
    ]
    async with open_journal(f"sqlite:///{tmp_path}/a.db") as journal:
        for _ in range(2):
            async with runner_of(journal, random.Random(seed)) as runner:
                await runner.handle_many(lines)
                await runner.settle()
                told = (await runner.state(Order, "o")).told
            assert [line for line in told if line.startswith("noted")] == [
                "noted without 2030-01-01T00:00:00+00:00",
                "noted with 2030-01-01T01:00:00+00:00",
            ]
