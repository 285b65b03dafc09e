"""A task of the runner may be cancelled before its first step: whoever waits for what it carries is told all the same."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

import pytest

from sagalog import InMemoryJournal, RetryPolicy, RunnerSettings, RunnerStoppedError, Saga, SagaRunner, on, starts

from .conftest import FourMethodStore

STEPS = range(12)  # of the event loop, until the test acts: each of them at another place of the turn


@dataclass
class Begun:
    key: str


@dataclass
class Failing:
    key: str


@dataclass
class Dawdling:
    key: str


@dataclass
class Count:
    came: int = 0


class DawdlingSaga(Saga[Count]):
    name = "dawdling"

    @starts(Begun, key="key")
    async def begun(self, state: Count, event: Begun) -> None:
        state.came += 1

    @on(Failing, key="key")
    def failing(self, state: Count, event: Failing) -> None:
        raise RuntimeError("not now")

    @on(Dawdling, key="key")
    async def dawdling(self, state: Count, event: Dawdling) -> None:
        await asyncio.sleep(3600)


def runner_on(source: object, **settings: object) -> SagaRunner:
    return SagaRunner(
        source,  # type: ignore[arg-type]
        sagas=[DawdlingSaga],
        dispatch=lambda command: None,
        settings=RunnerSettings(handler_retry=RetryPolicy(base=timedelta(hours=1), cap=timedelta(hours=1)), **settings),  # type: ignore[arg-type]
    )


async def steps(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


@pytest.mark.parametrize("callers", [1, 2])
@pytest.mark.parametrize("source", [InMemoryJournal, FourMethodStore])
async def test_a_caller_is_told_at_whichever_step_the_time_to_stop_runs_out(source: type, callers: int) -> None:
    for number in STEPS:
        runner = runner_on(source(), stop_timeout=timedelta(0))
        await runner.start()
        waiting = [asyncio.create_task(runner.handle(Begun(f"k{n}"), message_id="m1")) for n in range(callers)]
        await steps(number)
        await runner.stop()
        _, left = await asyncio.wait(waiting, timeout=40)
        assert not left, f"stopped after {number} steps of the loop"
        for one in waiting:
            assert one.exception() is None or isinstance(one.exception(), RunnerStoppedError)


@pytest.mark.parametrize("event", [Failing, Dawdling])
@pytest.mark.parametrize("source", [InMemoryJournal, FourMethodStore])
async def test_an_instance_goes_on_at_whichever_step_a_caller_withdraws(source: type, event: type) -> None:
    async with runner_on(source(), stop_timeout=timedelta(0)) as runner:
        for number in STEPS:
            keys = [f"k{number}/{n}" for n in range(2)]
            await asyncio.gather(*(runner.handle(Begun(key)) for key in keys))
            waiting = [asyncio.create_task(runner.handle(event(key))) for key in keys]
            await steps(number)
            for one in waiting:
                one.cancel()
            await asyncio.wait(waiting)
            async with asyncio.timeout(40):
                await asyncio.gather(*(runner.handle(Begun(key)) for key in keys))
