"""The trip: booked whole, taken back whole, and the same in a world in which everything goes wrong."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from examples.trip import Approved, Rejected, Trip, TripRequested, TripSaga, main
from sagalog import Call, CommandRefused
from sagalog.testing import Scenario
from sagalog.testing.simulation import Finished, World, simulate


async def test_it_prints_what_was_booked_and_what_was_taken_back(capsys: pytest.CaptureFixture[str]) -> None:
    await main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("T-1 completed payment ")
    assert lines[1] == "T-2 compensated None"
    assert [line.split()[0:2] for line in lines if line.startswith("cancelled")] == [
        ["cancelled", "hotel"],
        ["cancelled", "flight"],
    ]


def test_the_traveller_is_reminded_each_day_and_silence_takes_the_trip_back() -> None:
    scenario = Scenario(TripSaga).given(TripRequested("T-1")).given_done("flight", "F").given_done("hotel", "H")
    scenario.after(timedelta(days=2)).then(activities={"approval": "waiting"})
    scenario.after(timedelta(days=1)).then(undone=["hotel", "flight"], compensated=True)


class Agencies(World):
    sagas = (TripSaga,)
    repairs = ("retry",)
    may_park = True

    def __init__(self) -> None:
        self.booked: dict[str, str] = {}

    def events(self, chance: random.Random) -> Iterator[Any]:
        for n in range(2):
            yield TripRequested(f"T-{n}", chance.random() < 0.5)
            yield chance.choice([1.0, 60.0])
            yield chance.choice([Approved, Rejected])(f"T-{n}")

    def activity(self, saga: str, name: str, state: Trip, call: Call, chance: random.Random) -> Any:
        if name in ("hotel", "car", "payment") and chance.random() < 0.2:
            raise CommandRefused("full")
        self.booked[call.id] = name
        return f"{name} of {call.id}" if name not in ("approval", "tickets") else None

    def undo(self, saga: str, name: str, state: Trip, call: Call, chance: random.Random) -> None:
        self.booked.pop(call.of, None)

    def check(self, instance: Finished) -> None:
        if instance.status == "compensated":
            mine = f"saga::trip::{instance.correlation_id}/"
            left = {name for key, name in self.booked.items() if key.startswith(mine)}
            assert not left & {"flight", "hotel", "car", "payment"}, "compensated, and something is still booked"


def test_nothing_stays_booked_of_a_trip_that_was_taken_back_whatever_fails() -> None:
    report = simulate([TripSaga()], Agencies, seeds=range(30))
    assert report.sagas["trip"]["ends compensated"] > 5
