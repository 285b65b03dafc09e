"""Places for events at work: who waits for one is neither kept out nor overtaken, however many they are."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from sagalog import InMemoryJournal, Outcome, RunnerStoppedError

from ..orders import Noted, Paid, Placed
from .conftest import Bench


class Gated(InMemoryJournal):
    """It writes nothing until the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.gate = asyncio.Event()

    async def write_batch(self, records: Any) -> Any:
        self.asked.set()
        await self.gate.wait()
        return await super().write_batch(records)


@pytest.mark.parametrize("places", [1, 3])
async def test_a_starting_event_finds_a_place_although_events_that_wait_for_it_hold_all(
    shared: Bench, places: int
) -> None:
    async with shared.runner(
        no_instance="wait", no_instance_wait=timedelta(seconds=60), max_in_flight=places
    ) as runner:
        waiting = [asyncio.create_task(runner.handle(Paid("a"), message_id=f"m{n}")) for n in range(2 * places)]
        while runner.gauges().in_flight < places:
            await asyncio.sleep(0)
        starts = [runner.handle(Placed(key), message_id=f"s{key}") for key in "abcde"]
        async with asyncio.timeout(40):
            await asyncio.gather(*starts)
            receipts = await asyncio.gather(*waiting)
        assert [receipt.outcomes["order"] for receipt in receipts] == [Outcome.HANDLED] * len(waiting)


async def test_starting_events_are_bounded_as_well(shared: Bench) -> None:
    async with shared.runner(no_instance="wait", max_in_flight=2) as runner:
        starts = [asyncio.create_task(runner.handle(Placed(f"k{n}"), message_id=f"s{n}")) for n in range(20)]
        most = 0
        while not all(start.done() for start in starts):
            await asyncio.sleep(0)
            most = max(most, runner.gauges().in_flight)
        assert most == 2


@pytest.mark.parametrize("no_instance", ["ignore", "wait"])
async def test_events_that_wait_for_a_place_are_handled_in_the_order_they_came(shared: Bench, no_instance: str) -> None:
    numbers = range(150)
    async with shared.runner(no_instance=no_instance, max_in_flight=2) as runner:
        await runner.handle(Placed("a"))
        calls = []
        for n in numbers:  # newcomers at every moment, also between the leaving of one and the entry of the next
            calls.append(asyncio.create_task(runner.handle(Noted("a", str(n)))))
            await asyncio.sleep(0)
        await asyncio.gather(*calls)
        assert (await shared.log("a"))[1:] == [str(n) for n in numbers]


async def test_a_caller_that_withdraws_leaves_its_place_to_the_next_at_whatever_moment() -> None:
    journal = InMemoryJournal()
    async with Bench(journal).runner(max_in_flight=1) as runner:
        await runner.handle(Placed("a"))
        for moment in range(12):
            calls = [asyncio.create_task(runner.handle(Noted("a", str(n)))) for n in range(4)]
            for _ in range(moment):
                await asyncio.sleep(0)
            calls[1].cancel()
            calls[2].cancel()
            async with asyncio.timeout(40):
                await asyncio.gather(*calls, return_exceptions=True)
            assert runner.gauges().in_flight == 0
            assert (await calls[3]).handled


async def test_who_waits_for_a_place_when_the_runner_stops_is_told_at_once() -> None:
    journal = Gated()
    runner = Bench(journal).runner(max_in_flight=1)
    await runner.start()
    calls = [asyncio.create_task(runner.handle(Placed(f"k{n}"))) for n in range(5)]
    await journal.asked.wait()
    stopping = asyncio.create_task(runner.stop())
    async with asyncio.timeout(40):
        for call in calls[1:]:
            with pytest.raises(RunnerStoppedError):
                await call
        journal.gate.set()
        assert (await calls[0]).handled
        await stopping
