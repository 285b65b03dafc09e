"""Gather with a runner: each leg once, whatever is tried again; bounded records; restarts in between."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from sagalog import (
    CommandRefused,
    InMemoryJournal,
    JournalSagaStateStore,
    RetryPolicy,
    SagaRecord,
    SagaRunner,
    Send,
    Status,
    StepContext,
    leg,
    on,
)
from sagalog.decision.record import decode_record, encode_record
from sagalog.decision.repair import skip

from ..gathering import Begun, Bill, GatherSaga, Parcels, Ship, Shipped, SomeRefused, Weigh
from .conftest import Bench


def answering(**refused: int) -> dict[type, Any]:
    def ship(command: Ship) -> Shipped:
        if command.number == refused.get("number"):
            raise CommandRefused("no")
        return Shipped(command.id, command.number)

    return {Ship: ship, Weigh: lambda command: None, Bill: lambda command: None}


def runner(bench: Bench, dispatch: Any = None, **settings: Any) -> SagaRunner:
    return bench.runner(sagas=[GatherSaga], dispatch=dispatch or answering(), **settings)


async def record(bench: Bench) -> SagaRecord:
    if bench.journal is None:
        saved = await bench.plain.load("a")
    else:
        saved = await JournalSagaStateStore(bench.journal, "gather").load_with_tombstone("a")
    assert saved is not None
    return decode_record(saved.payload)


async def test_all_are_answered_and_it_goes_on_once(bench: Bench) -> None:
    bench.world.replies[Ship] = lambda command: Shipped(command.id, command.number)
    async with runner(bench, bench.world) as running:
        await running.handle(Begun("a", 45))
        await running.settle()
    stored = await record(bench)
    state = GatherSaga().decode_state(stored.state_bytes())
    assert (state.shipped, state.ended, stored.status) == (45, ["all 45 of 45"], Status.COMPLETED)
    assert bench.world.names.count("Bill") == 1
    assert sorted(c.number for _, c in bench.world.seen if isinstance(c, Ship)) == list(range(45))


async def test_ten_thousand_legs_make_no_record_larger_than_its_bound() -> None:
    bench, largest = Bench(InMemoryJournal()), 0
    async with runner(bench, max_payload_bytes=64 * 1024) as running:
        await running.handle(Begun("a", 10_000))
        await running.settle()
    assert bench.journal is not None
    async for message in bench.journal.replay_messages("saga::gather::a", 1, 10**9):
        largest = max(largest, len(message.payload))
    stored = await record(bench)
    state = GatherSaga().decode_state(stored.state_bytes())
    assert (state.shipped, state.ended) == (10_000, ["all 10000 of 10000"])
    assert largest < 64 * 1024


async def test_a_refused_leg_ends_it_and_the_others_come_to_their_end(quick: Bench) -> None:
    async with runner(quick, answering(number=7)) as running:
        await running.handle(Begun("a", 200))
        await running.settle()
    stored = await record(quick)
    state = GatherSaga().decode_state(stored.state_bytes())
    assert len(state.ended) == 1
    assert state.ended[0].endswith("of 200, not (7,)")
    assert stored.status is Status.RUNNING
    assert state.shipped < 40
    assert not stored.outbox
    assert not stored.gathers


async def test_a_restart_in_the_middle_goes_on_where_it_was(quick: Bench) -> None:
    stops = 3

    def ship(command: Ship) -> Shipped:
        nonlocal stops
        if command.number in (15, 31, 44) and stops:
            stops -= 1
            raise ConnectionError("try later")
        return Shipped(command.id, command.number)

    dispatch = {**answering(), Ship: ship}
    async with runner(quick, dispatch) as running:
        await running.handle(Begun("a", 60))
    for _ in range(6):
        quick.advance(seconds=6)
        async with runner(quick, dispatch) as running:
            await running.settle()
    state = GatherSaga().decode_state((await record(quick)).state_bytes())
    assert (state.shipped, state.ended) == (60, ["all 60 of 60"])


async def test_a_leg_that_an_operator_drops_counts_as_refused(quick: Bench) -> None:
    def ship(command: Ship) -> Shipped:
        if command.number == 2:
            raise ConnectionError("never")
        return Shipped(command.id, command.number)

    retry = RetryPolicy(attempts=2, base=timedelta(milliseconds=1), cap=timedelta(milliseconds=2))
    async with runner(quick, {**answering(), Ship: ship}, dispatch_retry=retry) as running:
        await running.handle(Begun("a", 5, wait=True))
        while not (await record(quick)).parked:
            await running.settle()
            await asyncio.sleep(0.001)
        assert (await record(quick)).gathers["parcels"].come == 2
        await running.skip("gather", "a")
        await running.settle()
    stored = await record(quick)
    assert GatherSaga().decode_state(stored.state_bytes()).ended == ["4 of 5, not (2,)"]
    assert not stored.gathers


async def parked(bench: Bench, running: SagaRunner) -> SagaRecord:
    while not (found := await record(bench)).parked:
        await running.settle()
        await asyncio.sleep(0.001)
    return found


async def test_a_gather_ends_with_its_last_leg_dropped_though_nothing_else_comes(quick: Bench) -> None:
    def ship(command: Ship) -> Shipped:
        if command.number == 4:
            raise ConnectionError("never")
        return Shipped(command.id, command.number)

    retry = RetryPolicy(attempts=2, base=timedelta(milliseconds=1), cap=timedelta(milliseconds=2))
    async with runner(quick, {**answering(), Ship: ship}, dispatch_retry=retry) as running:
        await running.handle(Begun("a", 5, wait=True))
        await parked(quick, running)
        skipped = await running.skip("gather", "a")
        assert skipped.replayed == 1
    stored = await record(quick)
    assert GatherSaga().decode_state(stored.state_bytes()).ended == ["4 of 5, not (4,)"]
    assert (stored.gathers, stored.held, stored.parked) == ({}, (), "")


async def test_the_legs_behind_one_that_is_dropped_are_sent_though_nothing_else_comes(quick: Bench) -> None:
    class OneByOneSaga(GatherSaga):
        name = "gather"

        @leg("parcels", at_once=1)
        def parcel(self, state: Parcels, number: int) -> Send:
            return Send(Ship(state.id, number))

    def ship(command: Ship) -> Shipped:
        if command.number == 1:
            raise ConnectionError("never")
        return Shipped(command.id, command.number)

    once = RetryPolicy(attempts=1)
    dispatch = {**answering(), Ship: ship}
    async with quick.runner(sagas=[OneByOneSaga], dispatch=dispatch, dispatch_retry=once) as running:
        await running.handle(Begun("a", 3, wait=True))
        await parked(quick, running)
        await running.skip("gather", "a")
        await running.settle()
    assert GatherSaga().decode_state((await record(quick)).state_bytes()).ended == ["2 of 3, not (1,)"]


async def test_where_the_end_cannot_be_handled_skip_lets_the_gather_go(quick: Bench) -> None:
    class NoEndSaga(GatherSaga):
        name = "gather"

        @on(SomeRefused, key="id")
        def some_refused(self, state: Parcels, event: SomeRefused, context: StepContext) -> None:
            raise RuntimeError("no")

    def ship(command: Ship) -> Shipped:
        raise ConnectionError("never")

    once = RetryPolicy(attempts=1)
    dispatch = {**answering(), Ship: ship}
    async with quick.runner(sagas=[NoEndSaga], dispatch=dispatch, dispatch_retry=once) as running:
        await running.handle(Begun("a", 1))
        await parked(quick, running)
        first = await running.skip("gather", "a")
        assert first.parked.startswith("replaying AllShipped failed: RuntimeError")
        second = await running.skip("gather", "a")
        assert second.effects == ("forgets the gather parcels, whose end could not be handled",)
    stored = await record(quick)
    assert (stored.gathers, stored.held, stored.parked) == ({}, (), "")


class FragileGatherSaga(GatherSaga):
    @on(Shipped, key="id")
    def shipped(self, state: Parcels, event: Shipped) -> None:
        if event.number == 2:
            raise RuntimeError("it cannot be handled")
        state.shipped += 1


async def test_a_leg_whose_held_answer_an_operator_skips_counts_as_refused(quick: Bench) -> None:
    """Nobody brings that answer again, so the gather would wait for it for ever."""
    once = RetryPolicy(attempts=1)
    async with quick.runner(sagas=[FragileGatherSaga], dispatch=answering(), handler_retry=once) as running:
        await running.handle(Begun("a", 60, wait=True))
        while not (await record(quick)).parked:
            await running.settle()
            await asyncio.sleep(0.001)
        skipped = await running.skip("gather", "a")
        assert skipped.effects[0].endswith("it counts as consumed, and its leg of the gather parcels as refused")
        await running.settle()
    stored = await record(quick)
    assert GatherSaga().decode_state(stored.state_bytes()).ended == ["59 of 60, not (2,)"]
    assert not stored.gathers


async def test_a_store_without_an_index_of_what_is_due_is_searched_for_what_a_repair_left_behind() -> None:
    """Nobody repairs such a store from outside but by its own means, and then no message need ever come."""

    def ship(command: Ship) -> Shipped:
        raise ConnectionError("never")

    bench, once = Bench(None), RetryPolicy(attempts=1)
    store = bench.plain
    async with bench.runner(sagas=[GatherSaga], dispatch={**answering(), Ship: ship}, dispatch_retry=once) as running:
        await running.handle(Begun("a", 1))
        await parked(bench, running)
    payload, version = store.saved["a"]
    decision = skip().decide(decode_record(payload), lambda: f"{version + 1}/0", bench.clock.now(), "saga::gather::a")
    await store.save("a", encode_record(decision.record), expected_version=version)
    async with runner(bench) as running:
        while (await record(bench)).held:
            await asyncio.sleep(0.001)
    assert GatherSaga().decode_state((await record(bench)).state_bytes()).ended == ["0 of 1, not (0,)"]
