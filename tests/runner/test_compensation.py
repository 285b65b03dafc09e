"""Guarantees 3 and 9: commands leave after their step is durable; compensation runs backwards, one by one."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from sagalog import JournalSagaStateStore, JournalUnavailableError, NoInstanceError, Status
from sagalog.decision.inbox import each
from sagalog.decision.record import decode_record

from ..orders import Cancelled, Charge, Closed, Noted, Overdue, Paid, Placed, Refund, Release, Reserve, Reserved, Ship
from .conftest import Bench, Gate


async def test_no_command_leaves_before_its_step_is_durable(shared: Bench) -> None:
    assert shared.journal is not None
    gate = Gate(JournalSagaStateStore(shared.journal, "order"))
    opened, entered = asyncio.Event(), asyncio.Event()

    async def hold(key: str, payload: bytes) -> None:
        entered.set()
        await opened.wait()

    gate.before = hold
    async with shared.runner(gate) as runner:
        task = asyncio.create_task(runner.handle(Placed("a")))
        await entered.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        assert shared.world.seen == []
        opened.set()
        await task
        await runner.settle()
    assert shared.world.names == ["Reserve"]


async def test_a_step_that_is_not_stored_releases_nothing(shared: Bench) -> None:
    assert shared.journal is not None
    gate = Gate(JournalSagaStateStore(shared.journal, "order"))

    def refuse(key: str, payload: bytes) -> None:
        raise JournalUnavailableError("no")

    gate.before = refuse
    async with shared.runner(gate) as runner:
        with pytest.raises(JournalUnavailableError):
            await runner.handle(Placed("a"))
        await runner.settle()
    assert shared.world.seen == []


async def test_compensation_runs_last_in_first_out(bench: Bench) -> None:
    async with bench.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Paid("a"))
        await runner.handle(Cancelled("a"))
        await runner.settle()
    assert bench.world.names == ["Reserve", "Charge", "Refund", "Release"]
    assert (await bench.record("a")).status is Status.COMPENSATED


async def test_an_undo_command_waits_until_the_one_before_was_accepted(bench: Bench) -> None:
    refunding, accepted = asyncio.Event(), asyncio.Event()
    order: list[str] = []

    async def dispatch(command: Any) -> None:
        order.append(type(command).__name__)
        if isinstance(command, Refund):
            refunding.set()
            await accepted.wait()
            order.append("Refund accepted")

    async with bench.runner(dispatch=dispatch) as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Paid("a"))
        await runner.handle(Cancelled("a"))
        await refunding.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        assert order == ["Reserve", "Charge", "Refund"]
        assert (await bench.record("a")).status is Status.COMPENSATING
        accepted.set()
        await runner.settle()
    assert order == ["Reserve", "Charge", "Refund", "Refund accepted", "Release"]
    assert (await bench.record("a")).status is Status.COMPENSATED


async def test_undo_comes_after_commands_that_were_not_delivered_yet(bench: Bench) -> None:
    bench.world.fail = {Reserve: 3}
    async with bench.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Cancelled("a"))
        while "Release" not in bench.world.names:
            await asyncio.sleep(0.001)
        await runner.settle()
    assert bench.world.names == ["Reserve"] * 4 + ["Release"]
    assert len({command_id for command_id, _ in bench.world.seen}) == 2


async def test_events_that_come_while_it_compensates_are_ignored(bench: Bench) -> None:
    hold = asyncio.Event()

    async def dispatch(command: Any) -> None:
        if isinstance(command, Release):
            await hold.wait()

    async with bench.runner(dispatch=dispatch) as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Cancelled("a"))
        assert (await runner.handle(Paid("a"))).ignored
        hold.set()
        await runner.settle()
    assert await bench.log("a") == ["placed", "cancelled"]


async def test_a_refused_command_compensates_by_default_without_undoing_itself(bench: Bench) -> None:
    bench.world.refuse = {Reserve}
    async with bench.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.settle()
    assert bench.world.names == ["Reserve"]
    assert (await bench.record("a")).status is Status.COMPENSATED


async def test_a_refused_command_reaches_its_handler_with_the_reason(bench: Bench) -> None:
    bench.world.refuse = {Charge}
    async with bench.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Paid("a"))
        await runner.settle()
        assert runner.counters.refused == 1
    assert await bench.log("a") == ["placed", "paid", "refused: no"]
    assert bench.world.names == ["Reserve", "Charge", "Release"]


async def test_a_compensation_that_cannot_finish_says_so_and_can_be_repaired(bench: Bench) -> None:
    bench.world.refuse = {Refund}
    async with bench.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Paid("a"))
        await runner.handle(Cancelled("a"))
        await runner.settle()
        record = await bench.record("a")
        assert record.status is Status.COMPENSATION_FAILED
        assert [undo.command.type for undo in record.undo] == ["Release", "Refund"]
        assert "Release" not in bench.world.names

        await runner.retry("order", "a", note="the bank is back, it says")
        await runner.settle()
        assert (await bench.record("a")).status is Status.COMPENSATION_FAILED

        bench.world.refuse = set()
        await runner.retry("order", "a")
        await runner.settle()
    record = await bench.record("a")
    assert record.status is Status.COMPENSATED
    assert [audit.action for audit in record.audit] == ["retry", "retry"]
    assert bench.world.names[-2:] == ["Refund", "Release"]


async def test_skip_drops_the_refused_undo_and_goes_on(bench: Bench) -> None:
    bench.world.refuse = {Refund}
    async with bench.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Paid("a"))
        await runner.handle(Cancelled("a"))
        await runner.settle()
        await runner.skip("order", "a", note="refunded by hand")
        await runner.settle()
    assert bench.world.names[-1] == "Release"
    record = await bench.record("a")
    assert (record.status, record.audit[0].note) == (Status.COMPENSATED, "refunded by hand")


async def test_cancel_ends_a_running_saga_with_or_without_compensation(bench: Bench) -> None:
    async with bench.runner() as runner:
        for key, compensate in (("a", True), ("b", False)):
            await runner.handle(Placed(key))
            await runner.cancel("order", key, compensate=compensate)
            await runner.settle()
        assert bench.world.names == ["Reserve", "Release", "Reserve"]
        assert (await bench.record("a")).status is Status.COMPENSATED
        assert (await bench.record("b")).status is Status.CANCELLED
        with pytest.raises(NoInstanceError):
            await runner.cancel("order", "b")
        with pytest.raises(NoInstanceError):
            await runner.retry("order", "never heard of")


async def test_reply_events_come_back_once_under_the_commands_id(bench: Bench) -> None:
    bench.world.replies = {
        Reserve: lambda command: Reserved(command.order_id),
        Charge: lambda command: [Noted(command.order_id, "1"), Noted(command.order_id, "2")],
    }
    async with bench.runner(max_in_flight=1) as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Paid("a"))
        await runner.settle()
    assert sorted(await bench.log("a")) == ["1", "2", "paid", "placed", "reserved"]
    record = await bench.record("a")
    inbox, since = each(record.inbox), record.first_start
    ids = [command_id for command_id, command in bench.world.seen if isinstance(command, (Reserve, Charge))]
    answers = [(ids[0], "Reserved", 0), (ids[1], "Noted", 0), (ids[1], "Noted", 1)]
    assert {f"{sent}/reply/{name}@{since}/{number}" for sent, name, number in answers} == set(inbox)


async def test_a_command_whose_answer_is_no_event_parks_at_once_and_waits_for_retry(
    bench: Bench,
) -> None:
    answers = iter([{"not": "an event"}, None])
    bench.world.replies = {Reserve: lambda command: next(answers)}
    async with bench.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.settle()
        record = await bench.record("a")
        assert record.stuck == "1/0"
        assert "was carried out, but its answer, a dict, cannot be handled" in record.parked
        assert len(bench.world.seen) == 1
        await runner.retry("order", "a")
        await runner.settle()
    assert len(bench.world.seen) == 2
    assert len({command_id for command_id, _ in bench.world.seen}) == 1
    assert runner.counters.dispatch_errors == 1


async def test_a_command_that_is_never_accepted_parks_the_saga_when_attempts_are_bounded(shared: Bench) -> None:
    from sagalog import RetryPolicy

    shared.world.fail = {Reserve: 5}
    policy = RetryPolicy(attempts=3, base=timedelta(milliseconds=1), cap=timedelta(milliseconds=1))
    async with shared.runner(dispatch_retry=policy) as runner:
        await runner.handle(Placed("a"))
        while runner.counters.parked == 0:
            await asyncio.sleep(0.001)
        await runner.settle()
        record = await shared.record("a")
        assert "Reserve was not accepted in 3 attempts" in record.parked
        assert (await runner.handle(Noted("a", "held"))).held
        shared.world.fail = {}
        repaired = await runner.retry("order", "a")
        assert (repaired.replayed, repaired.parked) == (1, "")
        await runner.settle()
    assert shared.world.names == ["Reserve"] * 4 + ["Note"]


async def test_a_missing_command_handler_leaves_the_command_in_the_outbox_and_says_so(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench.runner(dispatch={Ship: lambda command: None}) as runner:
        await runner.handle(Placed("a"))
        while runner.counters.dispatch_errors == 0:
            await asyncio.sleep(0.001)
    assert [entry.command.type for entry in (await bench.record("a")).outbox] == ["Reserve"]
    assert "no command handler for Reserve" in caplog.text


async def test_completion_waits_for_the_last_command(bench: Bench) -> None:
    hold = asyncio.Event()

    async def dispatch(command: Any) -> None:
        if isinstance(command, Ship):
            await hold.wait()

    async with bench.runner(dispatch=dispatch) as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Closed("a"))
        saved = await bench.stored("a")
        assert saved is not None
        assert not saved.tombstone
        assert decode_record(saved.payload).status is Status.COMPLETED
        hold.set()
        await runner.settle()
        saved = await bench.stored("a")
        assert saved is not None
        assert decode_record(saved.payload).drained
        assert (await runner.handle(Overdue("a"))).ignored
