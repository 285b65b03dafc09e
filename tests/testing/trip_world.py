"""The world of trips: flights that are sold out, guests who approve, or do not, and operators who cancel."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sagalog import Call, CommandRefused, ItinerarySaga, RetryPolicy, activity
from sagalog.testing.simulation import Finished, World


@dataclass
class Requested:
    trip_id: str
    car: bool = True


@dataclass
class Approved:
    trip_id: str


@dataclass
class Rejected:
    trip_id: str


@dataclass
class Plan:
    request: Requested | None = None
    flight: str | None = None
    hotel: str | None = None
    car: str | None = None
    lounge: str | None = None
    approval: Approved | None = None
    charge: str | None = None
    invoice: str | None = None


class Trips(ItinerarySaga[Plan]):
    name = "trip"
    starts_with, key = Requested, "trip_id"

    @activity
    async def flight(self, plan: Plan, call: Call) -> str: ...  # type: ignore[empty-body]

    @flight.undo
    async def cancel_flight(self, plan: Plan, call: Call) -> None: ...

    @activity(after=flight, within=timedelta(minutes=5))
    async def hotel(self, plan: Plan, call: Call) -> str: ...  # type: ignore[empty-body]

    @hotel.undo
    async def cancel_hotel(self, plan: Plan, call: Call) -> None: ...

    @activity(
        after=flight,
        when=lambda plan: plan.request.car,
        retry=RetryPolicy(attempts=3, base=timedelta(milliseconds=100)),
    )
    async def car(self, plan: Plan, call: Call) -> str: ...  # type: ignore[empty-body]

    @car.undo
    async def cancel_car(self, plan: Plan, call: Call) -> None: ...

    @activity(after=flight, optional=True)
    async def lounge(self, plan: Plan, call: Call) -> str: ...  # type: ignore[empty-body]

    @activity(after=(hotel, car), until=Approved, unless=Rejected, within=timedelta(days=2), remind=timedelta(hours=8))
    async def approval(self, plan: Plan, call: Call) -> None: ...

    @activity(pivot=True)
    async def charge(self, plan: Plan, call: Call) -> str: ...  # type: ignore[empty-body]

    @activity
    async def invoice(self, plan: Plan, call: Call) -> str: ...  # type: ignore[empty-body]


class Agency(World):
    sagas = (Trips,)
    repairs = ("skip", "retry", "skip", "cancel")

    def __init__(self) -> None:
        self.done: dict[
            str, list[tuple[str, str, str]]
        ] = {}  # what was booked: by trip, the activity, its id, its result
        self.undone: dict[str, list[tuple[str, str, str | None]]] = {}

    def events(self, chance: random.Random) -> Iterator[Any]:
        for n in range(3):
            trip = f"t{n}"
            early = chance.random() < 0.2
            if early:
                yield Requested(trip)
                yield Approved(trip)
            else:
                yield Requested(trip, chance.random() < 0.7)
            pause = chance.choice([0.0, 1.0, 30.0, 4000.0])
            yield pause
            if chance.random() < 0.8:
                yield chance.choice([Approved, Approved, Rejected])(trip)
            if chance.random() < 0.2 and pause < 100:  # a life that begins after retention has the same ids
                yield Requested(trip)

    def activity(self, saga: str, name: str, state: Plan, call: Call, chance: random.Random) -> Any:
        if name != "approval" and chance.random() < {"charge": 0.2, "invoice": 0.1}.get(name, 0.12):
            raise CommandRefused("sold out")
        assert name != "car" or (state.request and state.request.car), "a car is booked that nobody needs"
        if name == "approval":
            return None
        result = f"{name} {call.id}"
        self.done.setdefault(call.correlation_id, []).append((name, call.id, result))
        return result

    def undo(self, saga: str, name: str, state: Plan, call: Call, chance: random.Random) -> None:
        self.undone.setdefault(call.correlation_id, []).append((name, call.of, getattr(state, name)))

    def check(self, instance: Finished) -> None:
        plan = instance.state
        done, undone = self.done.get(instance.correlation_id, []), self.undone.get(instance.correlation_id, [])
        results = {result for _, _, result in done}
        for name in ("flight", "hotel", "car", "lounge", "charge", "invoice"):
            assert getattr(plan, name) in (None, *results), f"{name} has a result that nobody gave"
        of = [(name, one) for name, one, _ in undone]
        assert len(set(of)) == len(of) or instance.repairs, "something was undone twice"
        for name, one, known in undone:
            booked = [result for other, called, result in done if (other, called) == (name, one)]
            assert known is None or booked == [known], f"{name} was undone with the result of another call"
        if instance.status == "completed" and not instance.repairs:
            assert all((plan.flight, plan.hotel, plan.charge, plan.invoice)), "completed without all of it"
            assert plan.approval is not None, "charged without an approval"
            assert bool(plan.car) is bool(plan.request and plan.request.car), "the car does not follow from the request"
        if instance.status == "compensated" and not instance.repairs:
            assert not plan.charge, "charged, and undone"
            names = {name for name, _, _ in undone}
            for name in ("flight", "hotel", "car"):
                assert not getattr(plan, name) or name in names, f"{name} was booked, and is not undone"
