"""The shop in Django: as its README starts it, and with its processes killed in the middle of charges and requests."""

from __future__ import annotations

import asyncio
import re
import shutil
import sqlite3
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from sagalog import JournalSagaStateStore, open_journal

from ..servers.processes import eventually, free_ports
from ..web.served import served
from .ledger import Ledger
from .programs import ROOT, patiently, prints_what_it_shows, started, where

EXAMPLE = ROOT / "examples" / "shop_django"
README = EXAMPLE / "README.md"
pytestmark = pytest.mark.timeout(300)  # seven programs are started
ORDERS = 40
READY = {"provider": "running on", "worker": "runs: order", "web": "Starting development server"}


@pytest.fixture
async def shop(tmp_path: Path) -> Path:
    """The project, as somebody would copy it, with its tables."""
    folder = tmp_path / "shop_django"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__", "db.sqlite3*"))
    await manage(folder, "migrate", "--verbosity", "0")
    return folder


async def manage(shop: Path, *command: str, **environment: str) -> None:
    argv = ("python", "manage.py", *command)
    process = await asyncio.create_subprocess_exec(*argv, cwd=shop, env=where(shop, **environment))
    assert await process.wait() == 0


def ports() -> dict[str, str]:
    port, outside_port = map(str, free_ports(2))
    return {"PORT": port, "OUTSIDE_PORT": outside_port, "PROVIDER_URL": f"http://127.0.0.1:{outside_port}"}


async def test_what_the_readme_shows_is_what_its_commands_print(shop: Path) -> None:
    environment = ports()
    async with (
        started(README, READY, folder=shop, **environment),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{environment['PORT']}", timeout=60) as browser,
    ):
        superuser = {"DJANGO_SUPERUSER_USERNAME": "ann", "DJANGO_SUPERUSER_PASSWORD": "pw"}
        await manage(shop, "createsuperuser", "--noinput", "--email", "ann@example.com", **superuser)
        await eventually(lambda: listens(browser), seconds=60)
        await prints_what_it_shows(README, **environment)
        await sees_the_dashboard_behind_the_admins_sign_in(browser)


async def listens(client: httpx.AsyncClient) -> bool:
    """Django says that it starts before it listens."""
    try:
        await client.get("/orders/none")
    except httpx.TransportError:
        return False
    return True


async def sees_the_dashboard_behind_the_admins_sign_in(browser: httpx.AsyncClient) -> None:
    asked = await browser.get("/admin/sagas/instances?status=all")
    assert asked.headers["location"].startswith("/admin/login/")
    form = await browser.get(asked.headers["location"])
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form.text)
    assert token is not None
    sent = {"csrfmiddlewaretoken": token[1], "username": "ann", "password": "pw"}
    signed_in = await browser.post(asked.headers["location"], data=sent)
    assert signed_in.headers["location"] == "/admin/sagas/instances?status=all"
    page = (await browser.get(signed_in.headers["location"])).text
    assert "A-1" in page
    assert "4242424242424242" not in (await browser.get("/admin/sagas/instance?saga=order&id=A-1")).text


async def test_a_row_and_its_step_are_one_and_each_charge_has_one_id_when_worker_and_web_are_killed(shop: Path) -> None:
    environment = ports()
    charged: dict[str, str] = {}  # by the id of the charge, the card: here the number of the order

    async def charge(request: Request) -> JSONResponse:
        card = (await request.json())["card"]
        if card.endswith("0"):
            return JSONResponse({}, status_code=402)
        charged[request.headers["idempotency-key"]] = card
        return JSONResponse({})

    ledger = Ledger(Starlette(routes=[Route("/charges", charge, methods=["POST"])]))
    ledger.holds = {"/charges": [False, True]}
    orders = [f"A-{n}" for n in range(ORDERS)]
    answered: list[httpx.Response] = []

    async with (
        served(ledger) as provider,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{environment['PORT']}", timeout=30) as customer,
    ):
        environment["PROVIDER_URL"] = str(provider.base_url)
        async with started(README, READY, "worker", "web", folder=shop, **environment) as programs:

            async def kill_the_worker() -> None:
                for _ in range(2):  # a call that was not carried out yet, and one that was
                    await ledger.held.get()
                await programs["worker"].restart()
                ledger.let_go.set()

            async def kill_the_web() -> None:
                await eventually(lambda: len(answered) >= ORDERS // 4, seconds=90)
                await programs["web"].kill()
                await rows_and_steps_are_the_same(shop, orders)
                await programs["web"].start()

            async def buy(order: str) -> None:
                body = {"order_id": order, "cents": 100, "card": order}
                answered.append(await patiently(customer, "/orders", body, key=f"order {order}"))

            async def buy_all(mine: list[str]) -> None:
                for order in mine:
                    await buy(order)

            killing = asyncio.gather(kill_the_worker(), kill_the_web())
            await asyncio.gather(*(buy_all(orders[first::4]) for first in range(4)))
            await asyncio.wait_for(killing, 120)
            negative = {
                "order_id": "A--1",
                "cents": -1,
                "card": "A--1",
            }  # the row is refused, and the step is stored by then
            refused = await customer.post("/orders", json=negative, headers={"idempotency-key": "negative"})
            assert refused.status_code == 500
            await buy(orders[0])
            assert answered[-1].json() == {"duplicate": True}
            expected = {order: "cancelled" if order.endswith("0") else "shipped" for order in orders}
            await eventually(lambda: rows(shop) == expected, seconds=120)
        await rows_and_steps_are_the_same(shop, [*orders, "A--1"])
    ids: dict[str, set[str]] = defaultdict(set)
    for _, key in ledger.calls:
        ids[key.removeprefix("saga::order::").partition("/")[0]].add(key)
    assert {order: len(keys) for order, keys in ids.items()} == dict.fromkeys(orders, 1)
    assert sorted(charged.values()) == sorted(order for order in orders if not order.endswith("0"))
    assert ledger.came_twice() == {"/charges"}, "nobody was killed within a call"


def rows(shop: Path) -> dict[str, str]:
    with closing(sqlite3.connect(shop / "db.sqlite3", timeout=30)) as database:
        return dict(database.execute("SELECT order_id, status FROM shop_order"))


async def rows_and_steps_are_the_same(shop: Path, orders: list[str]) -> None:
    """Look while nobody takes orders: each order has a row and an instance, live or ended, or neither."""
    async with open_journal(f"sqlite:///{shop / 'db.sqlite3'}?beside=true") as journal:
        store = JournalSagaStateStore(journal, "order")
        assert {order for order in orders if await store.load_with_tombstone(order)} == set(rows(shop))
