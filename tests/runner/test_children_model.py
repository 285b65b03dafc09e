"""Whatever happens to orders and their parcels, in any order: a real runner against a plain reference of families."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sagalog import InMemoryJournal, JournalSagaStateStore, NoInstanceError
from sagalog.decision.record import decode_record

from ..families import Closed, Delivered, Lost, Ordered, OrderSaga, ParcelSaga, ShipParcel, Withdrawn
from .conftest import Bench


@dataclass
class PlainParcel:
    """A parcel, and which life of which order has started it."""

    status: str
    parent: tuple[str, int] | None = None


@dataclass
class PlainOrder:
    """The newest life of an order: what it has heard, and which of its parcels it waits for, or could fetch back."""

    life: int
    status: str = "running"
    parcels: int = 0
    ended: list[str] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)
    completed: list[str] = field(default_factory=list)
    reserved: int = 0


class Reference:
    """What orders and parcels do, without records, ids and outboxes."""

    def __init__(self) -> None:
        self.orders: dict[str, PlainOrder] = {}
        self.parcels: dict[str, PlainParcel] = {}
        self.done: Counter[str] = Counter()

    def ordered(self, name: str, parcels: int) -> None:
        order = self.orders.get(name)
        if order is None or order.status != "running":
            order = self.orders[name] = PlainOrder(1 if order is None else order.life + 1)
        order.parcels += parcels
        order.reserved += 1
        self.done[f"Reserve {name}"] += 1
        life = order.life
        ids = [f"{name}-{number}" for number in range(parcels)]
        new = [one for one in ids if not self.runs(one)]
        order.waits += new
        for one in ids:
            if one in new:
                self.shipped(one, (name, life))
            else:
                self.heard((name, life), one, "failed")

    def shipped(self, parcel: str, parent: tuple[str, int] | None = None) -> None:
        self.parcels[parcel] = PlainParcel("running", parent)
        self.done[f"Carry {parcel}"] += 1

    def ended(self, parcel: str, status: str) -> None:
        found = self.parcels.get(parcel)
        if found is None or found.status != "running":
            return
        found.status = status
        if status == "compensated":
            self.done[f"CarryBack {parcel}"] += 1
        if found.parent is not None:
            self.heard(found.parent, parcel, status)

    def runs(self, parcel: str) -> bool:
        return parcel in self.parcels and self.parcels[parcel].status == "running"

    def heard(self, parent: tuple[str, int], parcel: str, outcome: str) -> None:
        order = self.orders[parent[0]]
        if order.life != parent[1]:
            return
        if outcome != "failed" and parcel in order.waits:
            order.waits.remove(parcel)
        if order.status != "running":
            return
        if outcome == "completed":
            order.completed.append(parcel)
        order.ended.append(f"{parcel} {outcome}{' Receipt' * (outcome == 'completed')}")
        if len(order.ended) >= order.parcels:
            order.status = "completed"

    def withdrawn(self, name: str) -> None:
        order = self.orders.get(name)
        if order is not None and order.status == "running":
            order.status = "compensated"
            self.stop(order, "compensated")
            self.done[f"Release {name}"] += order.reserved
            for parcel in order.completed:
                self.done[f"Fetch {parcel}"] += 1

    def cancelled(self, name: str) -> None:
        order = self.orders.get(name)
        if order is not None and order.status == "running":
            order.status = "cancelled"
            self.stop(order, "cancelled")

    def stop(self, order: PlainOrder, status: str) -> None:
        for parcel in list(order.waits):
            self.ended(parcel, status)

    def closed(self, name: str) -> None:
        order = self.orders.get(name)
        if order is not None and order.status == "running":
            order.status = "completed"


NAMES = st.sampled_from(["a", "b"])
PARCELS = st.sampled_from(["a-0", "a-1", "b-0"])
HAPPENINGS = st.lists(
    st.one_of(
        st.tuples(st.just("ordered"), NAMES, st.integers(0, 2)),
        st.tuples(st.sampled_from(["withdrawn", "closed", "cancelled"]), NAMES),
        st.tuples(st.sampled_from(["delivered", "lost"]), PARCELS),
        st.tuples(st.just("shipped"), PARCELS),
        st.tuples(st.just("restart")),
    ),
    max_size=12,
)


async def compare(happenings: list[tuple[Any, ...]]) -> None:
    journal, reference, done = InMemoryJournal(), Reference(), Counter[str]()

    def accept(command: Any) -> None:
        done[f"{type(command).__name__} {getattr(command, 'id', None) or command.parcel}"] += 1

    bench = Bench(journal)
    runner = bench.runner(sagas=[OrderSaga, ParcelSaga], dispatch=accept)
    await runner.start()
    try:
        for what, *about in happenings:
            if what == "restart":
                await runner.stop()
                runner = bench.runner(sagas=[OrderSaga, ParcelSaga], dispatch=accept)
                await runner.start()
            elif what == "cancelled":
                try:
                    await runner.cancel("order", about[0], compensate=False)
                except NoInstanceError:
                    assert about[0] not in reference.orders or reference.orders[about[0]].status != "running"
                reference.cancelled(about[0])
            else:
                if what == "shipped" and reference.runs(about[0]):
                    continue  # it would be carried once more, and back as often
                await runner.handle(event_of(what, about))
                tell(reference, what, about)
            await runner.settle()
            await same(journal, reference)
            assert done == +reference.done
    finally:
        await runner.stop()


def event_of(what: str, about: list[Any]) -> Any:
    if what == "ordered":
        return Ordered(about[0], about[1], undo=True)
    kinds = {"withdrawn": Withdrawn, "closed": Closed, "delivered": Delivered, "lost": Lost, "shipped": ShipParcel}
    return kinds[what](about[0])


def tell(reference: Reference, what: str, about: list[Any]) -> None:
    if what in ("delivered", "lost"):
        reference.ended(about[0], "completed" if what == "delivered" else "compensated")
    else:
        getattr(reference, what)(*about)


async def same(journal: InMemoryJournal, reference: Reference) -> None:
    for name, order in reference.orders.items():
        record = decode_record((await _stored(journal, "order", name)).payload)
        state = OrderSaga().decode_state(record.state_bytes())
        assert (record.status.value, record.incarnation) == (order.status, order.life), name
        assert state.ended == order.ended, name
        if order.status == "running":
            assert sorted(child.id for child in record.children.values()) == sorted(order.waits), name
        assert not record.outbox
    for name, parcel in reference.parcels.items():
        record = decode_record((await _stored(journal, "parcel", name)).payload)
        assert record.status.value == parcel.status, name
        assert bool(record.parent) is (parcel.parent is not None), name


async def _stored(journal: InMemoryJournal, saga: str, correlation_id: str) -> Any:
    saved = await JournalSagaStateStore(journal, saga).load_with_tombstone(correlation_id)
    assert saved is not None
    return saved


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(HAPPENINGS)
def test_families_do_as_the_plain_reference_does(happenings: list[tuple[Any, ...]]) -> None:
    asyncio.run(compare(happenings))
