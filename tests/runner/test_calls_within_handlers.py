"""Handlers that call the runner themselves: what they wait for never waits for them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from sagalog import DefinitionError, InMemoryJournal, Saga, SagaRunner, Send, on, starts
from sagalog.runner.context import in_command_handler

from .conftest import Bench


@dataclass
class Begun:
    key: str


@dataclass
class Asks:
    key: str
    of: str
    how: str = "handle"


@dataclass
class Noted:
    key: str


@dataclass
class Do:
    key: str


@dataclass
class Count:
    noted: int = 0


class NestedSaga(Saga[Count]):
    name = "nested"
    runner: SagaRunner
    background: set[asyncio.Task[Any]] = set()
    together: asyncio.Barrier

    @starts(Begun, key="key")
    def begun(self, state: Count, event: Begun) -> Send:
        return Send(Do(event.key))

    @on(Noted, key="key")
    def noted(self, state: Count, event: Noted) -> None:
        state.noted += 1

    @on(Asks, key="key")
    async def asks(self, state: Count, event: Asks) -> None:
        runner = self.runner
        match event.how:
            case "handle":
                await runner.handle(Noted(event.of))
            case "task":
                await asyncio.gather(runner.handle(Noted(event.of)))
            case "many":
                await runner.handle_many([Noted(event.of)])
            case "round":
                await runner.handle(Asks(event.of, event.key))
            case "crosswise":
                await type(self).together.wait()
                await runner.handle(Noted(event.of))
            case "repair":
                await runner.retry("nested", event.of)
            case "settle":
                await runner.settle()
            case "left behind":
                task = asyncio.create_task(self.later(event.of))
                self.background.add(task)

    async def later(self, key: str) -> None:
        await asyncio.sleep(0.01)
        await self.runner.handle(Noted(key))


@pytest.mark.parametrize("how", ["handle", "task", "round", "repair", "settle"])
async def test_an_event_handler_that_waits_for_its_own_instance_is_told_at_once(bench: Bench, how: str) -> None:
    async with bench.runner(sagas=[NestedSaga]) as runner:
        NestedSaga.runner = runner
        await runner.handle_many([Begun("a"), Begun("b")])
        event = Asks("a", "b" if how == "round" else "a", how)
        with pytest.raises(DefinitionError, match="neither could ever continue.|a handler cannot call it"):
            await asyncio.wait_for(runner.handle(event), 40)
        assert (await runner.handle(Noted("a"))).handled


async def test_one_of_many_that_are_for_its_own_instance_is_told_at_once(bench: Bench) -> None:
    async with bench.runner(sagas=[NestedSaga]) as runner:
        NestedSaga.runner = runner
        await runner.handle(Begun("a"))
        assert (await asyncio.wait_for(runner.handle(Asks("a", "a", "many")), 40)).held  # an ExceptionGroup, retried


async def test_two_handlers_that_wait_for_each_others_instance_are_told(bench: Bench) -> None:
    async with bench.runner(sagas=[NestedSaga]) as runner:
        NestedSaga.runner, NestedSaga.together = runner, asyncio.Barrier(2)
        await runner.handle_many([Begun("a"), Begun("b")])
        crosswise = (runner.handle(Asks("a", "b", "crosswise")), runner.handle(Asks("b", "a", "crosswise")))
        told = await asyncio.wait_for(asyncio.gather(*crosswise, return_exceptions=True), 40)
        assert sum(isinstance(one, DefinitionError) for one in told) == 1  # the other one is then free to go on


async def test_an_event_handler_may_wait_for_another_instance_however_many_do(bench: Bench) -> None:
    async with bench.runner(sagas=[NestedSaga], max_in_flight=2) as runner:
        NestedSaga.runner = runner
        await runner.handle_many([Begun(f"{n}") for n in range(20)])
        asking = [runner.handle(Asks(f"{n}", f"{n + 10}")) for n in range(10)]
        receipts = await asyncio.wait_for(asyncio.gather(*asking), 40)
        assert all(receipt.handled for receipt in receipts)


async def test_what_a_handler_has_left_behind_may_call_for_its_instance(bench: Bench) -> None:
    async with bench.runner(sagas=[NestedSaga]) as runner:
        NestedSaga.runner = runner
        await runner.handle(Begun("a"))
        await runner.handle(Asks("a", "a", "left behind"))
        await asyncio.wait_for(asyncio.gather(*NestedSaga.background), 40)
        NestedSaga.background.clear()


async def test_command_handlers_that_call_handle_never_wait_for_room() -> None:
    runner = SagaRunner(InMemoryJournal(), sagas=[NestedSaga])
    bench = Bench(InMemoryJournal())

    async def do(command: Do) -> None:
        in_command_handler.set(True)
        await runner.handle(Noted(command.key))

    runner = bench.runner(sagas=[NestedSaga], dispatch={Do: do}, max_in_flight=8, max_dispatch=4)
    async with runner:
        await asyncio.wait_for(runner.handle_many([Begun(f"{n}") for n in range(200)]), 40)
        await asyncio.wait_for(runner.settle(), 40)
        assert runner.counters.commands == 200
        assert runner.counters.handled == 400
