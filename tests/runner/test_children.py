"""Children with a runner: one for each start, their end heard once, and taken back before their parent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from sagalog import (
    Call,
    ChildEnded,
    CommandRefused,
    Compensate,
    DefinitionError,
    InMemoryJournal,
    ItinerarySaga,
    StartChild,
    Status,
    activity,
    on_child,
)
from sagalog.decision.record import encode_record

from ..families import (
    Carry,
    Closed,
    Delivered,
    Loaded,
    LorrySaga,
    Lost,
    Ordered,
    OrderSaga,
    ParcelSaga,
    ShipParcel,
    Withdrawn,
)
from .conftest import Bench
from .family import Family


async def test_children_run_and_their_parent_hears_how_each_ended() -> None:
    async with Family() as family:
        await family.happen(Ordered("a", 3), Delivered("a-1"), Lost("a-0"))
        assert await family.ended() == ["a-1 completed Receipt", "a-0 compensated"]
        before = await family.record("order", "a")
        assert [child.id for child in before.children.values()] == ["a-2"]
        assert before.child_ends == {"completed": 1, "compensated": 1}
        await family.happen(Delivered("a-2"))
        after = await family.record("order", "a")
    assert (after.status, after.children, after.outbox) == (Status.COMPLETED, {}, ())
    assert sorted(family.done) == ["Carry a-0", "Carry a-1", "Carry a-2", "CarryBack a-0", "Reserve a"]


async def test_a_child_may_end_in_its_first_step() -> None:
    async with Family() as family:
        await family.happen(Ordered("a", 2, "at once"))
        assert sorted(await family.ended()) == ["a-0 completed Receipt", "a-1 completed Receipt"]
        assert (await family.record("order", "a")).status is Status.COMPLETED


async def test_compensating_a_parent_takes_back_the_children_that_run_before_it_does() -> None:
    async with Family() as family:
        await family.happen(Ordered("a", 3), Delivered("a-1"), Withdrawn("a"))
        order, parcel = await family.record("order", "a"), await family.record("parcel", "a-0")
        completed = await family.record("parcel", "a-1")
    assert (order.status, parcel.status, completed.status) == (
        Status.COMPENSATED,
        Status.COMPENSATED,
        Status.COMPLETED,
    )
    assert order.child_ends == {"completed": 1, "compensated": 2}
    assert sorted(family.done[4:6]) == ["CarryBack a-0", "CarryBack a-2"]
    assert family.done[6:] == ["Release a"]


async def test_the_undo_of_a_child_is_for_one_that_had_completed() -> None:
    async with Family() as family:
        await family.happen(Ordered("a", 2, undo=True), Delivered("a-1"), Withdrawn("a"))
    assert family.done[3:] == ["CarryBack a-0", "Fetch a-1", "Release a"]


async def test_a_child_that_completes_before_it_is_asked_to_compensate_is_undone_by_its_parent() -> None:
    """The parent compensates, and has not heard yet that the child has completed: each is another worker's."""
    journal = InMemoryJournal()
    for sagas, event in (
        ([OrderSaga, ParcelSaga], Ordered("a", 1, undo=True)),
        ([OrderSaga], Withdrawn("a")),
        ([ParcelSaga], Delivered("a-0")),
    ):
        async with Family(journal, sagas) as one:
            await one.happen(event)
    async with Family(journal) as family:
        assert (await family.record("order", "a")).status is Status.COMPENSATING
        family.bench.clock.advance(timedelta(minutes=5))
        await family.runner.settle()
        assert (await family.record("order", "a")).status is Status.COMPENSATED
    assert family.done == ["Fetch a-0", "Release a"]


@pytest.mark.parametrize("compensate", [True, False])
async def test_cancelling_a_parent_ends_its_children(compensate: bool) -> None:
    async with Family() as family:
        await family.happen(Ordered("a", 2))
        await family.runner.cancel("order", "a", compensate=compensate)
        await family.runner.settle()
        order, parcel = await family.record("order", "a"), await family.record("parcel", "a-1")
    wanted = Status.COMPENSATED if compensate else Status.CANCELLED
    assert (order.status, parcel.status) == (wanted, wanted)
    assert [audit.note for audit in parcel.audit] == [
        f"its parent order a {'compensates' if compensate else 'was cancelled'}"
    ]
    assert family.done[-1] == ("Release a" if compensate else "Carry a-1")


async def test_grandchildren_of_the_same_saga_are_taken_back_before_their_parents() -> None:
    async with Family(sagas=[ParcelSaga]) as family:
        await family.happen(ShipParcel("p", boxes=2), Lost("p"))
        assert (await family.record("parcel", "p")).status is Status.COMPENSATED
    assert family.done == ["Carry p", "Carry p-0", "Carry p-1", "CarryBack p-1", "CarryBack p-0", "CarryBack p"]


async def test_a_start_whose_id_is_taken_has_failed_and_leaves_the_other_alone() -> None:
    async with Family() as family:
        await family.happen(ShipParcel("a-0"), Ordered("a", 2))
        assert await family.ended() == ["a-0 failed"]
        order, parcel = await family.record("order", "a"), await family.record("parcel", "a-0")
        assert [child.id for child in order.children.values()] == ["a-1"]
        assert (parcel.parent, parcel.status) == ("", Status.RUNNING)
        await family.happen(Withdrawn("a"))
        assert (await family.record("parcel", "a-0")).status is Status.RUNNING
        assert (await family.record("order", "a")).status is Status.COMPENSATED


async def test_a_second_start_of_the_same_child_has_failed() -> None:
    async with Family() as family:
        await family.happen(Ordered("a", 1), Ordered("a", 1))
        assert await family.ended() == ["a-0 failed"]


async def test_a_child_that_cannot_be_started_by_its_handler_is_parked_and_its_parent_waits() -> None:
    async with Family() as family:
        await family.happen(Ordered("a", 1, "raise"))
        parcel, order = await family.record("parcel", "a-0"), await family.record("order", "a")
        assert (bool(parcel.parked), len(parcel.held), order.outbox) == (True, 1, ())
        await family.runner.skip("parcel", "a-0")
        await family.runner.settle()
        assert await family.ended() == ["a-0 cancelled"]


async def test_a_parent_that_has_ended_takes_no_notice() -> None:
    async with Family() as family:
        await family.happen(Ordered("a", 1), Closed("a"), Delivered("a-0"))
        order, parcel = await family.record("order", "a"), await family.record("parcel", "a-0")
    assert (order.status, parcel.status, parcel.outbox) == (Status.COMPLETED, Status.COMPLETED, ())
    assert OrderSaga().decode_state(order.state_bytes()).ended == []


async def test_a_second_life_does_not_hear_of_the_children_of_the_first() -> None:
    async with Family() as family:
        await family.happen(Ordered("a", 1), Closed("a"), Ordered("a", 0), Delivered("a-0"))
        assert await family.ended() == []
        order = await family.record("order", "a")
        assert (order.incarnation, order.status, order.children) == (2, Status.RUNNING, {})


@pytest.mark.parametrize("lives", [False, True])
async def test_a_parent_that_was_forgotten_and_begins_anew_starts_children_of_its_own(lives: bool) -> None:
    """The numbers of its steps and lives begin anew as well: by these alone, its start would be the first one again."""
    async with Family() as family:
        await family.happen(Ordered("a", 1), *([] if lives else [Delivered("a-0")]))
        if lives:
            await family.happen(Closed("a"))
        first = await family.record("parcel", "a-0")
        await family.forget("order", "a")
    async with Family(family.bench.journal) as family:
        family.bench.advance(milliseconds=1)
        await family.happen(Ordered("a", 2))
        second = await family.record("parcel", "a-0")
        assert second.status is Status.RUNNING
        if lives:
            assert (await family.ended(), second.parent) == (["a-0 failed"], first.parent)
            await family.happen(Withdrawn("a"))
            assert (await family.record("parcel", "a-0")).status is Status.RUNNING
        else:
            assert second.parent != first.parent
            await family.happen(Delivered("a-0"))
            assert await family.ended() == ["a-0 completed Receipt"]


@pytest.mark.parametrize("ends", ["while it runs", "after it was forgotten"])
async def test_a_start_that_an_earlier_version_has_stored_is_carried_out_and_heard_of_once(ends: str) -> None:
    async with Family(sagas=[OrderSaga]) as family:
        await family.happen(Ordered("a", 1))
    order = await family.record("order", "a")
    ((entry, child),) = order.children.items()
    order.children = {entry: msgspec.structs.replace(child, began=0)}
    order.outbox = tuple([msgspec.structs.replace(one, began=0) for one in order.outbox])
    assert b"began" not in encode_record(order)
    await family.store("order", "a", order)
    async with Family(family.bench.journal) as family:
        await family.runner.settle()
        await family.happen(ShipParcel("b"))
        assert (await family.record("parcel", "a-0")).parent == f"saga::order::a/{entry}/1/child"
        if ends == "while it runs":
            await family.happen(Delivered("a-0"))
            assert await family.ended() == ["a-0 completed Receipt"]
            return
        await family.happen(Closed("a"))
        await family.forget("order", "a")
    async with Family(family.bench.journal) as family:
        family.bench.advance(milliseconds=1)
        await family.happen(Ordered("a", 2), Delivered("a-0"))
        assert await family.ended() == ["a-0 failed"]


async def test_a_child_whose_saga_another_worker_has_is_started_by_that_worker() -> None:
    journal = InMemoryJournal()
    async with Family(journal, [OrderSaga]) as orders:
        await orders.happen(Ordered("a", 1))
        parcels = Bench(journal)
        parcels.clock = orders.bench.clock
        async with parcels.runner(sagas=[OrderSaga, ParcelSaga], dispatch=lambda command: None) as both:
            parcels.clock.advance(timedelta(minutes=5))
            await both.settle()
            await both.handle(Delivered("a-0"))
            await both.settle()
        assert await orders.ended() == ["a-0 completed Receipt"]


async def test_a_thousand_children_stand_in_one_record_and_no_more() -> None:
    async with Family() as family:
        await family.happen(Ordered("a", 1000))
        with pytest.raises(DefinitionError, match="1,000 children have not ended yet: let a Gather start them"):
            await family.runner.handle(Ordered("a", 1))


async def test_a_gather_starts_many_children_some_at_a_time() -> None:
    async with Family(sagas=[LorrySaga, ParcelSaga], max_payload_bytes=32 * 1024) as family:
        await family.happen(Loaded("l", 500))
        lorry = await family.record("lorry", "l")
    state = LorrySaga().decode_state(lorry.state_bytes())
    assert (state.told, state.heard, lorry.status) == ("500 of 500", 500, Status.COMPLETED)
    assert lorry.child_ends == {"completed": 500}


async def test_a_child_that_completed_and_is_compensated_after_all_says_so() -> None:
    """Its last command is refused before its parent was told."""
    async with Family() as family:

        def refuse(command: Any) -> None:
            family.done.append(type(command).__name__)
            if isinstance(command, Carry):
                raise CommandRefused("no")

        await family.runner.stop()
        family.runner = family.bench.runner(sagas=[OrderSaga, ParcelSaga], dispatch=refuse)
        await family.runner.start()
        await family.happen(Ordered("a", 1, "at once"))
        assert await family.ended() == ["a-0 compensated"]


async def test_a_child_that_completed_and_holds_a_refusal_has_not_ended_yet() -> None:
    class Strict(ParcelSaga):
        broken = True

        def refused(self, state: Any, refused: Any) -> Any:
            if self.broken:
                raise ValueError("not now")
            return Compensate()

    def refuse(command: Any) -> None:
        if isinstance(command, Carry):
            raise CommandRefused("no")

    strict = Strict()
    async with Family(sagas=[OrderSaga, strict]) as family:
        await family.runner.stop()
        family.runner = family.bench.runner(sagas=[OrderSaga, strict], dispatch=refuse)
        await family.runner.start()
        await family.happen(Ordered("a", 1, "at once"))
        assert (await family.record("parcel", "a-0")).parked
        assert await family.ended() == []
        strict.broken = False
        await family.runner.retry("parcel", "a-0")
        await family.runner.settle()
        assert await family.ended() == ["a-0 compensated"]


async def test_a_parent_that_another_worker_has_changed_meanwhile_hears_of_the_child_that_it_started() -> None:
    """The worker that tells has the parent in memory as it was before: without that child."""
    journal = InMemoryJournal()
    async with Family(journal) as ours, Family(journal) as theirs:
        await ours.happen(Ordered("a", 0))
        await theirs.happen(Ordered("a", 1))
        await ours.happen(Delivered("a-0"))
        assert await ours.ended() == ["a-0 completed Receipt"]


async def test_what_stops_a_child_leaves_alone_who_has_its_id_by_now() -> None:
    journal = InMemoryJournal()
    async with Family(journal, [OrderSaga]) as orders:
        await orders.happen(Ordered("a", 1), Withdrawn("a"))
    async with Family(journal) as family:
        family.bench.clock.advance(timedelta(minutes=5))
        await family.runner.handle(ShipParcel("a-0"))
        await family.runner.settle()
        parcel, order = await family.record("parcel", "a-0"), await family.record("order", "a")
    assert (parcel.status, parcel.parent, order.status) == (Status.RUNNING, "", Status.COMPENSATED)


@dataclass
class Packing:
    request: ShipParcel | None = None
    box: str = ""


class PackSaga(ItinerarySaga[Packing]):
    name = "pack"
    starts_with, key = ShipParcel, "id"

    @activity
    async def box(self, state: Packing, call: Call) -> str:
        if call.correlation_id.endswith("lost"):
            raise CommandRefused("no box")
        return f"box of {call.correlation_id}"

    @box.undo
    async def unpack(self, state: Packing, call: Call) -> None: ...

    def result(self, state: Packing) -> str:
        return state.box


@dataclass
class Selling:
    request: Ordered | None = None
    box: str = ""
    sent: Delivered | None = None


class SellSaga(ItinerarySaga[Selling]):
    """An itinerary that is packed by a child, and waits for that in its last activity."""

    name = "sell"
    starts_with, key = Ordered, "id"

    def begin(self, state: Selling, event: Ordered) -> Any:
        state.request = event
        return StartChild(PackSaga, ShipParcel(f"{event.id}-{'lost' if event.parcels else 'pack'}"))

    @on_child(PackSaga)
    def packed(self, state: Selling, ended: ChildEnded) -> Any:
        state.box = ended.result or ""
        return None if state.box else Compensate()

    @activity(until=Delivered, key="id")
    async def sent(self, state: Selling, call: Call) -> None: ...


@pytest.mark.parametrize(("lost", "status", "box"), [(0, "completed", "box of a-pack"), (1, "compensated", "")])
async def test_itineraries_may_be_parents_and_children(lost: int, status: str, box: str) -> None:
    async with Family(sagas=[SellSaga, PackSaga]) as family:
        await family.happen(Ordered("a", lost), Delivered("a"))
        record = await family.record("sell", "a")
        assert (record.status, record.child_ends) == (status, {"compensated" if lost else "completed": 1})
        assert SellSaga().decode_state(record.state_bytes()).box == box
