"""Skip, cancel and edit from outside end or change an instance, and keep what belongs to it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sagalog import JournalSagaStateStore, Status
from sagalog.decision.entries import Held
from sagalog.decision.record import encode_record
from sagalog.decision.repair import cancel, edit, retry, skip
from sagalog.definition.codec import Typed, encode

from ..orders import Cancelled, Failing, Noted, OrderSaga, Paid, Placed, Refund, Release
from .conftest import Bench
from .outside import apply, journal, park, stick


async def test_what_was_skipped_counts_as_consumed(shared: Bench) -> None:
    async with shared.runner() as runner:
        await park(shared, runner, Noted("a", "1"), fails=99)
        await apply(journal(shared), "order", "a", skip())
        await runner.settle()
        assert (await runner.handle(Failing("a"), message_id="bad")).duplicate
    assert await shared.log("a") == ["placed", "1"]


async def test_skipping_the_last_stuck_undo_ends_the_compensation(shared: Bench) -> None:
    runner = await stick(shared, Release, Placed("a"), Cancelled("a"))
    try:
        assert (await shared.record("a")).status is Status.COMPENSATING
        await apply(journal(shared), "order", "a", skip())
        assert (await shared.record("a")).status is Status.COMPENSATED
    finally:
        await runner.stop()


async def test_cancel_with_compensation_keeps_a_stuck_undo_and_goes_on(shared: Bench) -> None:
    runner = await stick(shared, Refund, Placed("a"), Paid("a"), Cancelled("a"))
    try:
        applied = await apply(journal(shared), "order", "a", cancel(compensate=True))
        assert applied.effects == ("continues its compensation: sends Refund, Release, last in first out",)
        await runner.settle()
    finally:
        await runner.stop()
    assert shared.world.names == ["Reserve", "Charge", "Refund", "Refund", "Refund", "Release"]
    assert (await shared.record("a")).status is Status.COMPENSATED


@pytest.mark.parametrize(("again", "sent"), [(retry, ["Refund", "Refund", "Release"]), (skip, ["Refund", "Release"])])
async def test_a_failed_compensation_is_taken_up_from_outside(shared: Bench, again: Any, sent: list[str]) -> None:
    shared.world.refuse = {Refund}
    async with shared.runner() as runner:
        for event in (Placed("a"), Paid("a"), Cancelled("a")):
            await runner.handle(event)
        await runner.settle()
        assert (await shared.record("a")).status is Status.COMPENSATION_FAILED
        shared.world.refuse = set()
        await apply(journal(shared), "order", "a", again())
        await runner.settle()
    assert shared.world.names[2:] == sent
    assert (await shared.record("a")).status is Status.COMPENSATED


async def test_cancel_from_outside_compensates_and_knows_what_it_dropped(shared: Bench) -> None:
    async with shared.runner() as runner:
        await park(shared, runner, Noted("a", "1"), fails=99)
        applied = await apply(journal(shared), "order", "a", cancel(compensate=True, by="ada"))
        assert applied.effects[-1] == "sends Release, last in first out"
        await runner.settle()
        assert (await runner.handle(Failing("a"), message_id="bad")).duplicate
        assert (await runner.handle(Noted("a", "1"), message_id="h0")).duplicate
    assert shared.world.names == ["Reserve", "Release"]
    record = await shared.record("a")
    assert record.status is Status.COMPENSATED
    assert [(entry.action, entry.by) for entry in record.audit] == [("cancel with compensation", "ada")]


async def test_cancel_as_it_stands_leaves_a_tombstone_that_knows_its_messages(shared: Bench) -> None:
    async with shared.runner() as runner:
        await park(shared, runner)
        applied = await apply(journal(shared), "order", "a", cancel(compensate=False))
        assert applied.effects == (
            "drops the held Failing, message bad; it counts as consumed",
            "drops the timers payment",
            "does not undo what was done: Release not sent",
            "ends the instance as it stands",
        )
        saved = await shared.stored("a")
        assert saved is not None
        assert (saved.tombstone, (await shared.record("a")).status) == (True, Status.CANCELLED)
        assert (await runner.handle(Failing("a"), message_id="bad")).duplicate
        assert await journal(shared).ids_by_prefix("saga::order::") == []
        shared.advance(days=8)
        await runner.settle()
        assert await shared.stored("a") is None


async def test_edit_replaces_the_state_and_leaves_the_rest(shared: Bench) -> None:
    async with shared.runner() as runner:
        await park(shared, runner, Noted("a", "1"))
        new = encode({"total": 2, "paid": True, "log": ["by hand"]})
        applied = await apply(journal(shared), "order", "a", edit(new, state_version=1))
        assert applied.effects == ("replaces the state", "stays parked: retry it once the state is right")
        same = await apply(journal(shared), "order", "a", edit(new, state_version=1))
        assert same.effects == ("nothing: the state is unchanged",)
        await runner.retry("order", "a")
        await runner.settle()
    assert await shared.log("a") == ["by hand", "recovered", "1"]
    assert [entry.action for entry in (await shared.record("a")).audit] == ["edit", "retry"]


async def test_what_an_ended_compensation_still_holds_is_not_buried_with_it(shared: Bench) -> None:
    shared.world.refuse = {Release}
    OrderSaga.fail_times = 99
    async with shared.runner() as runner:
        await park(shared, runner)
        await runner.cancel("order", "a")
        await runner.settle()
        record = await shared.record("a")
        assert record.status is Status.COMPENSATION_FAILED
    # What a handler for an event while compensating would leave: parked, and held, beside the failed compensation.
    held = (Held("late", Typed("Placed", msgspec.Raw(encode(Placed("a", 9))))),)
    record.parked, record.held = "a handler raised", held
    version = (await shared.stored("a")).version  # type: ignore[union-attr]
    await JournalSagaStateStore(journal(shared), "order").save("a", encode_record(record), expected_version=version)
    applied = await apply(journal(shared), "order", "a", skip())
    assert (applied.after.status, applied.after.finished) == (Status.COMPENSATED, False)
    async with shared.runner() as runner:
        await runner.settle()
        assert (await runner.handle(Placed("a", 9), message_id="late")).duplicate
    assert (await shared.record("a")).incarnation == 2
    assert await shared.log("a") == ["placed"]
