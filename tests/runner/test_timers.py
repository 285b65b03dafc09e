"""Guarantee 7: timers fire once, at or after their time, never before; replacing and cancelling win."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from sagalog import (
    Action,
    EventClock,
    InMemoryJournal,
    ManualClock,
    RetryPolicy,
    RunnerSettings,
    Saga,
    SagaRunner,
    SetTimer,
    Status,
    StepContext,
    on,
    starts,
)
from sagalog.decision.record import decode_record

from ..orders import Asked, Closed, Noted, OrderSaga, Paid, Placed, World
from .conftest import Bench


async def test_a_timer_never_fires_before_its_time(bench: Bench) -> None:
    async with bench.runner() as runner:
        await runner.handle(Placed("a"))
        bench.clock.advance(timedelta(minutes=15) - timedelta(microseconds=1))
        await runner.settle()
        assert await bench.log("a") == ["placed"]
        bench.clock.advance(timedelta(microseconds=1))
        await runner.settle()
    assert await bench.log("a") == ["placed", "overdue"]
    assert bench.world.names == ["Reserve", "Release"]
    assert runner.counters.timers == 1


async def test_a_timer_fires_once_across_restarts(bench: Bench) -> None:
    async with bench.runner() as runner:
        await runner.handle(Placed("a"))
    bench.advance(minutes=16)
    for _ in range(3):
        async with bench.runner() as runner:
            await runner.settle()
            bench.advance(minutes=16)
    assert await bench.log("a") == ["placed", "overdue"]


async def test_a_cancelled_timer_does_not_fire(bench: Bench) -> None:
    async with bench.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Paid("a"))
        bench.advance(hours=1)
        await runner.settle()
    assert await bench.log("a") == ["placed", "paid"]


async def test_an_event_that_cancels_a_due_timer_before_it_was_handled_wins(shared: Bench) -> None:
    async with shared.runner() as runner:
        await runner.handle(Placed("a"))
    shared.advance(hours=1)
    async with shared.runner() as runner:  # the timer is due, and this event is there first
        await runner.handle(Paid("a"))
        await runner.settle()
    assert await shared.log("a") == ["placed", "paid"]


async def test_a_timer_set_again_replaces_the_one_before(bench: Bench) -> None:
    async with bench.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Asked("a", "again"))
        bench.advance(minutes=29)
        await runner.settle()
        assert await bench.log("a") == ["placed", "again"]
        bench.advance(minutes=1)
        await runner.settle()
    assert await bench.log("a") == ["placed", "again", "overdue"]


async def test_the_timer_of_a_finished_incarnation_is_ignored(bench: Bench) -> None:
    async with bench.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Closed("a"))
        bench.advance(minutes=14)
        await runner.handle(Placed("a"))
        bench.advance(minutes=14)  # past the first one's timer, not the second's
        await runner.settle()
        assert await bench.log("a") == ["placed"]
        bench.advance(minutes=1)
        await runner.settle()
        assert await bench.log("a") == ["placed", "overdue"]


async def test_a_scheduled_command_survives_completion_and_restart(bench: Bench) -> None:
    async with bench.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Asked("a", "schedule"))
        bench.advance(minutes=59)
        await runner.settle()
        assert "Survey" not in bench.world.names
    async with bench.runner() as runner:
        bench.advance(minutes=1)
        await runner.settle()
        await runner.settle()
    assert bench.world.names == ["Reserve", "Survey"]
    assert (await bench.record("a")).status is Status.COMPLETED


async def test_the_due_loop_fires_timers_without_being_asked(bench: Bench) -> None:
    async with bench.runner() as runner:
        await runner.handle(Placed("a"))
        bench.advance(minutes=15)
        while runner.counters.timers == 0:
            await runner_turn()
    assert await bench.log("a") == ["placed", "overdue"]


async def runner_turn() -> None:
    import asyncio

    await asyncio.sleep(0.001)


async def test_in_event_time_a_timer_fires_before_the_event_that_comes_after_it() -> None:
    journal, world = InMemoryJournal(), World()
    start = datetime(2011, 10, 1, tzinfo=UTC)
    bench = Bench(journal)
    async with SagaRunner(
        journal,
        sagas=[OrderSaga],
        dispatch=world,
        clock=EventClock(),
        settings=RunnerSettings(retention=timedelta(days=9999)),
    ) as runner:
        await runner.handle(Placed("a"), message_id="1", at=start)
        await runner.handle(Placed("b"), message_id="2", at=start)
        receipt = await runner.handle(Noted("a", "late"), message_id="3", at=start + timedelta(minutes=16))
        assert receipt.ignored  # the timer was first, and the order was compensated
        await runner.settle()
        assert await bench.log("a") == ["placed", "overdue"]
        assert await bench.log("b") == ["placed", "overdue"]
        record = await bench.record("b")
        assert record.status is Status.COMPENSATED
    assert world.names.count("Release") == 2


async def test_in_event_time_a_second_run_over_the_same_events_changes_nothing() -> None:
    journal, world = InMemoryJournal(), World()
    start = datetime(2011, 10, 1, tzinfo=UTC)
    events = [(Placed("a"), "1", 0), (Noted("a", "x"), "2", 5), (Paid("a"), "3", 10), (Noted("a", "y"), "4", 500)]
    bench = Bench(journal)
    logs = []
    for _ in range(2):
        async with SagaRunner(journal, sagas=[OrderSaga], dispatch=world, clock=EventClock()) as runner:
            for event, message_id, minutes in events:
                await runner.handle(event, message_id=message_id, at=start + timedelta(minutes=minutes))
            await runner.settle()
            logs.append((await bench.log("a"), list(world.names)))
    assert logs[0] == logs[1]


class RunningOn(ManualClock):
    """Each look at it takes a second, as on a machine that is busy with other work."""

    def now(self) -> datetime:
        self.advance(timedelta(seconds=1))
        return super().now()


@dataclass
class Rung:
    order_id: str


@dataclass
class Heard:
    times: list[tuple[datetime, datetime]] = field(default_factory=list)


class AlarmSaga(Saga[Heard]):
    name = "alarm"

    @starts(Placed, key="order_id")
    def placed(self, heard: Heard, event: Placed) -> Iterator[Action]:
        for n in range(100):
            yield SetTimer(f"alarm {n}", Rung(event.order_id), after=timedelta(seconds=n / 5))

    @on(Rung, key="order_id")
    def rung(self, heard: Heard, event: Rung, context: StepContext) -> None:
        assert context.message_at is not None
        heard.times.append((context.message_at, context.now))


async def test_a_timer_that_falls_due_while_its_turn_begins_sees_no_time_before_its_own() -> None:
    journal = InMemoryJournal()
    async with SagaRunner(journal, sagas=[AlarmSaga], clock=RunningOn()) as runner:
        await runner.handle(Placed("a"))
        async with asyncio.timeout(30):
            while len((await runner.state(AlarmSaga, "a")).times) < 100:
                await runner.settle()
        times = (await runner.state(AlarmSaga, "a")).times
    assert [at for at, now in times if now < at] == []
    steps = [decode_record(step.payload) async for step in journal.replay_messages("saga::alarm::a", 1, 10_000)]
    assert all(before.updated_at <= after.updated_at for before, after in pairwise(steps))


clock = ManualClock()


@dataclass
class Dawdled:
    order_id: str


class SlowSaga(AlarmSaga):
    name = "slow"

    @on(Dawdled, key="order_id")
    async def dawdled(self, heard: Heard, event: Dawdled) -> None:
        clock.advance(timedelta(minutes=1))
        await asyncio.sleep(0)

    @on(Asked, key="order_id")
    def asked(self, heard: Heard, event: Asked, context: StepContext) -> Action:
        heard.times = [(context.now, context.now)]
        return SetTimer("alarm 0", Rung(event.order_id), after=timedelta(seconds=30))


async def test_what_waited_in_a_turn_behind_a_slow_handler_is_not_dated_back() -> None:
    journal = InMemoryJournal()
    async with SagaRunner(journal, sagas=[SlowSaga], clock=clock) as runner:
        await runner.handle(Placed("a"))
        await runner.settle()
    before = clock.now()
    async with SagaRunner(journal, sagas=[SlowSaga], clock=clock) as runner:  # both wait for the record
        await asyncio.gather(runner.handle(Dawdled("a")), runner.handle(Asked("a")))
        times = (await runner.state(SlowSaga, "a")).times
    newest = await journal.latest_message("saga::slow::a")
    assert newest is not None
    assert times[0][0] == before + timedelta(minutes=1)
    assert decode_record(newest.payload).timers["alarm 0"].due_at == before + timedelta(seconds=90)


@dataclass
class Struck:
    order_id: str
    minutes: int


class StrikingSaga(Saga[Heard]):
    """Each stroke takes a minute."""

    name = "striking"
    clock = ManualClock()
    fails = False

    @starts(Placed, key="order_id")
    def placed(self, heard: Heard, event: Placed) -> Iterator[Action]:
        for n in (1, 2):
            yield SetTimer(f"strike {n}", Struck(event.order_id, 1), after=timedelta(minutes=n))

    @on(Struck, key="order_id")
    async def struck(self, heard: Heard, event: Struck, context: StepContext) -> Action | None:
        if self.fails:
            raise ValueError
        heard.times.append((self.clock.now(), context.now))
        self.clock.advance(timedelta(minutes=event.minutes))
        await asyncio.sleep(0)
        return None


async def test_timers_that_are_due_together_are_not_dated_back_behind_a_slow_handler() -> None:
    clock = StrikingSaga.clock = ManualClock()
    async with SagaRunner("memory://", sagas=[StrikingSaga], clock=clock) as runner:
        await runner.handle(Placed("a"))
        clock.advance(timedelta(minutes=10))
        await runner.settle()
        times = (await runner.state(StrikingSaga, "a")).times
    assert len(times) == 2
    assert [now for _, now in times] == [at for at, _ in times]


async def test_held_events_are_not_dated_back_behind_a_slow_handler() -> None:
    clock = StrikingSaga.clock = ManualClock()
    settings = RunnerSettings(handler_retry=RetryPolicy(attempts=1))
    async with SagaRunner("memory://", sagas=[StrikingSaga], clock=clock, settings=settings) as runner:
        await runner.handle(Placed("a"))
        StrikingSaga.fails = True
        try:
            for _ in range(3):
                assert (await runner.handle(Struck("a", 1))).held
        finally:
            StrikingSaga.fails = False
        assert (await runner.retry(StrikingSaga, "a")).replayed == 3
        times = (await runner.state(StrikingSaga, "a")).times[:3]
    assert [now for _, now in times] == [at for at, _ in times]
