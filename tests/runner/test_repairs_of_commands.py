"""Stuck, accepted and refused commands are sent again or dropped from outside."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sagalog import RepairError, Status
from sagalog.decision.repair import edit, retry, skip
from sagalog.definition.codec import encode
from sagalog.operating.apply import resending

from ..orders import Charge, Closed, Noted, Paid, Placed, Reserve, Ship
from .conftest import Bench
from .outside import apply, journal, stick


async def test_retry_delivers_a_stuck_command_again_with_all_its_attempts(shared: Bench) -> None:
    runner = await stick(shared, Reserve, Placed("a"))
    try:
        shared.world.fail = {Reserve: 1}
        assert (await runner.handle(Noted("a", "held"))).held
        applied = await apply(journal(shared), "order", "a", retry())
        assert applied.effects[0] == "delivers Reserve (1/0) again"
        while "Note" not in shared.world.names:
            await asyncio.sleep(0.001)
        await runner.settle()
    finally:
        await runner.stop()
    assert shared.world.names == ["Reserve"] * 4 + ["Note"]
    assert len({command_id for command_id, command in shared.world.seen if isinstance(command, Reserve)}) == 1


async def test_skip_drops_a_stuck_command_and_says_that_nobody_knows_how_far_it_came(shared: Bench) -> None:
    runner = await stick(shared, Reserve, Placed("a"))
    try:
        applied = await apply(journal(shared), "order", "a", skip())
        assert applied.effects == ("drops Reserve (1/0), which was not accepted; it may have been carried out",)
        await runner.handle(Noted("a", "on"))
        await runner.settle()
    finally:
        await runner.stop()
    assert shared.world.names == ["Reserve", "Reserve", "Note"]
    assert [undo.of for undo in (await shared.record("a")).undo] == ["1/0"]


async def test_a_completed_instance_whose_last_command_is_stuck_can_be_repaired(shared: Bench) -> None:
    runner = await stick(shared, Ship, Placed("a"), Closed("a"))
    try:
        record = await shared.record("a")
        assert (record.status, record.finished) == (Status.COMPLETED, False)
        assert (await runner.retry("order", "a")).effects == ("delivers Ship (2/0) again",)
        await runner.settle()
    finally:
        await runner.stop()
    assert shared.world.names == ["Reserve", "Ship", "Ship", "Ship"]
    saved = await shared.stored("a")
    assert saved is not None
    assert saved.tombstone


async def test_an_edit_does_not_take_commands_from_the_worker_that_delivers_them(shared: Bench) -> None:
    hold, called = asyncio.Event(), asyncio.Event()
    seen: list[str] = []

    async def slow(command: Any) -> None:
        seen.append(type(command).__name__)
        called.set()
        await hold.wait()

    async with shared.runner(dispatch=slow) as one, shared.runner(dispatch=slow) as two:
        await one.handle(Placed("a"))
        await called.wait()
        await apply(journal(shared), "order", "a", edit(encode({"log": ["by hand"]}), state_version=1))
        await two._started.due_loop.scan(two._started.caches["order"], shared.clock.now())  # type: ignore[union-attr]
        assert seen == ["Reserve"]
        hold.set()
        await one.settle()
    assert seen == ["Reserve"]
    assert await shared.log("a") == ["by hand"]


async def test_resend_sends_an_accepted_command_again_under_the_same_id(shared: Bench) -> None:
    async with shared.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.settle()
        repair = await resending(journal(shared), "order", "a", "1/0", by="ada")
        applied = await apply(journal(shared), "order", "a", repair)
        assert applied.effects == ("sends Reserve (1/0) again, under the same id",)
        with pytest.raises(RepairError, match="is in the outbox already"):
            await apply(journal(shared), "order", "a", repair)
        await runner.settle()
    assert [command_id for command_id, _ in shared.world.seen] == ["saga::order::a/1/0"] * 2


async def test_resend_of_an_instance_that_has_ended_leaves_it_ended(shared: Bench) -> None:
    async with shared.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Closed("a"))
        await runner.settle()
        repair = await resending(journal(shared), "order", "a", "saga::order::a/2/0")
        await apply(journal(shared), "order", "a", repair)
        await runner.settle()
        assert (await runner.handle(Noted("a"))).ignored
    assert shared.world.names == ["Reserve", "Ship", "Ship"]
    saved = await shared.stored("a")
    assert saved is not None
    assert saved.tombstone
    assert (await shared.record("a")).status is Status.COMPLETED


async def test_a_command_that_was_refused_may_be_refused_again_when_it_is_resent(shared: Bench) -> None:
    shared.world.refuse = {Charge}
    async with shared.runner() as runner:
        for event in (Placed("a"), Paid("a")):
            await runner.handle(event)
            await runner.settle()
        assert shared.world.names == ["Reserve", "Charge", "Release"]
        charge = shared.world.seen[1][0]
        await apply(journal(shared), "order", "a", await resending(journal(shared), "order", "a", charge))
        await runner.settle()
    assert shared.world.names == ["Reserve", "Charge", "Release", "Charge"]
    assert shared.world.seen[3][0] == charge
    assert (await shared.record("a")).finished


@pytest.mark.parametrize("unknown", ["9/0", "1/7", "x", "99999999999999999999/0", "saga::order::b/1/0", ""])
async def test_a_command_that_history_does_not_have_cannot_be_resent(shared: Bench, unknown: str) -> None:
    async with shared.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.settle()
    with pytest.raises(RepairError, match="is not a command in the kept history"):
        await resending(journal(shared), "order", "a", unknown)
