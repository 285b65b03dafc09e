"""Rounds: however much arrives at once, the event loop stays free, and what hangs holds up nobody else."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Any

import pytest

from sagalog import Enter, InMemoryJournal, RetryPolicy, RunnerSettings, Saga, SagaRunner, Send, on, starts

BURNT = 0.00005  # seconds of each handler
MOST = 400  # handlers in one go; 5 ms are 100


@dataclass
class Opened:
    id: str


@dataclass
class Moved:
    id: str


@dataclass
class Told:
    id: str


@dataclass
class Moves:
    count: int = 0


def burn() -> None:
    end = time.perf_counter() + BURNT
    while time.perf_counter() < end:
        pass


class Account(Saga[Moves]):
    name = "account"
    calls = 0

    @starts(Opened, key="id")
    def opened(self, state: Moves, event: Opened) -> Any:
        burn()
        Account.calls += 1
        return Send(Told(event.id))

    @on(Moved, key="id")
    async def moved(self, state: Moves, event: Moved) -> Any:
        state.count += 1
        await asyncio.sleep(0)


class Heart:
    """Notes at each beat of the loop how many calls came since the last one."""

    def __init__(self) -> None:
        self.most = 0
        self._last = 0
        self._beating = True

    async def beat(self) -> None:
        while self._beating:
            self._note()
            await asyncio.sleep(0)
        self._note()

    def _note(self) -> None:
        self.most = max(self.most, Account.calls - self._last)
        self._last = Account.calls

    def stop(self) -> None:
        self._beating = False


@pytest.fixture(autouse=True)
def no_calls() -> None:
    Account.calls = 0


async def test_many_events_at_once_leave_the_loop_free() -> None:
    told: list[str] = []

    def tell(command: Told) -> None:
        burn()
        told.append(command.id)

    settings = RunnerSettings(max_in_flight=20_000)
    async with SagaRunner(InMemoryJournal(), sagas=[Account], dispatch=tell, settings=settings) as runner:
        heart = Heart()
        beating = asyncio.create_task(heart.beat())
        events = [asyncio.create_task(runner.handle(Opened(f"a{number}"))) for number in range(10_000)]
        await asyncio.sleep(0)
        health = await runner.health()
        answered_after = Account.calls
        await asyncio.gather(*events)
        heart.stop()
        await beating
        await runner.settle()
    assert health.ready
    assert answered_after < 10_000
    assert heart.most <= MOST
    assert len(told) == 10_000


@dataclass
class Parted:
    id: str


class Stage(Enum):
    WAITING = "waiting"
    READY = "ready"


class Slow(Saga[Moves]):
    """Handles each event in a millisecond, and keeps those that come before it is ready."""

    name = "slow"
    phases = Stage
    most_kept = 1_000
    fails = False

    @starts(Opened, key="id")
    def opened(self, state: Moves, event: Opened) -> None:
        """It waits."""

    @on(Moved, key="id", during=Stage.READY, unexpected="keep")
    def moved(self, state: Moves, event: Moved) -> None:
        state.count += 1
        end = time.perf_counter() + 0.001
        while time.perf_counter() < end:
            pass
        Account.calls += 1

    @on(Parted, key="id")
    def parted(self, state: Moves, event: Parted) -> Any:
        if Slow.fails:
            raise RuntimeError
        return Enter(Stage.READY)


AT_ONCE = 30  # of its events; 5 ms are 5


@pytest.mark.parametrize("how", ["sent at once", "held", "kept"])
async def test_however_many_events_one_instance_handles_in_one_step_the_loop_is_free(how: str) -> None:
    once = RetryPolicy(attempts=1)
    async with SagaRunner(InMemoryJournal(), sagas=[Slow], settings=RunnerSettings(handler_retry=once)) as runner:
        await runner.handle(Opened("a"))
        moves = [Moved("a") for _ in range(250)]
        if how == "sent at once":
            await runner.handle(Parted("a"))
        elif how == "kept":
            assert all(receipt.kept for receipt in await runner.handle_many(moves))
        else:
            Slow.fails = True
            assert (await runner.handle(Parted("a"))).held
            assert all(receipt.held for receipt in await runner.handle_many(moves))
            Slow.fails = False
        heart = Heart()
        beating = asyncio.create_task(heart.beat())
        await asyncio.sleep(0)
        if how == "sent at once":
            await runner.handle_many(moves)
        elif how == "kept":
            await runner.handle(Parted("a"))
        else:
            assert (await runner.retry("slow", "a")).replayed == 251
        heart.stop()
        await beating
        await runner.settle()
        assert (await runner.state(Slow, "a")).count == 250
    assert heart.most <= AT_ONCE


async def test_an_event_handler_that_hangs_holds_up_no_other_instance() -> None:
    hanging = asyncio.Event()

    class Slow(Account):
        name = "slow"

        @on(Moved, key="id")
        async def moved(self, state: Moves, event: Moved) -> Any:
            if event.id == "hangs":
                await hanging.wait()
            state.count += 1

    async with SagaRunner(InMemoryJournal(), sagas=[Slow], dispatch=lambda command: None) as runner:
        for name in ("hangs", "goes"):
            await runner.handle(Opened(name))
        first = asyncio.create_task(runner.handle(Moved("hangs")))
        for _ in range(3):
            assert (await asyncio.wait_for(runner.handle(Moved("goes")), 40)).handled
        behind = asyncio.create_task(runner.handle(Moved("hangs")))
        await asyncio.sleep(0)
        assert not first.done()
        hanging.set()
        assert (await first).handled
        assert (await behind).handled


class Cancelling(Saga[Moves]):
    """Its plain handler cancels the task that runs it, which carries all the others, too."""

    name = "cancelling"

    @starts(Opened, key="id")
    def opened(self, state: Moves, event: Opened) -> Any:
        return Send(Told(event.id))

    @on(Moved, key="id")
    def moved(self, state: Moves, event: Moved) -> Any:
        state.count += 1
        if event.id == "cancels":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()


async def test_a_plain_handler_that_cancels_its_task_harms_no_other() -> None:
    told: list[str] = []

    def tell(command: Told) -> None:
        told.append(command.id)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    async with SagaRunner(InMemoryJournal(), sagas=[Cancelling], dispatch=tell) as runner:
        async with asyncio.timeout(40):
            await asyncio.gather(*(runner.handle(Opened(name)) for name in ("cancels", "a", "b")))
            receipts = await asyncio.gather(*(runner.handle(Moved(name)) for name in ("cancels", "a", "b")))
            await runner.settle()
    assert all(receipt.handled for receipt in receipts)
    assert sorted(told) == ["a", "b", "cancels"]


async def test_a_journal_that_does_not_answer_a_write_is_not_ready() -> None:
    go_on = asyncio.Event()

    class Hanging(InMemoryJournal):
        async def write_batch(self, records: Any) -> Any:
            await go_on.wait()
            return await super().write_batch(records)

    settings = RunnerSettings(lease=timedelta(milliseconds=50))
    async with SagaRunner(Hanging(), sagas=[Account], dispatch=lambda command: None, settings=settings) as runner:
        waiting = asyncio.create_task(runner.handle(Opened("a")))
        async with asyncio.timeout(40):
            while (await runner.health(timeout=timedelta(milliseconds=50))).ready:
                await asyncio.sleep(0.01)
        health = await runner.health(timeout=timedelta(milliseconds=50))
        go_on.set()
        assert (await waiting).handled
        assert (await runner.health()).ready
    assert "the journal has not answered a write" in " ".join(health.reasons)


async def test_many_large_records_are_read_in_parts_that_leave_the_loop_free() -> None:
    journal = InMemoryJournal()
    async with SagaRunner(journal, sagas=[Account], dispatch=lambda command: None) as runner:
        await runner.handle_many([Opened(f"a{number}") for number in range(2000)])
        await runner.settle()
    asked: list[int] = []

    class Counting(InMemoryJournal):
        async def latest_messages(self, persistence_ids: Any) -> Any:
            asked.append(sum(one.startswith("saga::") for one in persistence_ids))
            return await journal.latest_messages(persistence_ids)

        async def write_batch(self, records: Any) -> Any:
            return await journal.write_batch(records)

    async with SagaRunner(Counting(), sagas=[Account], dispatch=lambda command: None) as runner:
        receipts = await runner.handle_many([Moved(f"a{number}") for number in range(2000)])
    assert all(receipt.handled for receipt in receipts)
    assert sum(asked) == 2000
    assert max(asked) <= 256
    assert len(asked) <= 40


async def test_an_instance_takes_part_in_one_round_at_a_time() -> None:
    under_way: set[str] = set()
    met: list[str] = []

    class Slow(InMemoryJournal):
        async def write_batch(self, records: Any) -> Any:
            ids = [record.persistence_id for record in records]
            met.extend(one for one in ids if one in under_way)
            under_way.update(ids)
            for _ in range(5):
                await asyncio.sleep(0)
            under_way.difference_update(ids)
            return await super().write_batch(records)

    async with SagaRunner(Slow(), sagas=[Account], dispatch=lambda command: None) as runner:
        await asyncio.gather(*(runner.handle(Opened(f"a{number}")) for number in range(10)))

        async def send(number: int) -> None:
            for _ in range(10):
                for _ in range(number % 7):  # so that some come while others are written
                    await asyncio.sleep(0)
                assert (await runner.handle(Opened(f"a{number % 10}"))).handled

        await asyncio.gather(*(send(number) for number in range(50)))
        await runner.settle()
        conflicts = runner.counters.conflicts
    assert met == []
    assert conflicts == 0
