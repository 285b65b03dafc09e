"""The world of families: parcels that are delivered, lost or refused, and orders that are withdrawn meanwhile."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from sagalog import CommandRefused
from sagalog.testing.simulation import Finished, World

from ..families import (
    Carry,
    CarryBack,
    Closed,
    Delivered,
    Fetch,
    Loaded,
    LorrySaga,
    Lost,
    Ordered,
    OrderSaga,
    ParcelSaga,
    Release,
    ShipParcel,
    Withdrawn,
)


class Families(World):
    sagas = (OrderSaga, ParcelSaga)

    def events(self, chance: random.Random) -> Iterator[Any]:
        for n in range(3):
            fate = chance.choice(["", "", "at once"])
            yield Ordered(f"o{n}", chance.choice([1, 2, 3]), fate, undo=True)
            yield chance.choice([0, 0, chance.random(), 20])
            if chance.random() < 0.4:
                yield Withdrawn(f"o{n}")
            elif chance.random() < 0.2:
                yield Closed(f"o{n}")
                yield Ordered(f"o{n}", 0)
        yield ShipParcel("p", boxes=2)
        yield chance.random() * 5
        yield Lost("p")

    def answer(self, command: Any, chance: random.Random) -> Any:
        if not isinstance(command, Carry) or command.id == "p":
            return None
        fate = chance.random()
        if fate < 0.25:
            raise CommandRefused("no")
        return Delivered(command.id) if fate < 0.75 else Lost(command.id) if fate < 0.9 else None

    def check(self, instance: Finished) -> None:
        if instance.saga != "order":
            return
        ended = [told.split()[0] for told in instance.state.ended]
        assert len(ended) == len(set(ended)), f"it heard of a child twice: {ended}"
        assert len(ended) <= instance.state.parcels

    def check_all(self, instances: list[Finished]) -> None:
        parcels = {one.correlation_id: one for one in instances if one.saga == "parcel"}
        for order in instances:
            if order.saga != "order" or order.status != "compensated":
                continue
            assert order.has(Release) or order.repairs, "it is compensated, and its reservation is not undone"
            fetched = {command.parcel for command in order.commands if isinstance(command, Fetch)}
            for number in range(order.state.parcels):
                parcel = parcels.get(f"{order.correlation_id}-{number}")
                if parcel is None:
                    continue
                assert parcel.status in ("completed", "compensated"), f"{parcel.correlation_id} is {parcel.status}"
                assert (parcel.correlation_id in fetched) is (parcel.status == "completed"), parcel.correlation_id
                if parcel.status == "compensated" and parcel.has(Carry):
                    assert parcel.has(CarryBack), f"{parcel.correlation_id} was carried, and not carried back"


class Taken(World):
    """The id of the child belongs to an instance that nobody started as a child; or a child is started twice."""

    sagas = (OrderSaga, ParcelSaga)

    def events(self, chance: random.Random) -> Iterator[Any]:
        yield ShipParcel("o-0")
        yield 100.0
        yield Ordered("o", 2)
        yield 100.0
        yield Withdrawn("o")
        yield Ordered("twice", 1)
        yield Ordered("twice", 1)

    def check(self, instance: Finished) -> None:
        if instance.correlation_id == "o-0":
            assert instance.status == "running", f"another's parcel is {instance.status}"
        if instance.correlation_id == "o":
            assert instance.status == "compensated"
            assert instance.state.ended == ["o-0 failed"]
        if instance.correlation_id == "twice":
            assert instance.state.ended == ["twice-0 failed"], instance.state.ended


class Forgotten(World):
    """A parent has ended and is forgotten while its child lives; then it begins anew, at the same numbers."""

    sagas = (OrderSaga, ParcelSaga)

    def events(self, chance: random.Random) -> Iterator[Any]:
        for n in range(2):
            yield Ordered(f"o{n}", 1)
        yield 100.0
        for n in range(2):
            yield Closed(f"o{n}")
        yield 8 * 86_400.0  # more than any retention
        for n in range(2):
            yield Ordered(f"o{n}", 1)

    def check(self, instance: Finished) -> None:
        if instance.saga == "order":  # its first life was closed; in the second one, the id of its child is taken
            assert instance.status == "completed", f"{instance.correlation_id} waits for a child that is not its own"
            assert instance.state.ended in ([], [f"{instance.correlation_id}-0 failed"]), instance.state.ended


class Lorries(World):
    """Children as the legs of a gather, of which one may be lost."""

    sagas = (LorrySaga, ParcelSaga)

    def events(self, chance: random.Random) -> Iterator[Any]:
        yield Loaded("all", 52)
        yield chance.random()
        yield Loaded("lost", 3)

    def answer(self, command: Any, chance: random.Random) -> Any:
        if isinstance(command, Carry) and command.id == "lost-1":
            raise CommandRefused("no")
        return None

    def check(self, instance: Finished) -> None:
        if instance.correlation_id == "all":
            assert (instance.status, instance.state.told, instance.state.heard) == ("completed", "52 of 52", 52)
        if instance.correlation_id == "lost":
            assert instance.status == "compensated", f"a parcel was lost, and it is {instance.status}"
