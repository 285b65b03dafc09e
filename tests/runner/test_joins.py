"""Joins with a runner: legs before the start, at once, on two workers, and a join that raises."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from sagalog import JournalSagaStateStore, NoInstance, NoInstanceError, SagaRecord, SagaRunner
from sagalog.decision.record import decode_record

from ..joining import JoinSaga, Ordered, Paid, Reserved, Ship
from .conftest import Bench


@pytest.fixture(autouse=True)
def _works() -> Iterator[None]:
    JoinSaga.failing = False
    yield
    JoinSaga.failing = False


def runner(bench: Bench, **settings: Any) -> SagaRunner:
    return bench.runner(sagas=[JoinSaga], **settings)


async def record(bench: Bench) -> SagaRecord:
    if bench.journal is None:
        saved = await bench.plain.load("a")
    else:
        saved = await JournalSagaStateStore(bench.journal, "join").load_with_tombstone("a")
    assert saved is not None
    return decode_record(saved.payload)


async def log(bench: Bench) -> list[str]:
    return JoinSaga().decode_state((await record(bench)).state_bytes()).log


async def test_legs_that_come_at_once_and_in_other_workers_run_it_once(shared: Bench) -> None:
    async with runner(shared) as one, runner(shared) as two:
        await one.handle(Ordered("a"))
        await asyncio.gather(one.handle(Paid("a")), two.handle(Reserved("a")), one.handle(Reserved("a")))
        async with asyncio.timeout(30):  # a worker waits for the other's command before its own, which is not its work
            while "Ship" not in shared.world.names:
                await asyncio.gather(one.settle(), two.settle())
                await asyncio.sleep(0.01)
    assert (await log(shared)).count("ready") == 1
    assert shared.world.names.count("Ship") == 1


async def test_legs_across_restarts_run_it_once(bench: Bench) -> None:
    for event in (Ordered("a"), Reserved("a"), Paid("a"), Reserved("a")):
        async with runner(bench) as running:
            await running.handle(event)
            await running.settle()
    assert await log(bench) == ["ordered", "reserved", "paid", "ready", "reserved"]
    assert bench.world.names == ["Thank", "Ship"]


async def test_a_leg_before_the_start_counts_where_it_waits_for_the_start(quick: Bench) -> None:
    async with runner(quick, no_instance=NoInstance.WAIT, no_instance_wait=timedelta(seconds=10)) as running:
        early = asyncio.ensure_future(running.handle(Reserved("a")))
        await asyncio.sleep(0)
        await running.handle(Ordered("a"))
        await early
        await running.handle(Paid("a"))
        await running.settle()
    assert await log(quick) == ["ordered", "reserved", "paid", "ready"]


async def test_a_leg_before_the_start_that_is_declined_counts_when_its_sender_sends_it_again(quick: Bench) -> None:
    async with runner(quick, no_instance=NoInstance.RAISE) as running:
        with pytest.raises(NoInstanceError):
            await running.handle(Reserved("a"), message_id="r")
        await running.handle(Ordered("a"))
        await running.handle(Paid("a"))
        assert "ready" not in await log(quick)
        await running.handle(Reserved("a"), message_id="r")
    assert (await log(quick))[-2:] == ["reserved", "ready"]


async def test_a_join_that_raises_parks_its_leg_and_runs_once_after_the_repair(quick: Bench) -> None:
    async with runner(quick) as running:
        await running.handle(Ordered("a"))
        await running.handle(Reserved("a"))
        JoinSaga.failing = True
        assert (await running.handle(Paid("a"))).held
        assert await log(quick) == ["ordered", "reserved"]
        assert (await record(quick)).joins["ready"].waits == ("Paid",)
        JoinSaga.failing = False
        await running.retry("join", "a")
        await running.settle()
        await running.handle(Paid("a"))
    assert await log(quick) == ["ordered", "reserved", "paid", "ready", "paid"]
    assert [command for _, command in quick.world.seen].count(Ship("a")) == 1
