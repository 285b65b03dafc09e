"""On an event loop whose tasks begin at once: what a task has noted of itself must not be overwritten by its starter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from sagalog import Complete, RetryPolicy, Saga, Send, SetTimer, on, starts

from .conftest import Bench
from .eagerly import eager_task_factory


@dataclass
class Placed:
    id: str


@dataclass
class Reserve:
    id: str


@dataclass
class Reserved:
    id: str


@dataclass
class Closing:
    id: str


@dataclass
class State:
    failed: bool = False


class Orders(Saga[State]):
    """Its handlers are asynchronous, and never wait."""

    name = "orders"

    @starts(Placed, key="id")
    async def placed(self, state: State, event: Placed) -> Any:
        return Send(Reserve(event.id))

    @on(Reserved, key="id")
    async def reserved(self, state: State, event: Reserved) -> Any:
        yield SetTimer("closing", Closing(event.id), after=timedelta(0))

    @on(Closing, key="id")
    async def closing(self, state: State, event: Closing) -> Any:
        return Complete(event.id)


@pytest.fixture
async def eager() -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    loop.set_task_factory(eager_task_factory)
    yield
    loop.set_task_factory(before)


async def test_asynchronous_handlers_that_never_wait_end_their_sagas(bench: Bench, eager: None) -> None:
    failed: set[str] = set()

    async def reserve(command: Reserve) -> Reserved:
        if command.id not in failed:
            failed.add(command.id)
            raise ConnectionError
        return Reserved(command.id)

    retry = RetryPolicy(base=timedelta(milliseconds=1))
    names = [str(number) for number in range(40)]
    async with bench.runner(sagas=(Orders,), dispatch=reserve, dispatch_retry=retry) as runner:
        await runner.handle(Placed("0"), message_id="m")
        await runner.handle_many(Placed(name) for name in names[1:])
        assert (await runner.handle(Placed("0"), message_id="m")).duplicate
        ends = [runner.outcome(Orders, name, timeout=timedelta(seconds=60)) for name in names]
        assert [end.result for end in await asyncio.gather(*ends)] == names
