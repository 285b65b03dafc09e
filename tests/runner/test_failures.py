"""Guarantees 8 and 12: a failing handler changes nothing, is tried again, then parks its instance; so does bad data."""

from __future__ import annotations

import asyncio
import gc
import weakref
from dataclasses import make_dataclass
from datetime import timedelta
from typing import Any

import pytest

from sagalog import (
    DefinitionError,
    InMemoryJournal,
    JournalSagaStateStore,
    NoInstance,
    Saga,
    SagalogError,
    SagaParkedError,
    Send,
    SetTimer,
    Status,
    on,
    starts,
)
from sagalog.decision.record import decode_record

from ..orders import Asked, Charge, Closed, Failing, Noted, OrderSaga, OrderState, Overdue, Paid, Placed
from .conftest import Bench, Gate


async def test_a_handler_that_raises_leaves_everything_as_it_was_and_is_tried_again(bench: Bench) -> None:
    OrderSaga.fail_times = 2
    async with bench.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Failing("a"))
        await runner.settle()
        assert runner.counters.handler_errors == 2
    assert OrderSaga.calls == ["a"] * 3
    assert await bench.log("a") == ["placed", "recovered"]
    assert bench.world.names == ["Reserve", "Note"]


async def test_when_the_attempts_are_used_up_the_instance_is_parked_with_the_event(bench: Bench) -> None:
    OrderSaga.fail_times = 99
    async with bench.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.settle()
        state = (await bench.record("a")).state_bytes()
        receipt = await runner.handle(Failing("a", "a secret"), message_id="bad")
        assert receipt.held
        record = await bench.record("a")
        assert record.parked == "handling Failing raised RuntimeError, 3 times"
        assert record.state_bytes() == state
        assert [held.id for held in record.held] == ["bad"]
        assert (await runner.handle(Failing("a"), message_id="bad")).duplicate
        assert (await runner.handle(Placed("b"))).handled  # others go on
    assert OrderSaga.calls == ["a"] * 3


async def test_what_arrives_later_is_held_and_replayed_in_order_after_a_repair(bench: Bench) -> None:
    OrderSaga.fail_times = 3
    async with bench.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Failing("a"), message_id="bad")
        for n in range(3):
            assert (await runner.handle(Noted("a", str(n)), message_id=f"n{n}")).held
        assert (await runner.handle(Noted("a", "1"), message_id="n1")).duplicate
    async with bench.runner() as runner:
        repaired = await runner.retry("order", "a", note="the service is back")
        assert (repaired.replayed, repaired.parked, repaired.held) == (4, "", 0)
        await runner.settle()
        assert (await runner.handle(Noted("a", "1"), message_id="n1")).duplicate
    assert await bench.log("a") == ["placed", "recovered", "0", "1", "2"]
    record = await bench.record("a")
    assert [(audit.action, audit.note) for audit in record.audit] == [("retry", "the service is back")]
    assert [c.text for _, c in bench.world.seen if hasattr(c, "text")] == ["recovered", "0", "1", "2"]


async def test_a_retry_that_fails_again_keeps_the_rest_held(bench: Bench) -> None:
    OrderSaga.fail_times = 4
    async with bench.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Failing("a"), message_id="bad")
        await runner.handle(Noted("a", "later"))
        repaired = await runner.retry("order", "a")
        assert (repaired.replayed, repaired.held) == (0, 2)
        assert "RuntimeError" in repaired.parked
        assert (await runner.handle(Noted("a", "even later"))).held
        assert (await runner.retry("order", "a")).replayed == 3
    assert await bench.log("a") == ["placed", "recovered", "later", "even later"]


async def test_skip_drops_the_event_that_failed_and_remembers_its_id(bench: Bench) -> None:
    OrderSaga.fail_times = 99
    async with bench.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Failing("a"), message_id="bad")
        await runner.handle(Noted("a", "later"))
        assert (await runner.skip("order", "a")).parked == ""
        assert (await runner.handle(Failing("a"), message_id="bad")).duplicate
    assert await bench.log("a") == ["placed", "later"]


async def test_cancel_compensates_a_parked_instance(bench: Bench) -> None:
    OrderSaga.fail_times = 99
    async with bench.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Failing("a"), message_id="bad")
        await runner.cancel("order", "a")
        await runner.settle()
        assert (await runner.handle(Failing("a"), message_id="bad")).duplicate
    assert bench.world.names == ["Reserve", "Release"]
    assert (await bench.record("a")).status is Status.COMPENSATED


async def test_a_repair_of_an_instance_that_needs_none_changes_nothing(bench: Bench) -> None:
    async with bench.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.settle()
        before = await bench.stored("a")
        assert (await runner.retry("order", "a")).replayed == 0
        assert await bench.stored("a") == before


class Fragile(Saga[OrderState]):
    """Every kind of handler fails, as long as `broken`."""

    name = "order"
    broken = True

    @starts(Placed, key="order_id")
    def placed(self, state: OrderState, event: Placed):
        if event.total == 13 and self.broken:
            raise RuntimeError
        state.log.append("placed")
        return [Send(Charge("a")), SetTimer("t", Overdue("a"), after=__import__("datetime").timedelta(minutes=1))]

    @on(Overdue, key="order_id")
    def overdue(self, state: OrderState, event: Overdue):
        if self.broken:
            raise RuntimeError
        state.log.append("overdue")

    def refused(self, state: OrderState, refused: Any):
        if self.broken:
            raise RuntimeError
        state.log.append("refused")


async def test_a_starting_event_that_fails_is_held_by_a_parked_instance(bench: Bench) -> None:
    Fragile.broken = True
    async with bench.runner(sagas=[Fragile]) as runner:
        assert (await runner.handle(Placed("a", 13), message_id="m")).held
        assert (await bench.record("a")).parked
        Fragile.broken = False
        assert (await runner.retry("order", "a")).replayed == 1
        await runner.settle()
    assert await bench.log("a") == ["placed"]
    assert bench.world.names == ["Charge"]


async def test_a_timer_whose_handler_fails_parks_and_fires_once_after_the_repair(bench: Bench) -> None:
    Fragile.broken = True
    async with bench.runner(sagas=[Fragile]) as runner:
        await runner.handle(Placed("a"))
        bench.advance(minutes=2)
        await runner.settle()
        assert (await bench.record("a")).parked
        Fragile.broken = False
        await runner.retry("order", "a")
        bench.advance(minutes=2)
        await runner.settle()
    assert await bench.log("a") == ["placed", "overdue"]


async def test_a_refusal_whose_handler_fails_parks_and_is_told_once_after_the_repair(bench: Bench) -> None:
    Fragile.broken = True
    bench.world.refuse = {Charge}
    async with bench.runner(sagas=[Fragile]) as runner:
        await runner.handle(Placed("a"))
        await runner.settle()
        record = await bench.record("a")
        assert record.parked
        assert record.outbox == ()
        Fragile.broken = False
        await runner.retry("order", "a")
        await runner.settle()
    assert await bench.log("a") == ["placed", "refused"]
    assert bench.world.names == ["Charge"]


@pytest.mark.parametrize(
    "damage", [b"{", b"\xff\x00", b"[]", b'{"format": 99}', b'{"format": 1, "status": "unheard of"}']
)
async def test_a_record_that_cannot_be_read_parks_that_instance_and_stays_as_it_is(
    shared: Bench, damage: bytes
) -> None:
    assert shared.journal is not None
    store = JournalSagaStateStore(shared.journal, "order")
    await store.save("a", damage, due_at=shared.clock.now())
    async with shared.runner() as runner:
        with pytest.raises(SagaParkedError, match="id 'a' is parked"):
            await runner.handle(Paid("a"))
        with pytest.raises(SagaParkedError):
            await runner.handle(Placed("a"))
        with pytest.raises(SagaParkedError):
            await runner.retry("order", "a")
        assert (await runner.handle(Placed("b"))).handled
        await runner.settle()
        assert runner.counters.parked == 1
    saved = await store.load("a")
    assert saved is not None
    assert (saved.payload, saved.version) == (damage, 1)


class NewerSaga(OrderSaga):
    """The next version of the code: its state has schema version 2."""

    name = "order"


NewerSaga.state_version = classmethod(lambda cls: 2)  # type: ignore[assignment,method-assign]


async def test_a_state_of_a_newer_version_is_left_to_newer_code(bench: Bench) -> None:
    async with bench.runner(sagas=[NewerSaga]) as runner:
        await runner.handle(Placed("a"), message_id="1")
        await runner.settle()
    before = await bench.stored("a")
    async with bench.runner() as runner:
        with pytest.raises(SagaParkedError, match="schema version 2; this code knows version 1"):
            await runner.handle(Noted("a"), message_id="2")
        assert (await runner.handle(Placed("a"), message_id="1")).duplicate
        assert await bench.stored("a") == before
    async with bench.runner(sagas=[NewerSaga]) as runner:
        assert (await runner.handle(Noted("a"), message_id="2")).handled


async def test_a_timer_event_of_an_unknown_type_is_left_alone_until_the_code_knows_it(shared: Bench) -> None:
    class Without(Saga[OrderState]):
        name = "order"

        @starts(Placed, key="order_id")
        def placed(self, state: OrderState, event: Placed) -> None: ...

    async with shared.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.settle()
    before = await shared.stored("a")
    shared.advance(hours=1)
    async with shared.runner(sagas=[Without]) as runner:
        await runner.settle()
        assert runner.counters.parked == 1
        assert await shared.stored("a") == before
    shared.advance(seconds=5)  # the lease of the worker that could not read it
    async with shared.runner() as runner:
        await runner.settle()
    assert await shared.log("a") == ["placed", "overdue"]


async def test_an_undeclared_command_is_refused_with_the_remedy(bench: Bench) -> None:
    hidden = {"made here": make_dataclass("Hidden", [("order_id", str)])}  # no other worker could ever find it

    class Undeclared(Saga[OrderState]):
        name = "order"

        @starts(Placed, key="order_id")
        def placed(self, state: OrderState, event: Placed):
            return Send(hidden["made here"]("a"))

    async with bench.runner(sagas=[Undeclared]) as runner:
        with pytest.raises(DefinitionError, match=r"messages = \(...\)"):
            await runner.handle(Placed("a"))
    assert await bench.stored("a") is None


async def test_retries_wait_without_holding_up_other_instances(shared: Bench) -> None:
    from sagalog import RetryPolicy

    OrderSaga.fail_times = 1
    async with shared.runner(
        handler_retry=RetryPolicy(attempts=2, base=timedelta(milliseconds=200), cap=timedelta(milliseconds=200))
    ) as runner:
        await runner.handle(Placed("a"))
        failing = asyncio.create_task(runner.handle(Failing("a")))
        while runner.counters.handler_errors == 0:
            await asyncio.sleep(0)
        behind = asyncio.create_task(runner.handle(Noted("a", "behind")))
        await runner.handle(Placed("b"))
        assert not failing.done()
        await asyncio.gather(failing, behind)
    assert await shared.log("a") == ["placed", "recovered", "behind"]


async def test_a_conflict_with_a_repair_keeps_both(shared: Bench) -> None:
    assert shared.journal is not None
    OrderSaga.fail_times = 3
    async with shared.runner() as one, shared.runner() as two:
        await one.handle(Placed("a"))
        await one.handle(Failing("a"))
        await asyncio.gather(one.retry("order", "a"), two.handle(Noted("a", "from two")))
        await one.retry("order", "a")
        await one.settle()
    assert sorted(await shared.log("a")) == ["from two", "placed", "recovered"]


async def test_events_after_completion_are_ignored_and_counted(bench: Bench) -> None:
    async with bench.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Closed("a"))
        await runner.settle()
        before = await bench.stored("a")
        assert (await runner.handle(Asked("a"))).ignored
        assert runner.counters.ignored == 1
        assert await bench.stored("a") == before
        assert decode_record(before.payload).status is Status.COMPLETED  # type: ignore[union-attr]


async def test_in_memory_journals_and_gates_agree() -> None:
    """The gate of these tests is a faithful store."""
    gate = Gate(JournalSagaStateStore(InMemoryJournal(), "order"))
    assert await gate.save("a", b"1", expected_version=0) == 1
    assert (await gate.load("a")).payload == b"1"  # type: ignore[union-attr]


@pytest.mark.parametrize("failing", [Paid("nobody"), Asked("a", "not an action")])
async def test_an_event_that_failed_is_forgotten(bench: Bench, failing: Any) -> None:
    """Its traceback leads back to the envelope that holds it: a circle, which the garbage collector has to see."""
    async with bench.runner(no_instance=NoInstance.RAISE) as runner:
        await runner.handle(Placed("a"))
        with pytest.raises(SagalogError) as caught:
            await runner.handle(failing)
        left = weakref.ref(caught.value)
        del caught
        gc.collect()
        assert left() is None
