"""A runner that only takes events: the workers on its journal do everything else, and at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from sagalog import (
    CommandContext,
    DefinitionError,
    EventClock,
    RunnerSettings,
    SagaRunner,
    Status,
)

from ..orders import Closed, Failing, Noted, OrderSaga, Placed, Reserve, World
from ..servers.processes import eventually
from .conftest import Bench


def client_of(bench: Bench, **settings: Any) -> SagaRunner:
    return bench.runner(dispatch=World(), **settings).using(client=True)


async def test_a_worker_takes_the_commands_of_a_client_at_once(shared: Bench) -> None:
    async with client_of(shared) as client, shared.runner():
        assert (await client.handle(Placed("a"), message_id="1")).handled
        assert (await client.handle(Placed("a"), message_id="1")).duplicate
        await eventually(lambda: len(shared.world.seen) == 1)  # the clock stands still: no lease has ended
        await client.settle()
    assert [command_id for command_id, _ in shared.world.seen] == ["saga::order::a/1/0"]


async def test_commands_of_several_steps_of_a_client_are_taken_at_once_and_in_order(shared: Bench) -> None:
    async with client_of(shared) as client:
        for number in range(3):
            await client.handle(Placed("a"), message_id=str(number))
    async with shared.runner():
        await eventually(lambda: len(shared.world.seen) == 3)
    assert [command_id for command_id, _ in shared.world.seen] == [f"saga::order::a/{nr}/0" for nr in (1, 2, 3)]


async def test_a_client_takes_over_nothing_and_fires_nothing(shared: Bench) -> None:
    async with shared.runner(dispatch=lambda command: None) as worker:
        await worker.handle(Placed("a"))
        await worker.settle()
    async with client_of(shared, lease=timedelta(milliseconds=50)) as client:
        await client.handle(Placed("b"))
        await asyncio.sleep(0.2)  # time enough to claim its own commands, which it must not
        assert (await client.instance(OrderSaga, "b")).version == 1
        shared.advance(minutes=20)  # the timers are due, and every lease has ended
        await client.settle()
        await client.handle(Noted("b", "x"))
        health = await client.health()
        assert health.ready, health.reasons  # what lies about is no fault of a client
        assert (await client.state(OrderSaga, "a")).log == ["placed"]
        assert (await client.state(OrderSaga, "b")).log == ["placed", "x"]
        async with shared.runner() as worker:
            await worker.settle()
            assert "overdue" in (await worker.state(OrderSaga, "a")).log
    assert [command for _, command in shared.world.seen].count(Reserve("b")) == 1


async def test_a_step_of_a_client_leaves_a_worker_the_lease_on_what_it_delivers(shared: Bench) -> None:
    gate, begun = asyncio.Event(), asyncio.Event()
    seen: list[str] = []

    async def slow(command: Any, context: CommandContext) -> None:
        seen.append(context.id)
        begun.set()
        await gate.wait()

    async with client_of(shared) as client, shared.runner(dispatch=slow) as worker:
        await worker.handle(Placed("a"))
        await begun.wait()
        async with shared.runner(dispatch=slow) as other:
            await client.handle(Noted("a", "between"))
            for _ in range(3):
                await other.state(OrderSaga, "a")
                await asyncio.sleep(0.06)  # some looks at what is due
            assert seen == ["saga::order::a/1/0"]
            gate.set()
            await worker.settle()
    assert seen == ["saga::order::a/1/0"]


async def test_a_client_is_told_how_it_ended_by_a_worker(shared: Bench) -> None:
    async with client_of(shared) as client, shared.runner():
        await client.handle(Placed("a"))
        await eventually(lambda: shared.world.seen)
        await client.handle(Closed("a"))
        outcome = await client.outcome(OrderSaga, "a")
        assert outcome.status is Status.COMPLETED


async def test_a_client_tries_a_failed_handler_again_and_parks(shared: Bench) -> None:
    OrderSaga.fail_times = 5
    async with client_of(shared) as client:
        await client.handle(Placed("a"))
        assert (await client.handle(Failing("a"))).held
        OrderSaga.fail_times = 0
        await client.retry("order", "a")
    async with shared.runner() as worker:
        await eventually(lambda: shared.world.seen)
        await worker.settle()


def test_a_client_that_nobody_could_work_for_is_refused() -> None:
    with pytest.raises(DefinitionError, match="no worker"):
        SagaRunner("memory://", sagas=[OrderSaga], client=True)
    with pytest.raises(DefinitionError, match="EventClock"):
        SagaRunner("sqlite:///x.db", sagas=[OrderSaga], client=True, clock=EventClock())
    with pytest.raises(DefinitionError, match="True or False"):
        SagaRunner("sqlite:///x.db", sagas=[OrderSaga], client="yes")  # type: ignore[arg-type]
    assert SagaRunner("sqlite:///x.db", sagas=[OrderSaga], client=True).using(client=False).client is False


async def test_resources_are_open_before_any_command_and_until_the_last(shared: Bench) -> None:
    told: list[Any] = []

    @asynccontextmanager
    async def pool(runner: SagaRunner) -> AsyncIterator[str]:
        task = asyncio.current_task()
        told.append(f"opened, journal {'' if runner.journal is None else 'open'}")
        async with asyncio.timeout(60):  # must be left by the task that has entered it
            yield "the pool"
        assert asyncio.current_task() is task
        told.append("closed")

    def dispatch(command: Any, context: CommandContext) -> None:
        told.append(context.resources)
        assert "the pool" not in repr(context)

    first = SagaRunner(
        shared.source,
        sagas=[OrderSaga],
        dispatch=dispatch,
        clock=shared.clock,
        settings=RunnerSettings(due_poll=timedelta(milliseconds=50)),
        lifespan=pool,
    )
    async with client_of(shared) as client:
        await client.handle(Placed("a"))
    for runner in (first, first.using()):  # and again, by a task of its own
        await asyncio.create_task(runner.start())
        assert runner.resources == "the pool"
        await runner.handle(Placed("b"))
        await runner.settle()
        await asyncio.create_task(runner.stop())
        assert runner.resources is None
    assert [one for one in told if one != "the pool"] == [told[0], "closed"] * 2
    assert told[-1] == "closed"
    assert told.count("the pool") == 3


async def test_what_cannot_be_opened_is_told_and_the_journal_is_closed_again(tmp_path: Any) -> None:
    @asynccontextmanager
    async def broken(runner: SagaRunner) -> AsyncIterator[None]:
        raise OSError("no route")
        yield

    runner = SagaRunner(f"sqlite:///{tmp_path}/x.db", sagas=[OrderSaga], lifespan=broken)
    for _ in range(2):
        with pytest.raises(OSError, match="no route"):
            await runner.start()
        assert runner.journal is None or not runner.gauges().in_flight
    for wrong in (lambda runner: None, "pool"):
        with pytest.raises(DefinitionError, match="lifespan="):
            await SagaRunner(f"sqlite:///{tmp_path}/x.db", sagas=[OrderSaga], lifespan=wrong).start()  # type: ignore[arg-type]
