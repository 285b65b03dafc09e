"""What a command handler raises out of a TaskGroup: the refusal or mistake among the errors counts, not the group."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from sagalog import (
    Call,
    Circuit,
    CommandRefused,
    InMemoryJournal,
    ItinerarySaga,
    RetryPolicy,
    RunnerSettings,
    Saga,
    SagaRunner,
    Send,
    activity,
    starts,
)


@dataclass
class Placed:
    id: str


@dataclass
class Reserve:
    id: str


@dataclass
class Release:
    id: str


@dataclass
class State:
    request: Placed | None = None


class Orders(Saga[State]):
    name = "orders"

    @starts(Placed, key="id")
    def placed(self, state: State, event: Placed) -> Any:
        return Send(Reserve(event.id), undo=Release(event.id))


async def together(*errors: BaseException) -> None:
    """Raise them in one turn of the loop, as tasks of one group do, one of which has a group of its own."""
    at_once = asyncio.Event()

    async def fail(error: BaseException) -> None:
        await at_once.wait()
        raise error

    async def inner() -> None:
        async with asyncio.TaskGroup() as group:
            for error in errors[1:]:
                group.create_task(fail(error))

    async with asyncio.TaskGroup() as group:
        group.create_task(fail(errors[0]))
        group.create_task(inner())
        for _ in range(3):  # until all of them wait
            await asyncio.sleep(0)
        at_once.set()


async def plain(attempts: list[int], *errors: BaseException) -> None:
    attempts.append(1)
    await together(*errors)


async def generator(attempts: list[int], *errors: BaseException) -> AsyncIterator[Any]:
    attempts.append(1)
    await together(*errors)
    yield None


QUICKLY = RunnerSettings(dispatch_retry=RetryPolicy(attempts=4, base=timedelta(milliseconds=1)))


@pytest.mark.parametrize("handler", [plain, generator])
@pytest.mark.parametrize(
    ("errors", "status", "made"),
    [
        ((ConnectionError(), CommandRefused("sold out"), TypeError()), "compensated", 1),
        ((ConnectionError(), TypeError()), "parked", 1),
        ((ConnectionError(), TimeoutError()), "parked", 4),
    ],
)
async def test_a_refusal_in_a_group_counts_first_and_then_a_mistake_in_code(
    handler: Callable[..., Awaitable[None]], errors: tuple[BaseException, ...], status: str, made: int
) -> None:
    attempts: list[int] = []
    runner = SagaRunner(InMemoryJournal(), sagas=[Orders], dispatch={Release: lambda command: None}, settings=QUICKLY)

    @runner.command(Reserve, circuit=Circuit(failures=1) if status == "compensated" else None)
    def reserve(command: Reserve) -> Any:
        return handler(attempts, *errors)

    async with runner:
        await runner.handle(Placed("a"))
        await runner.settle()
        while not ((one := await runner.instance(Orders, "a")).parked or one.status == "compensated"):
            await asyncio.sleep(0.001)
        assert ("parked" if one.parked else one.status) == status
        assert len(attempts) == made
        assert not (await runner.health()).reasons, "a refusal is an answer of the receiver"


class Trips(ItinerarySaga[State]):
    name = "trips"
    starts_with, key = Placed, "id"

    def __init__(self) -> None:
        self.calls = 0

    @activity
    async def flight(self, state: State, call: Call) -> None:
        self.calls += 1
        await together(ConnectionError(), CommandRefused("full"))


async def test_an_activity_is_refused_out_of_a_group() -> None:
    trips = Trips()
    async with SagaRunner(InMemoryJournal(), sagas=[trips], settings=QUICKLY) as runner:
        await runner.handle(Placed("a"))
        outcome = await runner.outcome(Trips, "a", timeout=timedelta(seconds=30))
        assert (outcome.status, trips.calls) == ("compensated", 1)
