"""Event time: the same log gives the same history, whatever the speed, the kills and the number of runs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from sagalog import (
    Action,
    CommandContext,
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
    remembered_messages = 8

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
        for step in range(chance.randrange(18)):
            at += timedelta(minutes=chance.choice([0, 0, 0, 0, 0, 0, 1, 50, 300, 900]))
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
        if chance.random() < 0.15:
            raise OSError("away")
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
            dispatch_retry=RetryPolicy(base=timedelta(milliseconds=1), cap=timedelta(milliseconds=2)),
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
    log = log_of(chance, 5)
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


@dataclass
class Ticked:
    id: str


@dataclass
class Stopped:
    id: str


class Meter(Saga[Story]):
    name = "meter"
    remembered_messages = 70

    @starts(Placed, key="id")
    def placed(self, state: Story, event: Placed) -> None:
        state.told.append("placed")

    @on(Ticked, key="id")
    def ticked(self, state: Story, event: Ticked) -> None:
        state.told.append("ticked")

    @on(Stopped, key="id")
    def stopped(self, state: Story, event: Stopped) -> Action:
        state.told.append("stopped")
        return Complete()


def at_one_instant(before: int, at_start: int, later: int, lives: int) -> list[Incoming]:
    """Return a log: ticks before the start, many at its very instant or at a later one, and as many lives at that."""
    number, log = count(), []
    for life in range(lives):
        log += [(Ticked("m"), START)] * (before if life == 0 else 0)
        log += [(Placed("m"), START)] + [(Ticked("m"), START)] * at_start
        if life < lives - 1:
            log += [(Stopped("m"), START)]
    log += [(Ticked("m"), START + timedelta(hours=1))] * later
    return [Incoming(event, f"m-{next(number)}", at) for event, at in log]


@pytest.mark.parametrize(
    "shape", [(0, 0, 100, 1), (0, 100, 0, 1), (100, 3, 0, 1), (0, 60, 60, 1), (0, 100, 5, 3), (0, 60, 100, 2)]
)
async def test_more_events_of_one_instant_than_are_remembered_are_known_all_the_same(
    shape: tuple[int, int, int, int],
) -> None:
    journal, log = InMemoryJournal(), at_one_instant(*shape)
    told: list[list[str]] = []
    for part in (log, log, log[: len(log) // 2], log):
        async with SagaRunner(journal, sagas=[Meter], clock=EventClock()) as runner:
            await runner.handle_many(part)
            told.append((await runner.state(Meter, "m")).told)
    assert told == [told[0]] * 4
    assert told[0].count("ticked") == shape[1] + shape[2]


async def test_what_is_older_than_the_newest_instant_is_not_remembered_for_ever() -> None:
    journal = InMemoryJournal()
    async with SagaRunner(journal, sagas=[Meter], clock=EventClock()) as runner:
        await runner.handle(Placed("m"), message_id="placed", at=START)
        for number in range(300):
            await runner.handle(Ticked("m"), message_id=str(number), at=START + timedelta(minutes=number // 3))
    stored = await journal.latest_message("saga::meter::m")
    assert stored is not None
    assert len(decode_record(stored.payload).inbox) == 70


class Daily(Saga[Story]):
    name = "daily"

    @starts(Placed, key="id")
    def placed(self, state: Story, event: Placed) -> Iterator[Action]:
        yield SetTimer("daily", Overdue(event.id), every=timedelta(days=1), missed="each")

    @on(Overdue, key="id")
    def overdue(self, state: Story, event: Overdue) -> Iterator[Action]:
        state.told.append("overdue")
        yield Send(Remind(event.id, len(state.told)))

    @on(Reminded, key="id")
    def reminded(self, state: Story, event: Reminded) -> None:
        state.told.append("reminded")


@pytest.mark.parametrize("failures", [0, 1, 3])
async def test_what_is_due_at_the_end_of_a_log_waits_for_the_next_attempt_of_what_is_before_it(failures: int) -> None:
    journal, told = InMemoryJournal(), []
    attempts: dict[str, int] = {}

    async def remind(command: Remind, context: CommandContext) -> Reminded:
        attempts[context.id] = attempts.get(context.id, 0) + 1
        if attempts[context.id] <= failures:
            raise OSError("away")
        return Reminded(command.id, command.number)

    settings = RunnerSettings(dispatch_retry=RetryPolicy(base=timedelta(milliseconds=1)))
    for _ in range(2):
        async with SagaRunner(
            journal, sagas=[Daily], dispatch={Remind: remind}, clock=EventClock(), settings=settings
        ) as runner:
            await runner.handle(Placed("a"), message_id="1", at=START)
            await runner.handle(Placed("b"), message_id="2", at=START + timedelta(days=3, hours=1))
            await runner.settle()
            told.append((await runner.state(Daily, "a")).told)
    assert told == [["overdue", "reminded"] * 3] * 2
    assert set(attempts.values()) == {failures + 1}


async def test_an_event_that_waits_for_a_command_at_a_stop_is_left_to_the_next_run() -> None:
    journal, tried = InMemoryJournal(), asyncio.Event()
    log = [
        Incoming(event, str(n), START + timedelta(hours=n)) for n, event in enumerate((Placed("a"), Noted("a", "n")))
    ]

    async def away(command: Reserve) -> None:
        tried.set()
        raise OSError("away")

    async with SagaRunner(journal, sagas=[Order], dispatch=away, clock=EventClock()) as runner:
        feeding = asyncio.create_task(runner.handle_many(log))
        await tried.wait()
    with pytest.raises(ExceptionGroup) as refused:
        await feeding
    assert [type(one) for one in refused.value.exceptions] == [RunnerStoppedError]
    await run(journal, [(one.message_id or "", one.at or START, one.event) for one in log], random.Random(1))
    async with runner_of(journal, random.Random(1)) as again:
        told = [one.split()[0] for one in (await again.state(Order, "a")).told]
    assert told[:3] == ["placed", "reserved", "noted"]
