"""Each attempt, and each saga, decides on the event as it came, whatever another has done to the object."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from sagalog import Refused, Saga, Send, on, on_refused, starts
from sagalog.decision.record import decode_record

from .conftest import Bench


@dataclass
class Filled:
    key: str
    items: list[str]


@dataclass
class More:
    key: str
    items: list[str]


@dataclass
class MoreAsync:
    key: str
    items: list[str]


@dataclass
class Take:
    key: str
    items: list[str]


@dataclass
class Basket:
    items: list[str] = field(default_factory=list)


class Emptying(Saga[Basket]):
    """Its handlers empty what they are given, and then fail so many times."""

    name = "emptying"
    failures = 0

    def empty(self, state: Basket, items: list[str]) -> None:
        while items:
            state.items.append(items.pop(0))
        if type(self).failures > 0:
            type(self).failures -= 1
            raise RuntimeError("not yet")

    @starts(Filled, key="key")
    def filled(self, state: Basket, event: Filled) -> Send:
        self.empty(state, event.items)
        return Send(Take(event.key, ["t"]))

    @on(More, key="key")
    def more(self, state: Basket, event: More) -> None:
        self.empty(state, event.items)

    @on(MoreAsync, key="key")
    async def more_async(self, state: Basket, event: MoreAsync) -> None:
        await asyncio.sleep(0)
        self.empty(state, event.items)

    @on_refused(Take)
    def refused(self, state: Basket, refused: Refused[Take]) -> None:
        self.empty(state, refused.command.items)


class Second(Emptying):
    name = "second"


async def items(runner: Any, saga: str) -> list[str]:
    record = decode_record((await runner._started.caches[saga].runtime.store.load("a")).payload)
    return Emptying().decode_state(record.state_bytes()).items


@pytest.fixture(autouse=True)
def _afresh() -> None:
    Emptying.failures = Second.failures = 0


@pytest.mark.parametrize("event", [More, MoreAsync])
async def test_a_second_attempt_sees_the_event_as_it_came(bench: Bench, event: Any) -> None:
    async with bench.runner(sagas=[Emptying]) as runner:
        Emptying.failures = 1
        await runner.handle(Filled("a", ["1"]))
        Emptying.failures = 2
        await runner.handle(event("a", ["2", "3"]))
        assert await items(runner, "emptying") == ["1", "2", "3"]


async def test_what_is_held_is_the_event_as_it_came(bench: Bench) -> None:
    async with bench.runner(sagas=[Emptying]) as runner:
        await runner.handle(Filled("a", []))
        Emptying.failures = 3
        assert (await runner.handle(More("a", ["1", "2"]))).held
        await runner.retry("emptying", "a")
        assert await items(runner, "emptying") == ["1", "2"]


async def test_each_saga_sees_the_event_as_it_came(bench: Bench) -> None:
    if bench.journal is None:
        pytest.skip("one store holds one saga")
    async with bench.runner(sagas=[Emptying, Second]) as runner:
        await runner.handle(Filled("a", ["1", "2"]))
        await runner.handle(MoreAsync("a", ["3"]))
        assert await items(runner, "emptying") == await items(runner, "second") == ["1", "2", "3"]


async def test_a_step_that_another_worker_overtook_sees_the_event_as_it_came(shared: Bench) -> None:
    async with shared.runner(sagas=[Emptying]) as one, shared.runner(sagas=[Emptying]) as two:
        await one.handle(Filled("a", ["1"]))
        await two.handle(More("a", ["2"]))
        await one.handle(More("a", ["3"]))  # decided on an old record first
        assert one.counters.conflicts == 1
        assert await items(one, "emptying") == ["1", "2", "3"]


async def test_a_refusal_that_failed_once_is_decided_on_the_command_as_it_was_sent(bench: Bench) -> None:
    async with bench.runner(sagas=[Emptying]) as runner:
        bench.world.fail = {Take: 10**6}
        await runner.handle(Filled("a", []))
        Emptying.failures = 2
        bench.world.fail, bench.world.refuse = {}, {Take}
        while await items(runner, "emptying") != ["t"]:
            await asyncio.sleep(0.005)


async def test_the_senders_own_event_stays_as_it_was(bench: Bench) -> None:
    async with bench.runner(sagas=[Emptying]) as runner:
        event = Filled("a", ["1"])
        await runner.handle(event)
        assert event == Filled("a", ["1"])  # so the sender can send it again


class Answered(Saga[Basket]):
    name = "answered"

    @starts(Filled, key="key")
    def filled(self, state: Basket, event: Filled) -> Send:
        return Send(Take(event.key, []))

    @on(More, key="key")
    def more(self, state: Basket, event: More) -> None:
        event.items.append(event.key)
        state.items = event.items


async def test_what_a_command_handler_answers_is_not_shared_between_instances(bench: Bench) -> None:
    prices = ["10"]  # kept by the service: a constant, a cache
    async with bench.runner(sagas=[Answered], dispatch=lambda command: More(command.key, prices)) as runner:
        for key in ("a", "b"):
            await runner.handle(Filled(key, []))
            await runner.settle()
        assert (await runner.state(Answered, "b")).items == ["10", "b"]
        assert prices == ["10"]
