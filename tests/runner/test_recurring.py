"""Recurring timers: the next one is decided in the step that handles this one, whatever happens in between."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sagalog import EventClock, InMemoryJournal, JournalSagaStateStore, RepairError, SagaRecord, SagaRunner
from sagalog.decision.record import decode_record

from ..ticking import Begun, Bill, Ticks, TickSaga, Told
from .conftest import Bench

HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def _works() -> Any:
    TickSaga.failing = False
    yield
    TickSaga.failing = False


def runner(bench: Bench, **settings: Any) -> SagaRunner:
    return bench.runner(sagas=[TickSaga], **settings)


async def record(bench: Bench, key: str = "a") -> SagaRecord:
    if bench.journal is None:
        saved = await bench.plain.load(key)
    else:
        saved = await JournalSagaStateStore(bench.journal, "tick").load_with_tombstone(key)
    assert saved is not None
    return decode_record(saved.payload)


async def ticks(bench: Bench) -> list[datetime]:
    state: Ticks = TickSaga().decode_state((await record(bench)).state_bytes())
    return state.at


async def test_it_comes_at_each_of_its_moments_never_early_with_one_entry_pending(bench: Bench) -> None:
    begun = bench.clock.now()
    async with runner(bench) as running:
        await running.handle(Begun("a"))
        for n in range(1, 4):
            bench.clock.advance(HOUR - timedelta(microseconds=1))
            await running.settle()
            assert len(await ticks(bench)) == n - 1
            bench.clock.advance(timedelta(microseconds=1))
            await running.settle()
            stored = await record(bench)
            assert [timer.due_at for timer in stored.timers.values()] == [begun + (n + 1) * HOUR]
            assert stored.timers["tick"].id.partition("/")[0] != "1", "each is of the step that made it"
    assert await ticks(bench) == [begun + n * HOUR for n in (1, 2, 3)]
    assert [command.at for _, command in bench.world.seen if isinstance(command, Bill)] == await ticks(bench)


@pytest.mark.parametrize(
    ("missed", "expected"), [("each", [1, 2, 3, 4]), ("once", [1]), ("skip", [])], ids=["each", "once", "skip"]
)
async def test_what_was_missed_while_nobody_ran_comes_as_the_policy_says(
    shared: Bench, missed: str, expected: list[int]
) -> None:
    begun = shared.clock.now()
    async with runner(shared) as running:
        await running.handle(Begun("a", missed))
    shared.clock.advance(4.5 * HOUR)
    async with runner(shared) as running:
        await running.settle()
        assert await ticks(shared) == [begun + n * HOUR for n in expected]
        assert (await record(shared)).timers["tick"].due_at == begun + 5 * HOUR
        shared.clock.advance(HOUR / 2)
        await running.settle()
        assert await ticks(shared) == [begun + n * HOUR for n in [*expected, 5]]


@pytest.mark.parametrize("what", ["cancel", "replace"])
async def test_cancelling_and_replacing_win_over_one_that_is_due(quick: Bench, what: str) -> None:
    async with runner(quick) as running:
        await running.handle(Begun("a"))
    quick.clock.advance(5 * HOUR)
    async with runner(quick) as running:  # it is due, and this event is there first
        await running.handle(Told("a", what))
        await running.settle()
        timers = (await record(quick)).timers
        assert {name: timer.due_at for name, timer in timers.items()} == (
            {} if what == "cancel" else {"tick": quick.clock.now() + timedelta(days=1)}
        )
    assert running.counters.timers == 0


async def test_its_end_drops_it_and_the_next_life_has_its_own(quick: Bench) -> None:
    async with runner(quick) as running:
        await running.handle(Begun("a"))
        quick.clock.advance(HOUR / 2)
        await running.handle(Told("a", "end"))
        assert not (await record(quick)).timers
        again = quick.clock.now()
        await running.handle(Begun("a"))
        quick.clock.advance(1.5 * HOUR)
        await running.settle()
    assert await ticks(quick) == [again + HOUR]


async def test_a_handler_that_raises_parks_it_and_it_goes_on_after_the_repair(quick: Bench) -> None:
    begun = quick.clock.now()
    async with runner(quick) as running:
        await running.handle(Begun("a", "each"))
        TickSaga.failing = True
        quick.clock.advance(HOUR)
        while not (await record(quick)).parked:
            await running.settle()
            await asyncio.sleep(0.001)
        parked = await record(quick)
        assert [held.name for held in parked.held] == ["tick"]
        assert parked.timers["tick"].due_at == begun + 2 * HOUR, "the next one is pending, and waits for the repair"
        quick.clock.advance(2 * HOUR)
        await running.settle()
        assert await ticks(quick) == []
        TickSaga.failing = False
        await running.retry("tick", "a")
        await running.settle()
    assert await ticks(quick) == [begun + n * HOUR for n in (1, 2, 3)]
    assert (await record(quick)).timers["tick"].due_at == begun + 4 * HOUR


async def test_a_skipped_one_is_dropped_and_the_next_one_comes(quick: Bench) -> None:
    begun = quick.clock.now()
    async with runner(quick) as running:
        await running.handle(Begun("a"))
        TickSaga.failing = True
        quick.clock.advance(HOUR)
        while not (await record(quick)).parked:
            await running.settle()
            await asyncio.sleep(0.001)
        TickSaga.failing = False
        await running.skip("tick", "a")
        quick.clock.advance(HOUR)
        await running.settle()
    assert await ticks(quick) == [begun + 2 * HOUR]


async def test_what_a_year_of_seconds_missed_neither_holds_the_loop_nor_makes_a_large_record(
    quick: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TickSaga, "most_kept", 3)
    async with runner(quick) as running:
        await running.handle(Begun("a", "each", every=1.0))
    quick.clock.advance(timedelta(days=365))
    largest, longest = 0, 0.0
    loop = asyncio.get_running_loop()
    async with runner(quick, max_payload_bytes=64 * 1024) as running:
        while running.counters.timers < 3_000:
            before = loop.time()
            await asyncio.sleep(0)
            longest = max(longest, loop.time() - before)
            largest = max(largest, len((await record(quick)).handled))
        assert running.counters.saves >= 3
        await running.handle(Told("a", "cancel"))  # is not held up by what is missed still
        fired = running.counters.timers
        await running.settle()
    assert not (await record(quick)).timers
    assert running.counters.timers == fired
    assert largest <= 1_000


async def test_however_often_a_scan_finds_it_what_was_missed_holds_the_loop_once_a_round(
    quick: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sagalog.runner.fire.STRETCH_SECONDS", -1.0)  # so a claim fires one, and gives way
    monkeypatch.setattr(TickSaga, "most_kept", 3)
    async with runner(quick) as running:
        await running.handle(Begun("a", "each", every=1.0))
    quick.clock.advance(timedelta(days=365))
    async with runner(quick, due_poll=timedelta(milliseconds=1)) as running:
        while running.counters.timers < 200:
            assert len((await record(quick)).handled) == 1
            await asyncio.sleep(0)
        assert running.counters.timers <= running.counters.saves + 1


async def test_a_stop_does_not_wait_until_all_that_was_missed_has_come(
    quick: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(TickSaga, "most_kept", 10**9)
    begun = quick.clock.now()
    async with runner(quick) as running:
        await running.handle(Begun("a", "each", every=1.0))
    quick.clock.advance(timedelta(days=365))
    async with runner(quick, stop_timeout=timedelta(seconds=5)) as running:
        while running.counters.timers < 100:
            await asyncio.sleep(0)
    stopped = (await record(quick)).timers["tick"].due_at
    assert stopped < quick.clock.now()
    assert not caplog.records, "it waited, and gave up"
    async with runner(quick, stop_timeout=timedelta(seconds=5)) as running:  # any worker goes on there
        while running.counters.timers < 100:
            await asyncio.sleep(0)
    found = await ticks(quick)
    assert found == [begun + timedelta(seconds=n) for n in range(1, len(found) + 1)]


async def test_in_event_time_a_long_gap_is_filled_before_the_event_in_records_that_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TickSaga, "most_kept", 5_000)
    bench, start = Bench(InMemoryJournal()), datetime(2020, 1, 1, tzinfo=UTC)
    async with SagaRunner(bench.journal, sagas=[TickSaga], dispatch=bench.world, clock=EventClock()) as running:
        await running.handle(Begun("a", "skip", every=60.0), message_id="1", at=start)
        await running.handle(Told("a", "x"), message_id="2", at=start + timedelta(days=2))
        await running.settle()
    found = await ticks(bench)
    assert found == [start + timedelta(minutes=n) for n in range(1, 2 * 24 * 60 + 1)], "nothing is missed in event time"


async def test_two_workers_make_one_next_entry(shared: Bench) -> None:
    begun = shared.clock.now()
    async with runner(shared) as one, runner(shared) as two:
        await one.handle(Begun("a", "each"))
        for _ in range(5):
            shared.clock.advance(HOUR)
            await asyncio.gather(one.settle(), two.settle())
        while len(await ticks(shared)) < 5:  # a claim may be the other's, until its lease ends
            shared.clock.advance(timedelta(seconds=6))
            await asyncio.gather(one.settle(), two.settle())
    assert await ticks(shared) == [begun + n * HOUR for n in range(1, 6)]
    assert len((await record(shared)).timers) == 1


async def test_a_timer_set_without_a_rule_is_stored_as_before(quick: Bench) -> None:
    from ..orders import OrderSaga, Placed

    async with quick.runner(sagas=[OrderSaga]) as running:
        await running.handle(Placed("a"))
    assert quick.journal is not None
    saved = await JournalSagaStateStore(quick.journal, "order").load("a")
    assert saved is not None
    assert b'"rule"' not in saved.payload


async def test_an_operator_drops_it_for_good_by_the_number_of_the_pending_one(quick: Bench) -> None:
    async with runner(quick) as running:
        await running.handle(Begun("a"))
        entry = (await record(quick)).timers["tick"].id
        quick.clock.advance(HOUR)
        await running.settle()
        with pytest.raises(RepairError, match="neither a command in the outbox nor a timer"):
            await running.drop("tick", "a", entry)
        done = await running.drop("tick", "a", (await record(quick)).timers["tick"].id)
        assert "it does not come again" in done.effects[0]
        quick.clock.advance(5 * HOUR)
        await running.settle()
    assert len(await ticks(quick)) == 1
