"""A stop ends in bounded time and leaves no caller waiting, whatever a journal or a handler does."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from sagalog import (
    DefinitionError,
    InMemoryJournal,
    OutcomeUnknownError,
    RunnerSettings,
    RunnerStoppedError,
    Saga,
    SagaRunner,
    Send,
    starts,
)

SETTINGS = RunnerSettings(
    stop_timeout=timedelta(milliseconds=50), lease=timedelta(milliseconds=100), due_poll=timedelta(milliseconds=10)
)


@dataclass
class Begun:
    key: str


@dataclass
class Work:
    key: str


@dataclass
class Nothing:
    n: int = 0


class WorkingSaga(Saga[Nothing]):
    name = "working"

    @starts(Begun, key="key")
    def begun(self, state: Nothing, event: Begun):
        return Send(Work(event.key))


class Silent(InMemoryJournal):
    """It takes a write and never answers."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    async def write_batch(self, records: Any) -> Any:
        self.asked.set()
        await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("behind", [0, 3])
async def test_a_lone_caller_and_those_behind_it_are_told_when_the_journal_never_answers(behind: int) -> None:
    journal = Silent()
    runner = SagaRunner(journal, sagas=[WorkingSaga], dispatch=lambda command: None, settings=SETTINGS)
    await runner.start()
    lone = asyncio.create_task(runner.handle(Begun("a"), message_id="m"))
    await journal.asked.wait()
    others = [asyncio.create_task(runner.handle(Begun("a"), message_id=f"m{n}")) for n in range(behind)]
    await asyncio.sleep(0)
    async with asyncio.timeout(40):
        await runner.stop()
        with pytest.raises(OutcomeUnknownError):
            await lone
        for other in others:
            with pytest.raises(RunnerStoppedError):
                await other


async def test_a_lone_caller_that_is_cancelled_while_the_runner_gives_up_the_journal_stays_cancelled() -> None:
    journal = Silent()
    runner = SagaRunner(journal, sagas=[WorkingSaga], dispatch=lambda command: None, settings=SETTINGS)
    await runner.start()
    lone = asyncio.create_task(runner.handle(Begun("a"), message_id="m"))
    await journal.asked.wait()
    stopping = asyncio.create_task(runner.stop())
    lone.cancel()
    await stopping
    with pytest.raises(asyncio.CancelledError):
        await lone


async def test_a_stop_leaves_a_handler_to_itself_that_takes_no_cancellation() -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def stubborn(command: Work) -> None:
        entered.set()
        while not leave.is_set():
            try:
                await leave.wait()
            except asyncio.CancelledError:
                continue

    runner = SagaRunner(InMemoryJournal(), sagas=[WorkingSaga], dispatch=stubborn, settings=SETTINGS)
    await runner.start()
    await runner.handle(Begun("a"))
    await entered.wait()
    async with asyncio.timeout(40):
        await runner.stop()
    leave.set()


async def test_those_who_wait_for_a_saga_handler_that_takes_no_cancellation_are_told_and_nothing_is_stored() -> None:
    entered, leave, left = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Stubborn(Saga[Nothing]):
        name = "stubborn"

        @starts(Begun, key="key")
        async def begun(self, state: Nothing, event: Begun) -> None:
            entered.set()
            while not leave.is_set():
                try:
                    await leave.wait()
                except asyncio.CancelledError:
                    continue
            left.set()

    journal = InMemoryJournal()
    runner = SagaRunner(journal, sagas=[Stubborn], settings=SETTINGS)
    await runner.start()
    calls = [asyncio.create_task(runner.handle(Begun("a"), message_id=f"m{n}")) for n in range(3)]
    await entered.wait()
    async with asyncio.timeout(40):
        await runner.stop()
        for call in calls:
            with pytest.raises(RunnerStoppedError):
                await call
        leave.set()
        await left.wait()
        for _ in range(10):
            await asyncio.sleep(0)
    assert await journal.latest_message("saga::stubborn::a") is None


async def test_a_handler_that_waits_for_the_stop_is_told_that_it_cannot() -> None:
    told: list[BaseException] = []
    done = asyncio.Event()

    async def stopping(command: Work) -> None:
        try:
            await runner.stop()
        except DefinitionError as error:
            told.append(error)
        done.set()

    runner = SagaRunner(InMemoryJournal(), sagas=[WorkingSaga], dispatch=stopping, settings=SETTINGS)
    async with runner:
        await runner.handle(Begun("a"))
        async with asyncio.timeout(40):
            await done.wait()
        assert "a handler cannot wait for it" in str(told[0])
        await runner.handle(Begun("b"))
