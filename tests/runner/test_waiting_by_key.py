"""Events that wait for somebody to hold a key: they keep nobody from taking it, and many cost little more than one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from sagalog import InMemoryJournal, NoInstance, NoInstanceError, Outcome, RunnerSettings, SagaRunner
from sagalog.testing.simulation.clock import LoopClock

from ..keyed import Blocked, Moved, Ordered, ParcelSaga
from ..shipping import virtually
from .conftest import FourMethodStore


class CountedStore(FourMethodStore):
    """Counts how often all of its ids are read."""

    def __init__(self) -> None:
        super().__init__()
        self.readings = 0

    async def keys(self) -> AsyncIterator[str]:
        self.readings += 1
        for key in list(self.saved):
            await asyncio.sleep(0.01)
            yield key


def waiting(source: Any, seconds: float, **more: Any) -> SagaRunner:
    settings = RunnerSettings(no_instance=NoInstance.WAIT, no_instance_wait=timedelta(seconds=seconds), **more)
    clock = LoopClock(timedelta(0))
    return SagaRunner(source, sagas=[ParcelSaga], dispatch=lambda command: None, settings=settings, clock=clock)


@pytest.mark.parametrize("kind", ["memory", "store"])
def test_who_waits_for_a_key_holds_no_place_that_its_next_holder_needs(kind: str) -> None:
    async def story() -> None:
        source = InMemoryJournal() if kind == "memory" else {"parcel": FourMethodStore()}
        async with waiting(source, 60, max_in_flight=2) as one:
            await one.handle(Ordered("A"))
            blocked = [asyncio.ensure_future(one.handle(Blocked(f"c-{number}"))) for number in range(2)]
            await asyncio.sleep(1)  # of virtual time
            for number in range(2):
                await one.handle(Moved("A", new=f"c-{number}"))
            told = await asyncio.gather(*blocked, return_exceptions=True)
            assert [getattr(each, "outcomes", each) for each in told] == [{"parcel": Outcome.HANDLED}] * 2

    virtually(story())


def test_all_who_wait_for_keys_share_the_readings_of_a_store_without_an_index() -> None:
    async def story() -> None:
        store = CountedStore()
        async with waiting({"parcel": store}, 30) as one:
            for number in range(3):
                await one.handle(Ordered(f"P-{number}"))
            await asyncio.sleep(60)  # what the runner itself looks for at its start is over
            before = store.readings
            waiters = [asyncio.ensure_future(one.handle(Blocked(f"c-{number}"))) for number in range(100)]
            told = await asyncio.gather(*waiters, return_exceptions=True)
            assert all(isinstance(each, NoInstanceError) for each in told)
            # One reading is for all that came together; then one in half a second is for all that wait.
            assert store.readings - before <= 2 + 62

            waiters = [asyncio.ensure_future(one.handle(Blocked(f"c-{number}"))) for number in range(10)]
            await asyncio.sleep(20)
            for number in range(10):
                await one.handle(Moved("P-1", new=f"c-{number}"))
            receipts = await asyncio.gather(*waiters)
            assert all(receipt.handled for receipt in receipts)

    virtually(story())


def test_events_by_a_key_that_come_together_share_a_reading_of_a_store_without_an_index() -> None:
    async def story() -> None:
        store = CountedStore()
        async with waiting({"parcel": store}, 30) as one:
            for number in range(20):
                await one.handle(Ordered(f"P-{number}", [f"c-{number % 2}"]))
            before = store.readings
            told = await asyncio.gather(*(one.handle(Blocked(f"c-{number % 2}")) for number in range(100)))
            assert {len(receipt.instances["parcel"]) for receipt in told} == {10}
            assert store.readings - before == 1

            first = asyncio.ensure_future(one.handle(Blocked("c-2")))
            await asyncio.sleep(0.15)  # of the 0.2 s that a reading takes
            await one.handle(Moved("P-1", new="c-2"))
            second = asyncio.ensure_future(one.handle(Blocked("c-2")))  # the reading under way is not for this one
            assert list((await second).instances["parcel"]) == ["P-1"]
            assert list((await first).instances["parcel"]) == ["P-1"]  # it has waited

    virtually(story())


def test_stopping_ends_the_reading_that_events_by_a_key_share() -> None:
    async def story() -> None:
        one = waiting({"parcel": CountedStore()}, 30)
        await one.start()
        for number in range(50):
            await one.handle(Ordered(f"P-{number}", ["c-1"]))
        asked = [asyncio.ensure_future(one.handle(Blocked("c-1"))) for _ in range(3)]
        await asyncio.sleep(0.1)  # of the 0.5 s that the reading takes
        await one.stop()
        told = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(each).__name__ for each in told] == ["RunnerStoppedError"] * 3

    virtually(story())


def test_a_store_that_fails_while_events_wait_for_a_key_tells_each_of_them() -> None:
    class Failing(CountedStore):
        async def load(self, correlation_id: str) -> Any:
            if self.readings > 5:
                raise OSError("the disk is away")
            return await super().load(correlation_id)

    async def story() -> None:
        async with waiting({"parcel": Failing()}, 30) as one:
            await one.handle(Ordered("A"))
            told = await asyncio.gather(*(one.handle(Blocked(f"c-{n}")) for n in range(3)), return_exceptions=True)
            assert [type(each).__name__ for each in told] == ["OSError"] * 3

    virtually(story())


def test_stopping_tells_those_who_wait_for_a_key_and_waits_for_no_reading() -> None:
    async def story() -> None:
        store = CountedStore()
        one = waiting({"parcel": store}, 600)
        others = asyncio.all_tasks()
        await one.start()
        await one.handle(Ordered("A"))
        waiters = [asyncio.ensure_future(one.handle(Blocked(f"c-{number}"))) for number in range(3)]
        await asyncio.sleep(20)
        await one.stop()
        told = await asyncio.gather(*waiters, return_exceptions=True)
        assert [type(each).__name__ for each in told] == ["RunnerStoppedError"] * 3
        assert asyncio.all_tasks() == others

    virtually(story())
