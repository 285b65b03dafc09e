"""What belongs to a life that has ended stays with it, whoever ends the next one and whatever still comes of it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from sagalog import CommandRefused, InMemoryJournal, RunnerSettings, SagaRunner

from ..orders import Asked, Charge, Closed, Noted, OrderSaga, Paid, Placed, Refund, Release, Reserve
from .conftest import Bench


class Slow:
    """Answers a Charge when it is told to; carries out everything else at once."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked, self.gate = asyncio.Event(), asyncio.Event()

    async def __call__(self, command: Any) -> Any:
        if not isinstance(command, Charge):
            return None
        self.asked.set()
        await self.gate.wait()
        return self.answer


@pytest.mark.parametrize("several", [False, True])
async def test_an_answer_to_a_life_that_has_ended_is_not_handled_by_the_next(shared: Bench, several: bool) -> None:
    late = Noted("a", "late")
    slow = Slow([late, late] if several else late)
    async with shared.runner(dispatch=slow) as runner:
        for event in (Placed("a"), Paid("a")):
            await runner.handle(event)
        await slow.asked.wait()
        for event in (Closed("a"), Placed("a"), Noted("a", "now")):
            await runner.handle(event)
        slow.gate.set()
        await runner.settle()
        assert await shared.log("a") == ["placed", "now"]
        assert (await shared.record("a")).incarnation == 2


async def test_an_answer_that_may_start_an_instance_is_handled_whichever_life_it_meets(shared: Bench) -> None:
    slow = Slow(Placed("a"))
    async with shared.runner(dispatch=slow) as runner:
        for event in (Placed("a"), Paid("a")):
            await runner.handle(event)
        await slow.asked.wait()
        for event in (Closed("a"), Placed("a")):
            await runner.handle(event)
        slow.gate.set()
        await runner.settle()
        assert await shared.log("a") == ["placed", "placed"]


async def test_an_answer_for_another_instance_is_handled_whatever_life_that_one_is_in(shared: Bench) -> None:
    slow = Slow(Noted("b", "from a"))
    async with shared.runner(dispatch=slow) as runner:
        for event in (Placed("b"), Closed("b"), Placed("b"), Placed("a"), Paid("a")):
            await runner.handle(event)
        slow.gate.set()
        await runner.settle()
        assert await shared.log("b") == ["placed", "from a"]


async def test_cancel_as_it_stands_leaves_what_the_last_life_scheduled(bench: Bench) -> None:
    async with bench.runner() as runner:
        for event in (Placed("a"), Asked("a", "schedule"), Placed("a")):
            await runner.handle(event)
        made = await runner.cancel("order", "a", compensate=False)
        assert "drops the timers payment" in made.effects
        await runner.settle()
        bench.advance(hours=2)
        await runner.settle()
        assert bench.world.names == ["Reserve", "Reserve", "Survey"]


async def test_cancel_as_it_stands_leaves_what_takes_the_last_life_back() -> None:
    undoing, gate, done = asyncio.Event(), asyncio.Event(), []
    refuse = asyncio.Event()

    async def dispatch(command: Any) -> None:
        if isinstance(command, Charge):
            await refuse.wait()
            raise CommandRefused("no")
        if isinstance(command, Release):
            undoing.set()
            await gate.wait()
        done.append(type(command))

    async with SagaRunner(
        InMemoryJournal(),
        sagas=[OrderSaga],
        dispatch=dispatch,
        settings=RunnerSettings(lease=timedelta(milliseconds=300)),
    ) as runner:
        for event in (Placed("a"), Paid("a"), Closed("a"), Placed("a")):
            await runner.handle(event)
        refuse.set()  # the first life is taken back, while the second one lives
        await undoing.wait()
        made = await runner.cancel("order", "a", compensate=False)
        assert not any("drops Release" in effect for effect in made.effects)
        gate.set()
        await runner.settle()
        assert Release in done
        assert done.count(Reserve) == 2
        assert Refund not in done
