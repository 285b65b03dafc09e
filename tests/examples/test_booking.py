"""The booking service: as its README starts it, and with its processes killed in the middle of calls and webhooks."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from examples.booking import outside

from ..servers.processes import eventually, free_ports
from ..web.served import served
from .programs import ROOT, Program, shown, where

README = ROOT / "examples" / "booking" / "README.md"
pytestmark = pytest.mark.timeout(300)  # ten programs are started
TRIPS = 12
READY = {"outside": "running on", "worker": "runs: trip", "app": "running on"}


@asynccontextmanager
async def started(*names: str, **environment: str) -> AsyncIterator[dict[str, Program]]:
    """The programs of these names, out of the commands of the README; their ports are those in the environment."""
    first = shown(README, "sh")[0].replace("8000", environment["PORT"]).replace("9000", environment["OUTSIDE_PORT"])
    lines = [line for line in first.splitlines() if line.endswith("&")]
    assert len(lines) == len(READY)
    programs = {
        name: Program(line, ready, where(**environment))
        for (name, ready), line in zip(READY.items(), lines, strict=True)
        if name in names
    }
    try:
        await asyncio.gather(*(program.start() for program in programs.values()))
        yield programs
        codes = await asyncio.gather(*(program.stop() for program in programs.values()))
        assert {*codes} <= {0, -signal.SIGTERM}  # uvicorn ends by the signal that told it to
    finally:
        for program in programs.values():
            await program.kill()


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
    if shutil.which("curl") is None:
        pytest.skip("there is no curl on this machine")
    environment = addresses(postgres_schema)
    async with started("outside", "worker", "app", **environment):
        commands = re.findall(r"\$ (.*)\n((?:(?!\$ ).*\n)*)", "".join(shown(README, "console")))
        assert len(commands) > 5
        for command, expected in commands:
            command = command.replace(":8000", f":{environment['PORT']}")
            command = command.replace(":9000", f":{environment['OUTSIDE_PORT']}")
            if "--json" in command or "-X POST" in command:
                assert await printed(command) == expected, command
            else:  # it asks how things stand, which a worker changes
                while await printed(command) != expected:
                    await asyncio.sleep(0.05)


async def printed(command: str) -> str:
    process = await asyncio.create_subprocess_exec("bash", "-c", command, stdout=asyncio.subprocess.PIPE)
    return (await process.communicate())[0].decode().rstrip("\n") + "\n"


class Ledger:
    """Stands before the outside: notes each call, and holds the first one at an address until it is let go."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.calls: list[tuple[str, str]] = []  # path, id
        self.holds: dict[str, bool] = {}  # by path: whether it is carried out before it is held
        self.held: asyncio.Queue[str] = asyncio.Queue()
        self.let_go = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        key = dict(scope.get("headers", ())).get(b"idempotency-key")
        if key is None:
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        self.calls.append((path, key.decode()))
        after = self.holds.pop(path, None)
        if after is None:
            await self._app(scope, receive, send)
            return
        answer: list[Any] = []

        async def keep(message: Any) -> None:
            answer.append(message)

        if after:
            await self._app(scope, receive, keep)
        self.held.put_nowait(path)
        await self.let_go.wait()
        # Who has asked is dead: nobody hears this.
        for message in answer or [{"type": "http.response.start", "status": 503}, {"type": "http.response.body"}]:
            await send(message)


async def test_nothing_is_lost_and_each_call_has_one_id_when_worker_and_web_are_killed(
    postgres_schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = addresses(postgres_schema)
    monkeypatch.setattr(outside, "BOOKING_URL", environment["BOOKING_URL"])
    monkeypatch.setattr(outside, "full", {"car"})
    ledger = Ledger(outside.app)
    ledger.holds = {"/bookings/hotel": False, "/bookings/payment": True, "/cancellations": True}
    trips = [f"T-{n}" for n in range(TRIPS)]
    answered: list[str] = []

    async with (
        served(ledger) as agency,
        httpx.AsyncClient(base_url=environment["BOOKING_URL"], timeout=30) as traveller,
    ):
        environment["AGENCY_URL"] = str(agency.base_url)
        async with started("worker", "app", **environment) as programs:

            async def kill_the_worker() -> None:
                for _ in range(3):
                    await ledger.held.get()
                    await programs["worker"].restart()
                ledger.let_go.set()

            async def kill_the_web() -> None:
                for enough in (TRIPS // 4, TRIPS + TRIPS // 4):  # in the middle of requests, and of webhooks
                    await eventually(lambda enough=enough: len(answered) >= enough, seconds=60)
                    await programs["app"].restart()

            async def patiently(client: httpx.AsyncClient, path: str, body: Any = None, key: str = "") -> None:
                async with asyncio.timeout(90):
                    while True:
                        try:
                            answer = await client.post(path, json=body, headers={"idempotency-key": key} if key else {})
                        except httpx.TransportError:  # nobody knows whether it is stored
                            await asyncio.sleep(0.05)
                            continue
                        assert answer.status_code < 300, answer.text
                        answered.append(path)
                        return

            async def travel(trip: str) -> None:
                body = {"trip_id": trip, "car": trip.endswith("3")}
                await patiently(traveller, "/trips", body, key=f"request of {trip}")
                await eventually(lambda: f"/approvals/{trip}" in dict(ledger.calls), seconds=90)
                await patiently(agency, f"/answers/{trip}/{said(trip)}")

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
    twice = {path for path, key in ledger.calls if ledger.calls.count((path, key)) > 1}
    assert {"/bookings/hotel", "/bookings/payment", "/cancellations"} <= twice, "nobody was killed within a call"
