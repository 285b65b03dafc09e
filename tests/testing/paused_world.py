"""The worlds of the order saga and of the trip, whose operators pause commands, with circuits and rates."""

from __future__ import annotations

from datetime import timedelta

from sagalog import Call, Circuit, CommandPolicy, activity

from ..orders import Charge, Note, Release, Reserve, Ship
from .shop_world import Shop
from .trip_world import Agency, Plan, Trips

_AWAY = Circuit(failures=2, probe_after=timedelta(seconds=2), probe_cap=timedelta(seconds=10))


class PausedShop(Shop):
    pauses = (Reserve, Charge, Ship, Release)
    policies = {
        Reserve: CommandPolicy(circuit=_AWAY),
        Charge: CommandPolicy(circuit=_AWAY, rate=2, timeout=timedelta(seconds=15)),
        Note: CommandPolicy(rate=1),
        Ship: CommandPolicy(shared_rate=2),
    }


class PacedTrips(Trips):
    @activity(circuit=_AWAY, timeout=timedelta(seconds=15))
    async def flight(self, plan: Plan, call: Call) -> str: ...  # type: ignore[empty-body]

    @flight.undo
    async def cancel_flight(self, plan: Plan, call: Call) -> None: ...

    @activity(after="flight", within=timedelta(minutes=5), rate=1)
    async def hotel(self, plan: Plan, call: Call) -> str: ...  # type: ignore[empty-body]

    @hotel.undo
    async def cancel_hotel(self, plan: Plan, call: Call) -> None: ...

    @activity(after="flight", optional=True, shared_rate=1)
    async def lounge(self, plan: Plan, call: Call) -> str: ...  # type: ignore[empty-body]


class PausedAgency(Agency):
    sagas = (PacedTrips,)
    pauses = ("trip.flight", "trip.hotel", "trip.car", "trip.flight.undo", "trip.charge")
