"""Events that wait for their starting event do not keep it out, however many they are."""

from __future__ import annotations

import asyncio

import pytest

from sagalog import Outcome

from ..orders import Paid, Placed
from .conftest import Bench


@pytest.mark.parametrize("places", [1, 3])
async def test_a_starting_event_finds_a_place_although_events_that_wait_for_it_hold_all(
    shared: Bench, places: int
) -> None:
    async with shared.runner(no_instance="wait", no_instance_wait_seconds=10, max_in_flight=places) as runner:
        waiting = [asyncio.create_task(runner.handle(Paid("a"), message_id=f"m{n}")) for n in range(2 * places)]
        while runner.gauges().in_flight < places:
            await asyncio.sleep(0)
        starts = [runner.handle(Placed(key), message_id=f"s{key}") for key in "abcde"]
        async with asyncio.timeout(5):
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
