"""`sagalog check`: what a new version of the code could not go on with, found before it is deployed."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from sagalog import SagaRunner

from ..orders import Asked, Charge, Failing, Noted, OrderSaga, Paid, Placed
from .conftest import Sagalog

NEWER = """
from dataclasses import dataclass
from sagalog import Saga, SagaRunner, on, schema, starts

@dataclass
class Placed:
    order_id: str

@dataclass
class Release:
    order_id: str

@schema(version=2)
@dataclass
class OrderState:
    total: int = 0

class OrderSaga(Saga[OrderState]):
    name = "order"
    messages = (Release,)

    @starts(Placed, key="order_id")
    def placed(self, state, event): ...

newer = SagaRunner("sqlite:///orders.db", sagas=[OrderSaga])
"""

MISSING = """
from sagalog import SagaRunner
from tests.orders import OrderSaga, Reserve
runner = SagaRunner("sqlite:///orders.db", sagas=[OrderSaga], dispatch={Reserve: print})
"""


VERSIONS = """
from dataclasses import dataclass, field
from sagalog import SagaRunner, schema, upcast
import tests.orders as orders

def dispatch(command): ...

@schema(version=2)
@dataclass
class OrderState:
    amount: int = 0
    paid: bool = False
    log: list[str] = field(default_factory=list)

@upcast(OrderState, from_version=1)
def rename(document):
    return {"amount": document.pop("total"), **document}

@schema(version=2)
@dataclass
class Overdue:
    order_id: str
    days: int

@upcast(Overdue, from_version=1)
def add_days(document):
    return {**document, "days": 0}

@schema(version=2)
@dataclass
class Charge:
    order_id: str
    amount: int

@schema(version=2)
@dataclass
class Failing:
    order_id: str

UPCASTERS

class OrderSaga(orders.Saga[OrderState]):
    name = "order"
    messages = (Overdue, Charge, Failing, orders.Release, orders.Refund, orders.Survey, orders.Noted)

    @orders.starts(orders.Placed, key="order_id")
    def placed(self, state, event): ...

    @orders.on(Overdue, key="order_id")
    def overdue(self, state, event): ...

    @orders.on(Failing, key="order_id")
    def failing(self, state, event): ...

    @orders.on(orders.Noted, key="order_id")
    def noted(self, state, event): ...

runner = SagaRunner("sqlite:///orders.db", sagas=[OrderSaga], dispatch=dispatch)
"""
UPCASTERS = """
@upcast(Charge, from_version=1)
def add_amount(document):
    return {**document, "amount": AMOUNT}

@upcast(Failing, from_version=1)
def forget_error(document):
    return {"order_id": document["order_id"]}
"""


@pytest.fixture
def journal(tmp_path: Path) -> str:
    """Orders with a timer, an undo command, a pending command, a held event and a scheduled command."""
    url = f"sqlite:///{tmp_path}/orders.db"

    async def fill() -> None:
        def dispatch(command: object) -> None:
            if isinstance(command, Charge):
                raise ConnectionError

        OrderSaga.fail_times = 99
        async with SagaRunner(url, sagas=[OrderSaga], dispatch=dispatch) as runner:
            for n in range(5):
                await runner.handle(Placed(f"o{n}"))
            await runner.handle(Paid("o0"))
            await runner.handle(Failing("o1"))
            await runner.handle(Noted("o1", "held"))
            await runner.handle(Asked("o2", "schedule"))
        OrderSaga.fail_times = 0

    asyncio.run(fill())
    return url


def test_the_same_code_can_go_on_with_everything(sagalog: Sagalog, journal: str) -> None:
    done = sagalog("check", "shop:runner", "--journal", journal)
    assert done.returncode == 0, done.stdout
    assert done.stdout == "5 live instances (5 of order): 5 could continue, 0 could not; 1 are parked already\n"
    assert done.stderr == ""


def test_what_a_newer_version_could_not_read_is_listed_by_reason(
    sagalog: Sagalog, journal: str, tmp_path: Path
) -> None:
    (tmp_path / "newer.py").write_text(NEWER)
    before = (tmp_path / "orders.db").read_bytes()
    done = sagalog("check", "newer:newer", "--journal", journal)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[-1] == "5 live instances (5 of order): 0 could continue, 5 could not; 1 are parked already"
    for reason in (
        "5  order: state: OrderState is stored with schema version 1; this code knows version 2 and has no "
        "@upcast(OrderState, from_version=1) (o0, o1, o2, ...)",
        "timer payment: the message type 'Overdue' is unknown to this version of the code",
        "pending command: the message type 'Charge' is unknown to this version of the code (o0)",
        "undo command: no command handler for Release",
        "held event: the message type 'Failing' is unknown to this version of the code (o1)",
        "timer of a scheduled command: the message type 'Survey' is unknown to this version of the code (o2)",
    ):
        assert any(reason in line for line in lines), f"{reason!r} is not in {done.stdout}"
    assert (tmp_path / "orders.db").read_bytes() == before
    as_json = json.loads(sagalog("check", "newer:newer", "--journal", journal, "--json").stdout)
    assert as_json["read"] == {"order": 5}
    assert {"o0", "o1"} <= {one for entry in as_json["would_park"] for one in entry["ids"]}


def test_what_older_code_stored_and_upcasters_lead_from_can_go_on(
    sagalog: Sagalog, journal: str, tmp_path: Path
) -> None:
    (tmp_path / "upcasting.py").write_text(VERSIONS.replace("UPCASTERS", UPCASTERS.replace("AMOUNT", "1")))
    before = (tmp_path / "orders.db").read_bytes()
    done = sagalog("check", "upcasting:runner", "--journal", journal)
    assert done.stdout == "5 live instances (5 of order): 5 could continue, 0 could not; 1 are parked already\n"
    assert done.returncode == 0
    assert (tmp_path / "orders.db").read_bytes() == before


def test_what_no_upcaster_leads_from_and_what_one_fails_on_are_listed_by_reason(
    sagalog: Sagalog, journal: str, tmp_path: Path
) -> None:
    failing = UPCASTERS.replace("AMOUNT", "document['no such field']").partition("@upcast(Failing")[0]
    (tmp_path / "failing.py").write_text(VERSIONS.replace("UPCASTERS", failing))
    done = sagalog("check", "failing:runner", "--journal", journal)
    assert done.returncode == 1
    for reason in (
        "1  order: pending command: Charge is stored with schema version 1: the upcaster from version 1 to 2 raised "
        "KeyError (o0)",
        "1  order: held event: Failing is stored with schema version 1; this code knows version 2 and has no "
        "@upcast(Failing, from_version=1) (o1)",
    ):
        assert reason in done.stdout
    assert "3 could continue, 2 could not" in done.stdout


def test_commands_without_a_handler_and_sagas_that_are_not_run_are_listed(
    sagalog: Sagalog, journal: str, tmp_path: Path
) -> None:
    (tmp_path / "missing.py").write_text(MISSING)
    done = sagalog("check", "missing:runner", "--journal", journal)
    assert done.returncode == 1
    assert "pending command: no command handler for Charge (o0)" in done.stdout
    assert "Reserve" not in done.stdout
    (tmp_path / "other.py").write_text(NEWER.replace('name = "order"', 'name = "another"'))
    done = sagalog("check", "other:newer", "--journal", journal)
    assert "order: this runner has no such saga" in done.stdout


def test_progress_is_shown_on_a_terminal(journal: str, tmp_path: Path, sagalog: Sagalog) -> None:
    del sagalog
    ours, theirs = pty.openpty()
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "TERM": "xterm", "COLUMNS": "80"}
    code = (  # on a clock that runs a second at each look, so that there is time to show something
        "import itertools, sys, types, sagalog.cli.progress as progress\n"
        "seconds = itertools.count()\n"
        "progress.time = types.SimpleNamespace(monotonic=lambda: next(seconds))\n"
        f"sys.argv = ['sagalog', 'check', 'shop:runner', '--journal', {journal!r}]\n"
        "from sagalog.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=theirs, timeout=60
    )
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert done.returncode == 0
    assert "instances read" in shown


ITINERARY = """
from dataclasses import dataclass
from sagalog import ItinerarySaga, SagaRunner, activity

@dataclass
class Asked:
    id: str

@dataclass
class State:
    asked: Asked | None = None

class TourSaga(ItinerarySaga[State]):
    name = "tour"
    starts_with, key = Asked, "id"

    @activity
    async def first(self, state, call) -> None: ...

    @activity{of}
    async def second(self, state, call) -> None:
        raise ConnectionError

    @activity{before}
    async def third(self, state, call) -> None: ...

runner = SagaRunner("sqlite:///tours.db", sagas=[TourSaga])
"""


def test_an_activity_that_was_moved_before_one_that_has_begun_is_warned_of(tmp_path: Path, sagalog: Sagalog) -> None:
    url = f"sqlite:///{tmp_path / 'tours.db'}"
    (tmp_path / "before.py").write_text(ITINERARY.format(of="", before=""))
    (tmp_path / "after.py").write_text(ITINERARY.format(of="(after='third')", before="(after='first')"))
    begin = (
        "import asyncio, before\n"
        "async def main():\n"
        f"    async with before.SagaRunner({url!r}, sagas=[before.TourSaga]) as runner:\n"
        "        await runner.handle(before.Asked('1'))\n"
        "        while 'second' not in (await runner.journal.latest_message('saga::tour::1')).payload.decode():\n"
        "            await asyncio.sleep(0.001)\n"
        "asyncio.run(main())\n"
    )
    subprocess.run([sys.executable, "-c", begin], cwd=tmp_path, check=True, capture_output=True)
    told = sagalog("check", f"{tmp_path / 'after.py'}:runner", "--journal", url)
    assert told.returncode == 0
    assert (
        "activity third will be skipped in 1, in which what comes after it in this code has already begun"
        in told.stdout
    )
    same = sagalog("check", f"{tmp_path / 'before.py'}:runner", "--journal", url)
    assert "skipped" not in same.stdout


CHANGED = """
from dataclasses import dataclass, field
from sagalog import ItinerarySaga, Saga, SagaRunner, Sequence, activity, on, starts

@dataclass
class Asked:
    id: str

@dataclass
class Measured:
    id: str
    n: int

@dataclass
class Paid:
    id: str

@dataclass
class State:
    asked: Asked | None = None

class TourSaga(ItinerarySaga[State]):
    name = "tour"
    starts_with, key = Asked, "id"

    @activity
    async def first(self, state, call) -> None: ...
{undo}
    @activity(until=Paid)
    async def second(self, state, call) -> None: ...

class MeterSaga(Saga[State]):
    name = "meter"

    @starts(Measured, key="id", sequence=Sequence("n"{name}))
    def measured(self, state, event): ...

def runner_on(url):
    return SagaRunner(url, sagas=[TourSaga, MeterSaga])

runner = runner_on("sqlite:///tours.db")
"""


def test_an_undo_that_is_added_and_a_sequence_that_is_renamed_are_warned_of(tmp_path: Path, sagalog: Sagalog) -> None:
    url = f"sqlite:///{tmp_path / 'tours.db'}"
    (tmp_path / "before.py").write_text(CHANGED.format(undo="", name=""))
    undo = "\n    @first.undo\n    async def back(self, state, call) -> None: ...\n"
    (tmp_path / "after.py").write_text(CHANGED.format(undo=undo, name=', name="readings"'))
    begin = (
        "import asyncio, before\n"
        "async def main():\n"
        f"    async with before.runner_on({url!r}) as runner:\n"
        "        await runner.handle(before.Asked('1'))\n"
        "        await runner.handle(before.Measured('1', 1))\n"
        "        await runner.settle()\n"
        "asyncio.run(main())\n"
    )
    subprocess.run([sys.executable, "-c", begin], cwd=tmp_path, check=True, capture_output=True)
    told = sagalog("check", f"{tmp_path / 'after.py'}:runner", "--journal", url)
    assert told.returncode == 0, told.stdout
    assert "activity first will not be undone in 1, where it was begun by code without an undo" in told.stdout
    assert "meter: 1 have numbers of the sequence Measured, which this code does not have" in told.stdout
    found = json.loads(sagalog("check", f"{tmp_path / 'after.py'}:runner", "--journal", url, "--json").stdout)
    assert found["activities_without_undo"] == [{"saga": "tour", "activity": "first", "instances": 1}]
    assert [(one["saga"], one["count"]) for one in found["sequences"]] == [("meter", 1)]
    same = sagalog("check", f"{tmp_path / 'before.py'}:runner", "--journal", url)
    assert "warning" not in same.stdout
