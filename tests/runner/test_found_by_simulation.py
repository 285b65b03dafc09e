"""What the simulation found in the engine, each told again in the smallest way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from sagalog import (
    CommandContext,
    CommandRefused,
    JournalSagaStateStore,
    ManualClock,
    OutcomeUnknownError,
    Receipt,
    RetryPolicy,
    RunnerSettings,
    RunnerStoppedError,
    Saga,
    SagaRunner,
    starts,
)
from sagalog.decision.record import SagaRecord, decode_record
from sagalog.journal.memory import InMemoryJournal

from ..orders import Cancelled, Charge, Closed, Failing, Noted, OrderSaga, OrderState, Paid, Placed, Release, Ship
from .conftest import LONG, Bench, Gate

ONCE = RetryPolicy(attempts=1)


async def newest(journal: InMemoryJournal, order: str) -> SagaRecord:
    latest = await journal.latest_message(f"saga::order::{order}")
    assert latest is not None
    return decode_record(latest.payload)


async def test_a_finished_instance_whose_last_command_is_stuck_can_be_repaired() -> None:
    journal, away = InMemoryJournal(), True

    def dispatch(command: object) -> None:
        if isinstance(command, Ship) and away:
            raise ConnectionError

    settings = RunnerSettings(dispatch_retry=ONCE)
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=dispatch, settings=settings) as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Closed("a"))
        await runner.settle()
        assert (await newest(journal, "a")).parked
        away = False
        assert (await runner.retry("order", "a")).parked == ""
        await runner.settle()
        record = await newest(journal, "a")
        assert (record.status, record.outbox) == ("completed", ())


async def test_a_cancel_of_one_that_compensates_does_not_call_it_compensated_before_it_is() -> None:
    journal, away = InMemoryJournal(), True

    def dispatch(command: object) -> None:
        if isinstance(command, Charge) and away:
            raise ConnectionError

    settings = RunnerSettings(dispatch_retry=ONCE)
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=dispatch, settings=settings) as runner:
        for event in (Placed("a"), Paid("a"), Cancelled("a")):
            await runner.handle(event)
        await runner.settle()
        away = False
        assert (await runner.cancel("order", "a")).status == "compensating"
        await runner.settle()
        assert (await newest(journal, "a")).status == "compensated"


async def test_a_skipped_last_undo_ends_the_compensation() -> None:
    journal = InMemoryJournal()

    def dispatch(command: object) -> None:
        if isinstance(command, Release):
            raise ConnectionError

    settings = RunnerSettings(dispatch_retry=ONCE)
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=dispatch, settings=settings) as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Cancelled("a"))
        await runner.settle()
        assert (await runner.skip("order", "a")).status == "compensated"


async def test_a_timer_of_a_parked_instance_waits_for_the_repair_which_may_cancel_it() -> None:
    journal, clock = InMemoryJournal(), ManualClock()
    settings = RunnerSettings(handler_retry=ONCE)

    class Order(OrderSaga):
        broken = True

        def handle(self, state, event):  # type: ignore[no-untyped-def]
            if isinstance(event, Noted) and Order.broken:
                raise RuntimeError
            return super().handle(state, event)

    async with SagaRunner(
        journal, sagas=[Order], dispatch=lambda command: None, clock=clock, settings=settings
    ) as runner:
        await runner.handle(Placed("a"))
        assert (await runner.handle(Noted("a", "x"))).held
        assert (await runner.handle(Paid("a"))).held
        clock.advance(timedelta(hours=1))
        await runner.settle()
        Order.broken = False
        await runner.retry("order", "a")
        await runner.settle()
        record = await newest(journal, "a")
        assert (record.status, record.timers, record.held) == ("running", {}, ())


async def test_a_refusal_that_a_finished_instance_cannot_handle_stays_with_it() -> None:
    journal = InMemoryJournal()

    class Order(OrderSaga):
        broken = True

        def refused(self, state, refused):  # type: ignore[no-untyped-def]
            if Order.broken:
                raise RuntimeError
            return super().refused(state, refused)

    released: list[object] = []

    def dispatch(command: object) -> None:
        if isinstance(command, Charge):
            raise CommandRefused("no")
        released.append(type(command))

    settings = RunnerSettings(handler_retry=ONCE)
    async with SagaRunner(journal, sagas=[Order], dispatch=dispatch, settings=settings) as runner:
        await runner.handle(Placed("a"))
        await runner.handle_many([Paid("a"), Closed("a")])
        await runner.settle()
        record = await newest(journal, "a")
        assert (record.incarnation, record.status, len(record.held)) == (1, "completed", 1)
        Order.broken = False
        await runner.retry("order", "a")
        await runner.settle()
        assert Release in released
        assert (await newest(journal, "a")).status == "compensated"


async def test_a_cached_record_is_not_trusted_when_its_life_may_be_over_and_forgotten() -> None:
    journal, clock = InMemoryJournal(), ManualClock()

    def runner() -> SagaRunner:
        return SagaRunner(journal, sagas=[OrderSaga], dispatch=lambda command: None, clock=clock)

    async with runner() as one, runner() as two:
        await one.handle(Placed("a", 1))
        await one.settle()  # it has the record in memory now
        version = (await journal.latest_message("saga::order::a")).sequence_nr  # type: ignore[union-attr]
        await two.handle(Closed("a"))
        await two.settle()
        clock.advance(timedelta(days=8))
        await two.settle()
        assert await journal.latest_message("saga::order::a") is None
        await two.handle(Placed("a", 7))
        await two.settle()
        assert (await journal.latest_message("saga::order::a")).sequence_nr == version  # type: ignore[union-attr]
        await one.handle(Noted("a", "x"))
        state = OrderSaga().decode_state((await newest(journal, "a")).state_bytes())
        assert (state.total, state.log) == (7, ["placed", "x"])


async def test_a_refusal_that_is_held_behind_a_cancellation_comes_too_late_and_parks_nothing() -> None:
    journal, undone, answered = InMemoryJournal(), [], asyncio.Event()

    class Order(OrderSaga):
        broken = True

        def handle(self, state, event):  # type: ignore[no-untyped-def]
            if isinstance(event, Noted) and Order.broken:
                raise RuntimeError
            return super().handle(state, event)

    async def dispatch(command: object) -> None:
        if isinstance(command, Charge):
            await answered.wait()
            raise CommandRefused("no")
        undone.append(type(command).__name__)

    async with SagaRunner(
        journal, sagas=[Order], dispatch=dispatch, settings=RunnerSettings(handler_retry=ONCE)
    ) as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Paid("a"))
        assert (await runner.handle(Noted("a", "x"))).held
        assert (await runner.handle(Cancelled("a"))).held
        answered.set()
        await runner.settle()
        held = (await newest(journal, "a")).held
        assert [one.kind for one in held] == ["event", "event", "refused"]
        Order.broken = False
        await runner.retry("order", "a")
        await runner.settle()
        record = await newest(journal, "a")
        assert (record.status, record.parked) == ("compensated", "")
        assert "Release" in undone
        assert "Refund" not in undone


async def test_a_failure_that_parks_is_decided_anew_where_another_worker_was_first() -> None:
    journal = InMemoryJournal()
    gate = Gate(JournalSagaStateStore(journal, "order"))
    settings = RunnerSettings(handler_retry=ONCE)

    def runner(source: object) -> SagaRunner:
        return SagaRunner(source, sagas=[OrderSaga], dispatch=lambda command: None, settings=settings)  # type: ignore[arg-type]

    async with runner(gate) as one, runner(journal) as two:
        await one.handle(Placed("a"))
        await one.settle()

        async def first(key: str, payload: bytes) -> None:
            if decode_record(payload).parked:  # `one` is about to park it
                gate.before = None
                await two.handle(Closed("a"))

        gate.before = first
        OrderSaga.fail_times = 1
        receipt = await one.handle(Failing("a"))
        assert gate.before is None
        await two.settle()
        record = await newest(journal, "a")
        assert (record.status, record.parked, record.incarnation) == ("completed", "", 1)
        assert not receipt.held


async def test_a_refused_undo_of_an_earlier_life_is_retried_under_an_id_that_its_receiver_has_not_answered_yet() -> (
    None
):
    """Under the old id the receiver would repeat its answer, and the instance would be changed twice by one refusal."""
    journal, there, refused = InMemoryJournal(), asyncio.Event(), list[str]()

    async def dispatch(command: object, context: CommandContext) -> None:
        await there.wait()
        if isinstance(command, Charge) or (isinstance(command, Release) and len(refused) < 2):
            refused.append(context.id)
            raise CommandRefused("no")

    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=dispatch) as runner:
        for event in (Placed("a"), Paid("a"), Closed("a"), Placed("a")):  # the last one begins its next life
            await runner.handle(event)
        there.set()
        await runner.settle()
        record = await newest(journal, "a")
        assert "the compensation of an earlier incarnation failed" in record.parked
        (undo,) = [c for c in record.outbox if c.undo]
        assert record.stuck == undo.id
        assert f"saga::order::a/{undo.id}" not in refused
        await runner.retry("order", "a")
        await runner.settle()
        record = await newest(journal, "a")
        assert (record.status, record.parked, record.outbox) == ("running", "", ())
    assert len(set(refused)) == len(refused) == 2


async def test_a_message_that_parks_is_held_once_where_another_worker_has_parked_with_it_first() -> None:
    journal, settings = InMemoryJournal(), RunnerSettings(handler_retry=ONCE)
    meanwhile: list[Callable[[], Awaitable[Receipt]] | None] = []

    class RaisingSaga(Saga[OrderState]):
        name = "order"

        @starts(Placed, key="order_id")
        async def placed(self, state: OrderState, event: Placed) -> None:
            work = meanwhile.pop() if meanwhile else None
            if work is not None:
                await work()
            raise RuntimeError

    async with (
        SagaRunner(journal, sagas=[RaisingSaga], settings=settings) as one,
        SagaRunner(journal, sagas=[RaisingSaga], settings=settings) as two,
    ):
        # The first attempt takes it that nothing is stored; the next one has looked.
        meanwhile += [lambda: two.handle(Placed("a"), message_id="m"), None]
        assert (await one.handle(Placed("a"), message_id="m")).duplicate
        assert [held.id for held in (await newest(journal, "a")).held] == ["m"]


async def test_stopping_waits_for_a_repair_that_is_under_way() -> None:
    journal = InMemoryJournal()
    gate = Gate(JournalSagaStateStore(journal, "order"))
    under_way, go_on = asyncio.Event(), asyncio.Event()

    async def hold(key: str, payload: bytes) -> None:
        under_way.set()
        await go_on.wait()

    settings = RunnerSettings(handler_retry=ONCE)
    runner = SagaRunner(gate, sagas=[OrderSaga], dispatch=lambda command: None, settings=settings)  # type: ignore[arg-type]
    await runner.start()
    await runner.handle(Placed("a"))
    OrderSaga.fail_times = 1
    await runner.handle(Failing("a"))
    await runner.settle()
    gate.before = hold
    repairing = asyncio.create_task(runner.retry("order", "a"))
    await under_way.wait()
    stopping = asyncio.create_task(runner.stop())
    for _ in range(100):  # more than stopping takes with nothing under way
        await asyncio.sleep(0)
    assert not stopping.done()
    with pytest.raises(RunnerStoppedError):
        await runner.retry("order", "a")
    go_on.set()
    await stopping
    assert repairing.done()
    assert (await repairing).parked == ""
    assert (await newest(journal, "a")).parked == ""


async def test_a_worker_that_is_frozen_while_it_reads_back_delivers_nothing_that_another_has_taken_over(
    shared: Bench,
) -> None:
    class Frozen(Gate):
        """Its next answer of a load is on its way while the worker is frozen."""

        def __init__(self, inner: JournalSagaStateStore) -> None:
            super().__init__(inner)
            self.reached, self.go_on = asyncio.Event(), asyncio.Event()

        async def load_with_tombstone(self, correlation_id: str) -> Any:
            found = await super().load_with_tombstone(correlation_id)
            if found is not None and not self.go_on.is_set():
                self.reached.set()
                await self.go_on.wait()
            return found

    assert shared.journal is not None
    store = Frozen(JournalSagaStateStore(shared.journal, "order"))
    lost = iter([True])

    def lose(key: str, payload: bytes) -> None:
        if next(lost, False):
            raise OutcomeUnknownError("the connection broke")

    store.after, store.deaf = lose, True
    async with shared.runner(store, lease=LONG) as one:
        placing = asyncio.create_task(one.handle(Placed("a"), message_id="m"))
        await store.reached.wait()
        shared.advance(minutes=10, seconds=1)
        async with shared.runner() as two:
            await two.settle()
            assert shared.world.names == ["Reserve"]
        store.go_on.set()
        await placing
        await one.settle()
    assert shared.world.names == ["Reserve"]
