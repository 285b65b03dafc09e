"""Event time: the same log gives the same history, whatever the speed, the kills and the number of runs."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from sagalog import (
    Action,
    Complete,
    EventClock,
    Incoming,
    InMemoryJournal,
    RetryPolicy,
    RunnerSettings,
    RunnerStoppedError,
    Saga,
    SagaRunner,
    Send,
    SetTimer,
    on,
    open_journal,
    starts,
)
from sagalog.decision.record import decode_record

from ..dated import (
    START,
    Dying,
    Noted,
    Order,
    Overdue,
    Placed,
    Reserve,
    Story,
    history,
    log_of,
    run,
    runner_of,
)


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

    journal = Dying(chance.choice([0, 3, 30]))
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
