"""Old and new workers on one journal: what only newer code can handle is left to it, and nothing else waits."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from sagalog import SagaParkedError
from sagalog.decision.state import decode_state

from ..orders import Cancelled, Noted, Placed
from .conftest import Bench
from .old_and_new import Asked, Newest, NewShip, NewState, NewUnship, Old, Ship, Side, dead_with, until


@pytest.fixture
def side(shared: Bench) -> Side:
    return Side(shared)


async def test_of_interleaved_events_each_is_handled_once_by_the_old_worker_or_by_the_new_one(side: Side) -> None:
    async with side.old() as old, side.new(Newest) as new:
        await old.handle(Placed("a"), message_id="placed")
        refused = 0
        for n in range(12):
            for worker in (old, new) if n % 2 == 0 else (new, old):
                try:
                    receipt = await worker.handle(Noted("a", str(n)), message_id=str(n))
                except SagaParkedError as error:
                    assert "State is stored with schema version 2; this code knows version 1" in str(error)
                    refused += 1
                else:
                    assert receipt.handled or receipt.duplicate
        # The new worker's first step, the one of event 1, made the state newer; a duplicate is one whatever the state.
        assert refused == 5
        await old.settle()
        await until(lambda: len(side.new_world.seen) == 11)  # they waited for the first command, the old worker's
        await new.settle()
    record = await side.bench.record("a")
    assert decode_state(Newest(), record) == NewState(["placed", *map(str, range(12))])
    assert record.inbox == ("placed", *map(str, range(12)))
    assert side.old_world.seen == [("saga::order::a/2/0", Ship("a"))]
    assert len({command_id for command_id, _ in side.new_world.seen}) == 11


async def test_an_old_worker_leaves_a_newer_command_to_a_new_one_and_writes_nothing(side: Side) -> None:
    await dead_with(side, Noted("a", "x"))
    before = await side.stored()
    async with side.old() as old:
        for _ in range(3):
            side.bench.advance(seconds=5.1)
            await old.settle()
            assert await side.stored() == before
        assert old.counters.dispatch_errors == 1  # then it does not even look, so that it is in nobody's way
        async with side.new() as new:
            await new.settle()
        assert side.new_world.seen == [("saga::order::a/2/0", NewShip("a"))]
        assert new.counters.takeovers == 1
    assert side.old_world.seen == []
    assert (await side.bench.record("a")).outbox == ()


async def test_what_is_left_is_looked_at_again_after_some_leases(side: Side) -> None:
    await dead_with(side, Noted("a", "x"))
    async with side.old() as old:
        side.bench.advance(seconds=6)
        await old.settle()
        side.bench.advance(seconds=16)
        await old.settle()
        assert old.counters.dispatch_errors == 2


async def test_a_newer_command_does_not_stop_what_else_is_due(side: Side) -> None:
    await dead_with(side, Noted("a", "x"))
    side.bench.advance(seconds=6)
    async with side.old() as old:
        await old.settle()
        hold = asyncio.Event()

        async def hang(command: Any) -> None:
            await hold.wait()

        async with side.bench.runner(
            sagas=[Old], dispatch=hang, due_poll=timedelta(seconds=3600), stop_timeout=timedelta(0)
        ) as dead:
            await dead.handle(Placed("b"))
            await dead.handle(Noted("b", "y"))
        side.bench.advance(seconds=6)
        await old.settle()
        assert side.old_world.seen == [("saga::order::b/2/0", Ship("b"))]
        assert old.counters.dispatch_errors == 1  # claimed with it, the other is not looked at again


async def test_an_old_worker_that_steps_before_a_newer_command_hands_both_over_at_once(side: Side) -> None:
    await dead_with(side, Noted("a", "x"))
    async with side.old() as old:
        side.bench.advance(seconds=6)
        await old.settle()
        for n in range(3):
            assert (await old.handle(Noted("a", str(n)))).handled
        async with side.new() as new:
            await new.settle()  # though no lease has ended since: its saves renewed none
        assert [command for _, command in side.new_world.seen] == [NewShip("a"), *[NewShip("a", express=False)] * 3]
        assert side.old_world.seen == []
        await old.settle()
    assert await side.log() == ["placed", "x", "0", "1", "2"]
    assert (await side.bench.record("a")).outbox == ()


async def test_what_was_accepted_before_a_newer_command_is_recorded_by_the_old_worker(side: Side) -> None:
    async with side.new() as new:
        await new.handle(Placed("a"))
        await new.handle(Asked("a", "undo"))
        await new.settle()
    hold = asyncio.Event()

    async def slow(command: Any) -> None:
        await hold.wait()

    async with side.bench.runner(
        sagas=[Old], dispatch=slow, due_poll=timedelta(seconds=3600), lease=timedelta(milliseconds=500)
    ) as old:
        await old.handle(Noted("a", "x"))
        await old.handle(Cancelled("a"))
        assert [entry.command.type for entry in (await side.bench.record("a")).outbox] == ["Ship", "Unship"]
        hold.set()
        async with asyncio.timeout(40):
            while (outbox := (await side.bench.record("a")).outbox)[0].command.type == "Ship":
                await asyncio.sleep(0.001)
        assert [(entry.command.type, entry.command.version) for entry in outbox] == [("Unship", 2)]


async def test_an_old_worker_compensates_and_leaves_newer_undo_commands_to_a_new_one(side: Side) -> None:
    async with side.new() as new:
        await new.handle(Placed("a"))
        await new.handle(Asked("a", "undo"))
        await new.settle()
    async with side.old() as old:
        assert (await old.handle(Cancelled("a"))).handled
        await old.settle()
        record = await side.bench.record("a")
        assert (record.status.value, record.parked, record.stuck) == ("compensating", "", "")
        side.bench.advance(seconds=6)
        async with side.new() as new:
            await new.settle()
    assert [command for _, command in side.new_world.seen] == [NewShip("a"), NewUnship("a")]
    assert (await side.bench.record("a")).status.value == "compensated"


async def test_an_old_worker_moves_a_scheduled_newer_command_to_the_outbox_and_leaves_it_there(side: Side) -> None:
    async with side.new() as new:
        await new.handle(Placed("a"))
        await new.handle(Asked("a", "schedule"))
    side.bench.advance(hours=2)
    async with side.old() as old:
        await old.settle()
        assert [entry.command.version for entry in (await side.bench.record("a")).outbox] == [2]
        async with side.new() as new:
            await new.settle()  # without waiting for a lease
    assert [command for _, command in side.new_world.seen] == [NewShip("a")]


@pytest.mark.parametrize(("what", "then"), [("timer", "reminded again"), ("told", "told")])
async def test_a_timer_that_only_newer_code_can_handle_is_left_to_it(side: Side, what: str, then: str) -> None:
    async with side.new() as new:
        await new.handle(Placed("a"))
        await new.handle(Asked("a", what))
    side.bench.advance(hours=2)
    before = await side.stored()
    async with side.old() as old:
        await old.settle()
        side.bench.advance(seconds=6)
        await old.settle()
        assert await side.due() == ["a"]  # it was not claimed again
        assert await side.stored() == before
        assert (await old.handle(Noted("a", "meanwhile"))).handled  # its state can be read
        assert old._started.caches["order"].runtime.unreadable == {}
        async with side.new() as new:
            await new.settle()
    assert await side.log() == ["placed", what, "meanwhile", then]
