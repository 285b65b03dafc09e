"""A call that cancels the task it runs in, as libraries do that give up, has failed like any other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from sagalog import Call, ItinerarySaga, RetryPolicy, RunnerSettings, Saga, SagaRunner, Send, Status, activity, starts

THRICE = RetryPolicy(attempts=3, base=timedelta(milliseconds=1))


@dataclass
class Begun:
    id: str


@dataclass
class Ship:
    id: str


@dataclass
class State:
    begun: Begun | None = None


async def give_up() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


class ShipSaga(Saga[State]):
    name = "shipping"

    @starts(Begun, key="id")
    def begun(self, state: State, event: Begun) -> Send:
        return Send(Ship(event.id))


class CallSaga(ItinerarySaga[State]):
    name = "calls"
    starts_with, key = Begun, "id"
    calls = 0

    @activity(retry=THRICE)
    async def call(self, state: State, call: Call) -> None:
        type(self).calls += 1
        await give_up()


@pytest.mark.parametrize("how", ["coroutine", "generator"])
async def test_a_command_whose_handler_cancels_its_task_is_tried_as_its_policy_says_and_parks(how: str) -> None:
    calls: list[Ship] = []

    async def coroutine(command: Ship) -> None:
        calls.append(command)
        await give_up()

    async def generator(command: Ship) -> AsyncIterator[Any]:
        calls.append(command)
        await give_up()
        yield

    dispatch = {Ship: coroutine if how == "coroutine" else generator}
    settings = RunnerSettings(dispatch_retry=THRICE)
    async with SagaRunner("memory://", sagas=[ShipSaga], dispatch=dispatch, settings=settings) as runner:
        await runner.handle(Begun("a"))
        async with asyncio.timeout(40):
            while not (parked := (await runner.instance(ShipSaga, "a")).parked):
                await asyncio.sleep(0.01)
    assert "CancelledError" in parked
    assert len(calls) == 3


async def test_an_activity_that_cancels_its_task_fails_as_its_policy_says() -> None:
    CallSaga.calls = 0
    async with SagaRunner("memory://", sagas=[CallSaga]) as runner:
        await runner.handle(Begun("a"))
        ended = await runner.outcome(CallSaga, "a", timeout=timedelta(seconds=20))
    assert ended.status is Status.COMPENSATED
    assert CallSaga.calls == 3
