"""The booking service: as its README starts it, and with its processes killed in the middle of calls and webhooks."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import httpx
import pytest

from examples.booking import outside

from ..servers.processes import eventually, free_ports
from ..web.served import served
from .ledger import Ledger
from .programs import ROOT, patiently, prints_what_it_shows, started

README = ROOT / "examples" / "booking" / "README.md"
pytestmark = pytest.mark.timeout(300)  # eight programs are started
TRIPS = 12
READY = {"outside": "running on", "worker": "runs: trip", "app": "running on"}


def addresses(database: str) -> dict[str, str]:
    port, outside_port = map(str, free_ports(2))
    return {
        "DATABASE_URL": database,
        "PORT": port,
        "OUTSIDE_PORT": outside_port,
        "BOOKING_URL": f"http://127.0.0.1:{port}",
        "AGENCY_URL": f"http://127.0.0.1:{outside_port}",
    }


async def test_what_the_readme_shows_is_what_its_commands_print(postgres_schema: str) -> None:
    environment = addresses(postgres_schema)
    async with started(README, READY, **environment):
        await prints_what_it_shows(README, **environment)


async def test_nothing_is_lost_and_each_call_has_one_id_when_worker_and_web_are_killed(
    postgres_schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = addresses(postgres_schema)
    monkeypatch.setattr(outside, "BOOKING_URL", environment["BOOKING_URL"])
    monkeypatch.setattr(outside, "full", {"car"})
    ledger = Ledger(outside.app)
    ledger.holds = {"/bookings/hotel": [False], "/bookings/payment": [True]}
    trips = [f"T-{n}" for n in range(TRIPS)]
    answered: list[httpx.Response] = []

    async with (
        served(ledger) as agency,
        httpx.AsyncClient(base_url=environment["BOOKING_URL"], timeout=30) as traveller,
    ):
        environment["AGENCY_URL"] = str(agency.base_url)
        async with started(README, READY, "worker", "app", **environment) as programs:

            async def kill_the_worker() -> None:
                for _ in range(2):  # a call that was not carried out yet, and one that was
                    await ledger.held.get()
                await programs["worker"].restart()
                ledger.let_go.set()

            async def kill_the_web() -> None:
                for enough in (TRIPS // 4, TRIPS + TRIPS // 4):  # in the middle of requests, and of webhooks
                    await eventually(lambda enough=enough: len(answered) >= enough, seconds=60)
                    await programs["app"].restart()

            async def travel(trip: str) -> None:
                body = {"trip_id": trip, "car": trip.endswith("3")}
                answered.append(await patiently(traveller, "/trips", body, key=f"request of {trip}"))
                await eventually(lambda: f"/approvals/{trip}" in dict(ledger.calls), seconds=90)
                answered.append(await patiently(agency, f"/answers/{trip}/{said(trip)}"))

            killing = asyncio.gather(kill_the_worker(), kill_the_web())
            await asyncio.gather(*(travel(trip) for trip in trips))

            async def ended() -> list[Any]:
                answers = [(await traveller.get(f"/trips/{trip}")).json() for trip in trips]
                return answers if all(answer["ended"] for answer in answers) else []

            await asyncio.wait_for(killing, 90)
            await eventually(ended, seconds=90)
            again = await traveller.post(
                "/trips", json={"trip_id": "T-0"}, headers={"idempotency-key": "request of T-0"}
            )
            assert again.json()["duplicate"]
            _judge(ledger, dict(zip(trips, await ended(), strict=True)))


def said(trip: str) -> str:
    return "rejected" if trip.endswith(("1", "4")) else "approved"


def _judge(ledger: Ledger, ended: dict[str, Any]) -> None:
    """Compare what the outside has with what the service says of each trip."""
    ids: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path, key in ledger.calls:
        trip = key.removeprefix("saga::trip::").partition("/")[0]
        ids[trip][path].add(key)
    for trip, shown_of in ended.items():
        made = ids[trip]
        has = sorted(what for key, what in outside.booked.items() if key.startswith(f"saga::trip::{trip}/"))
        assert all(len(keys) == 1 for path, keys in made.items() if path != "/cancellations"), f"{trip}: {dict(made)}"
        if said(trip) == "approved":
            assert shown_of["status"] == "completed"
            assert [what.split()[0] for what in has] == ["flight", "hotel", "payment", "tickets"]
            assert shown_of["state"]["payment"] in has
            assert "/cancellations" not in made
        else:
            assert shown_of["status"] == "compensated"
            assert has == []
            assert len(made["/cancellations"]) == 2
            assert "/bookings/payment" not in made
    assert {"/bookings/hotel", "/bookings/payment"} <= ledger.came_twice(), "nobody was killed within a call"
