"""What an operator can do between a parent and its children, and what each hears of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sagalog import (
    CommandRefused,
    Status,
)
from sagalog.decision.repair import cancel, drop, resend
from sagalog.operating.apply import apply
from sagalog.operating.family import family as relatives_of
from sagalog.operating.inspect import find
from sagalog.operating.mend import ended, replace, stored

from ..families import (
    Delivered,
    Ordered,
    OrderSaga,
    ParcelSaga,
    ShipParcel,
    Withdrawn,
)
from .family import Family


async def test_dropping_what_starts_a_child_tells_its_parent_that_it_failed() -> None:
    async with Family(sagas=[OrderSaga]) as family:  # parcels are another worker's
        await family.happen(Ordered("a", 1))
        (start,) = (await family.record("order", "a")).outbox
        await family.runner.drop("order", "a", start.id)
        await family.runner.settle()
        assert await family.ended() == ["a-0 failed"]


async def test_a_parent_that_is_parked_holds_the_end_of_a_child_until_its_repair() -> None:
    class Strict(OrderSaga):
        broken = True

        def child_ended(self, state: Any, ended: Any, context: Any) -> Any:
            if self.broken:
                raise ValueError("not now")
            return super().child_ended(state, ended, context)

    strict = Strict()
    async with Family(sagas=[strict, ParcelSaga]) as family:
        await family.happen(Ordered("a", 2), Delivered("a-0"), Delivered("a-1"))
        order = await family.record("order", "a")
        assert order.parked == "handling parcel completed raised ValueError, 3 times"
        assert [(held.kind, held.event.type) for held in order.held] == [("child", "parcel completed")] * 2
        strict.broken = False
        await family.runner.retry("order", "a")
        await family.runner.settle()
        assert await family.ended() == ["a-0 completed Receipt", "a-1 completed Receipt"]


async def test_a_held_end_that_is_skipped_counts_as_heard() -> None:
    class Deaf(OrderSaga):
        def child_ended(self, state: Any, ended: Any, context: Any) -> Any:
            raise ValueError("never")

    async with Family(sagas=[Deaf, ParcelSaga]) as family:
        await family.happen(Ordered("a", 1), Delivered("a-0"))
        await family.runner.skip("order", "a")
        await family.runner.settle()
        order = await family.record("order", "a")
        assert (order.parked, order.children, order.child_ends) == ("", {}, {"completed": 1})
        await family.happen(Withdrawn("a"))
        assert (await family.record("order", "a")).status is Status.COMPENSATED


async def test_dropping_what_stops_a_child_lets_the_compensation_go_on() -> None:
    async with Family() as family:
        await family.happen(Ordered("a", 1))
        await family.runner.stop()
        orders = Family(family.bench.journal, [OrderSaga])
        orders.bench.clock = family.bench.clock
        orders.runner = orders.bench.runner(sagas=[OrderSaga], dispatch=lambda command: None)
        async with orders.runner:  # it has no parcels
            await orders.happen(Withdrawn("a"))
            (stop,) = (await orders.record("order", "a")).outbox
            assert stop.title == "stop parcel a-0"
            await orders.runner.drop("order", "a", stop.id)
            await orders.runner.settle()
            assert (await orders.record("order", "a")).status is Status.COMPENSATED


async def repaired(family: Family, saga: str, correlation_id: str, repair: Any) -> tuple[str, ...]:
    """Repair an instance in its journal, while no worker runs."""
    assert family.bench.journal is not None
    return (await apply(family.bench.journal, saga, correlation_id, repair)).effects


async def relatives(family: Family) -> list[str]:
    assert family.bench.journal is not None
    (view,) = await find(family.bench.journal, "a", "order")
    return [f"{one.id} {one.status}: {one.why}" for one in (await relatives_of(family.bench.journal, view)).children]


async def test_dropping_a_child_whose_record_is_damaged_tells_its_parent() -> None:
    async with Family() as family:
        await family.happen(Ordered("a", 1))
    journal = family.bench.journal
    assert journal is not None
    newest = await journal.latest_message("saga::parcel::a-0")
    assert newest is not None
    await journal.write_messages(
        [msgspec.structs.replace(newest, sequence_nr=newest.sequence_nr + 1, payload=b"{broken")]
    )
    old = await stored(journal, "parcel", "a-0")
    new = await ended(journal, old)
    assert "delivers parcel cancelled, to its parent order a" in new.effects
    await replace(journal, old, new)
    async with Family(journal) as family:
        await family.happen(ShipParcel("other"))
        assert await family.ended() == ["a-0 cancelled"]


async def test_a_parent_that_compensates_finds_out_how_a_child_ended_that_tells_nobody() -> None:
    """An operator has dropped what was to tell it."""
    async with Family() as family:
        await family.happen(Ordered("a", 1, undo=True))
    async with Family(family.bench.journal, [ParcelSaga]) as family:
        await family.happen(Delivered("a-0"))
    (tell,) = (await family.record("parcel", "a-0")).outbox
    await repaired(family, "parcel", "a-0", drop(tell.id))
    assert await relatives(family) == [
        "a-0 completed, and has no parent to tell: `drop` of 1/1 on the parent counts it as failed"
    ]
    async with Family(family.bench.journal) as family:
        await family.happen(Withdrawn("a"))
        assert (await family.record("order", "a")).status is Status.COMPENSATED
        assert family.done == ["Fetch a-0", "Release a"]  # it had completed, so it is taken back


@pytest.mark.parametrize("repair", ["drop", "cancel"])
async def test_a_parent_that_compensates_and_waits_for_a_child_that_tells_nobody_is_repaired(repair: str) -> None:
    def refuse(command: Any) -> None:
        if type(command).__name__ == "CarryBack":
            raise CommandRefused("lost")

    family = Family()
    async with family.bench.runner(sagas=[OrderSaga, ParcelSaga], dispatch=refuse) as runner:
        for event in (Ordered("a", 1), Withdrawn("a")):
            await runner.handle(event)
            await runner.settle()
    await repaired(family, "parcel", "a-0", cancel(compensate=False))
    (tell,) = (await family.record("parcel", "a-0")).outbox
    await repaired(family, "parcel", "a-0", drop(tell.id))
    assert (await family.record("order", "a")).status is Status.COMPENSATING
    effects = await repaired(family, "order", "a", drop("1/1") if repair == "drop" else cancel(compensate=True))
    assert effects[0] == (
        "no longer waits for its child parcel a-0 (1/1), which counts as failed; that one is left as it is"
        if repair == "drop"
        else "asks its children again to compensate: parcel a-0"
    )
    assert repair == "drop" or effects[-1] == "continues its compensation: sends Release, last in first out"
    async with Family(family.bench.journal) as family:
        await family.happen(ShipParcel("other"))
        assert (await family.record("order", "a")).status is Status.COMPENSATED
        assert "Release a" in family.done


async def test_an_operator_lets_a_parent_wait_for_a_child_no_longer() -> None:
    async with Family() as family:
        await family.happen(Ordered("a", 2))
        await family.runner.drop("order", "a", "1/1")
        await family.runner.settle()
        assert await family.ended() == ["a-0 failed"]
        await family.happen(Delivered("a-0"), Delivered("a-1"))
        assert await family.ended() == ["a-0 failed", "a-1 completed Receipt"]


async def test_cancelling_a_parent_as_it_stands_ends_a_child_whose_compensation_failed() -> None:
    def refuse(command: Any) -> None:
        if type(command).__name__ == "CarryBack":
            raise CommandRefused("lost")

    family = Family()
    async with family.bench.runner(sagas=[OrderSaga, ParcelSaga], dispatch=refuse) as runner:
        for event in (Ordered("a", 1), Withdrawn("a")):
            await runner.handle(event)
            await runner.settle()
        assert (await family.record("parcel", "a-0")).status is Status.COMPENSATION_FAILED
        await runner.cancel("order", "a", compensate=False)
        await runner.settle()
        assert (await family.record("order", "a")).status is Status.CANCELLED
        assert (await family.record("parcel", "a-0")).status is Status.CANCELLED


async def test_cancelling_a_compensating_parent_says_what_it_still_sends() -> None:
    async with Family(sagas=[OrderSaga]) as family:
        await family.happen(Ordered("a", 1), Withdrawn("a"))
    effects = await repaired(family, "order", "a", cancel(compensate=True))
    assert effects[-1] == "continues its compensation: sends Release, last in first out"


async def test_dropping_and_resending_between_parent_and_child_say_what_follows() -> None:
    async with Family() as family:
        await family.happen(Ordered("a", 1))
    (start,) = [one for one in (await family.first("order", "a")).outbox if one.family == "start"]
    (again,) = (await repaired(family, "order", "a", resend(start)))[1:]
    assert again == "starts no second child, unless the first one is forgotten"
    (follows,) = (await repaired(family, "order", "a", drop(start.id)))[1:2]
    assert follows == "counts its child parcel a-0 as failed; if that has started after all, it is left as it is"
    async with Family() as family:
        await family.happen(Ordered("a", 1))
    async with Family(family.bench.journal, [ParcelSaga]) as family:
        await family.happen(Delivered("a-0"))
    (tell,) = (await family.record("parcel", "a-0")).outbox
    (follows,) = (await repaired(family, "parcel", "a-0", drop(tell.id)))[1:]
    assert follows == "does not tell its parent order a of the end: `drop` of 1/1 there counts this one as failed"
    async with Family(sagas=[OrderSaga]) as family:
        await family.happen(Ordered("a", 1), Withdrawn("a"))
    stop = next(one for one in (await family.record("order", "a")).outbox if one.family == "stop")
    assert "counts its child parcel a-0 as failed, and leaves it as it is: it continues" in (
        await repaired(family, "order", "a", drop(stop.id))
    )
