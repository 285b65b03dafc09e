"""`no_instance="wait"`: an event waits for its starting event for a bounded time, whatever else goes on meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest

from sagalog import (
    InMemoryJournal,
    JournalSagaStateStore,
    NoInstanceError,
    Outcome,
    RunnerStoppedError,
    Saga,
    on,
    starts,
)

from ..orders import Noted, Paid, Placed
from .conftest import Bench, Gate


class SlowLoads(Gate):
    """Its loads wait until they are let through."""

    def __init__(self, inner: JournalSagaStateStore) -> None:
        super().__init__(inner)
        self.open = asyncio.Event()
        self.open.set()
        self.entered = asyncio.Event()

    async def load_with_tombstone(self, correlation_id: str):
        self.entered.set()
        await self.open.wait()
        return await super().load_with_tombstone(correlation_id)


@dataclass
class Begun:
    key: str


@dataclass
class Came:
    key: str


@dataclass
class Blocking:
    key: str


@dataclass
class Count:
    came: int = 0


class SlowSaga(Saga[Count]):
    """Its handler of Blocking takes until the test says so."""

    name = "slow"
    entered: asyncio.Event
    leave: asyncio.Event

    @starts(Begun, key="key")
    def begun(self, state: Count, event: Begun) -> None: ...

    @starts(Blocking, key="key")
    async def blocking(self, state: Count, event: Blocking) -> None:
        type(self).entered.set()
        await type(self).leave.wait()
        raise RuntimeError("it does not start after all")

    @on(Came, key="key")
    def came(self, state: Count, event: Came) -> None:
        state.came += 1


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0)


async def test_an_event_is_told_that_it_waited_in_vain_when_the_load_took_longer_than_the_wait(shared: Bench) -> None:
    store = SlowLoads(JournalSagaStateStore(shared.journal, "order"))
    store.open.clear()
    async with shared.runner(store, no_instance="wait", no_instance_wait=timedelta(milliseconds=20)) as runner:
        waiting = asyncio.create_task(runner.handle(Paid("a"), message_id="m1"))
        await store.entered.wait()
        await asyncio.sleep(0.04)
        store.open.set()
        with pytest.raises(NoInstanceError):
            await waiting
        assert runner.gauges().in_flight == 0


async def test_an_event_is_told_in_time_while_the_look_for_its_starting_event_takes_long(shared: Bench) -> None:
    store = SlowLoads(JournalSagaStateStore(shared.journal, "order"))
    async with shared.runner(
        store, no_instance="wait", no_instance_wait=timedelta(milliseconds=200), due_poll=timedelta(milliseconds=10)
    ) as runner:
        looked_again = False
        while not looked_again:  # on a busy machine its time may be over before there was a second look
            waiting = asyncio.create_task(runner.handle(Paid("a"), message_id="m1"))
            await store.entered.wait()
            store.entered.clear()
            store.open.clear()
            second_look = asyncio.create_task(store.entered.wait())
            await asyncio.wait({waiting, second_look}, return_when=asyncio.FIRST_COMPLETED)
            looked_again = second_look.done()  # it gets no answer
            second_look.cancel()
            with pytest.raises(NoInstanceError):
                await waiting
            store.open.set()
        await runner.handle(Placed("a"), message_id="m0")
        await runner.settle()
    assert await shared.log("a") == ["placed"]


async def test_an_event_behind_a_busy_instance_is_told_once_it_has_its_turn(bench: Bench) -> None:
    SlowSaga.entered, SlowSaga.leave = asyncio.Event(), asyncio.Event()
    async with bench.runner(
        bench.journal or bench.plain,
        sagas=[SlowSaga],
        no_instance="wait",
        no_instance_wait=timedelta(milliseconds=20),
        max_batch=1,
    ) as runner:
        starting = asyncio.create_task(runner.handle(Blocking("a"), message_id="m0"))
        await SlowSaga.entered.wait()
        behind = [asyncio.create_task(runner.handle(Came("b"), message_id="b")) for _ in range(2)]
        waiting = asyncio.create_task(runner.handle(Came("a"), message_id="m1"))
        await asyncio.sleep(0.04)
        for one in behind:
            with pytest.raises(NoInstanceError):
                await one
        starting.cancel()
        with pytest.raises(NoInstanceError):
            await waiting


async def test_an_event_whose_caller_has_left_is_not_handled_later(bench: Bench) -> None:
    async with bench.runner(no_instance="wait") as runner:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(runner.handle(Paid("a"), message_id="m1"), 0.02)
        await asyncio.wait_for(runner.settle(), 40)
        await runner.handle(Placed("a"), message_id="m0")
        await runner.settle()
    assert await bench.log("a") == ["placed"]


async def test_one_of_many_that_wait_leaves_and_the_others_are_handled(bench: Bench) -> None:
    async with bench.runner(no_instance="wait") as runner:
        waiting = [asyncio.create_task(runner.handle(Noted("a", str(n)), message_id=f"m{n}")) for n in range(5)]
        await until(lambda: runner.gauges().sagas[0].mailbox_messages == 5)
        waiting[2].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting[2]
        await runner.handle(Placed("a"))
        await asyncio.gather(*waiting[:2], *waiting[3:])
    assert await bench.log("a") == ["placed", "0", "1", "3", "4"]


async def test_settle_does_not_wait_for_an_event_that_waits_for_its_starting_event() -> None:
    bench = Bench(InMemoryJournal())
    async with bench.runner(no_instance="wait") as runner:
        waiting = asyncio.create_task(runner.handle(Paid("a")))
        await until(lambda: runner.gauges().in_flight == 1)
        await asyncio.wait_for(runner.settle(), 40)
        assert not waiting.done()
        await runner.handle(Placed("a"))
        assert (await waiting).handled


async def test_an_event_that_still_waits_is_told_when_the_runner_stops(bench: Bench) -> None:
    runner = bench.runner(no_instance="wait")
    await runner.start()
    waiting = asyncio.create_task(runner.handle(Paid("a")))
    await until(lambda: runner.gauges().in_flight == 1)
    await asyncio.wait_for(runner.stop(), 40)
    with pytest.raises(RunnerStoppedError):
        await waiting


@dataclass
class Joined:
    key: str


class HostSaga(Saga[Count]):
    """Waits for Begun; Joined, which begins a guest, only goes on here."""

    name = "host"

    @starts(Begun, key="key")
    def begun(self, state: Count, event: Begun) -> None: ...

    @on(Joined, key="key")
    def joined(self, state: Count, event: Joined) -> None:
        state.came += 1


class GuestSaga(Saga[Count]):
    name = "guest"

    @starts(Joined, key="key")
    def joined(self, state: Count, event: Joined) -> None: ...


async def test_events_that_start_one_saga_and_wait_in_another_leave_room_for_what_they_wait_for() -> None:
    bench = Bench(InMemoryJournal())
    async with bench.runner(
        sagas=[HostSaga, GuestSaga], no_instance="wait", no_instance_wait=timedelta(seconds=60), max_in_flight=2
    ) as runner:
        joined = [asyncio.create_task(runner.handle(Joined("a"), message_id=f"m{n}")) for n in range(4)]
        while runner.gauges().in_flight < 2:
            await asyncio.sleep(0)
        async with asyncio.timeout(40):
            assert (await runner.handle(Begun("a"))).handled
            receipts = await asyncio.gather(*joined)
    assert all(receipt.outcomes["host"] is Outcome.HANDLED for receipt in receipts)


async def test_who_is_told_that_the_runner_stopped_is_told_which_sagas_have_the_event() -> None:
    bench = Bench(InMemoryJournal())
    runner = bench.runner(sagas=[HostSaga, GuestSaga], no_instance="wait", no_instance_wait=timedelta(seconds=60))
    await runner.start()
    joined = asyncio.create_task(runner.handle(Joined("a"), message_id="m"))
    while runner.counters.started == 0:
        await asyncio.sleep(0)
    await runner.stop()
    with pytest.raises(RunnerStoppedError, match="saga guest has it; sent again under the same message id"):
        await joined
