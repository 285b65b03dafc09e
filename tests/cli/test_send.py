"""`sagalog send`: one event from the terminal, for the workers on a journal."""

from __future__ import annotations

import json
from pathlib import Path

from .conftest import Sagalog

SHOP = """
from dataclasses import dataclass
from sagalog import Complete, Saga, SagaRunner, Send, starts, on

@dataclass
class Placed:
    order_id: str
    total: int = 1

@dataclass
class Paid:
    order_id: str

@dataclass
class Ship:
    order_id: str

@dataclass
class State:
    total: int = 0

class Shop(Saga[State]):
    name = "shop"

    @starts(Placed, key="order_id")
    def placed(self, state, event):
        state.total = event.total
        yield Send(Ship(event.order_id))

    @on(Paid, key="order_id")
    def paid(self, state, event):
        yield Complete()

def dispatch(command):
    raise AssertionError("a client carries out nothing")

runner = SagaRunner("sqlite:///shop.db", sagas=[Shop], dispatch=dispatch)
"""


def test_one_event_is_stored_once_and_its_commands_are_left_to_workers(sagalog: Sagalog, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    placed = ("send", "shop:runner", "Placed", "--json", '{"order_id": "A", "total": 7}', "--id", "m1")
    told = json.loads(sagalog(*placed).stdout)
    assert told == {"message_id": "m1", "outcomes": {"shop": "handled"}}
    assert json.loads(sagalog(*placed).stdout)["outcomes"] == {"shop": "duplicate"}
    shown = sagalog("show", "A", "--journal", "sqlite:///shop.db")
    assert "Ship" in shown.stdout, shown.stderr
    paid = sagalog("send", "shop:runner", "Paid", "--json", "-", "--wait", "5", stdin='{"order_id": "A"}')
    assert json.loads(paid.stdout)["ended"]["shop"]["status"] == "completed"


def test_what_is_wrong_with_an_event_is_told_and_none_is_stored(sagalog: Sagalog, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    for arguments, says in (
        (("Placd", "--json", "{}"), "no saga handles 'Placd'; known: Paid, Placed"),
        (("Placed", "--json", "{}"), "missing required field `order_id`"),
        (("Placed", "--json", "{"), "not JSON"),
    ):
        done = sagalog("send", "shop:runner", *arguments)
        assert done.returncode in (1, 2)
        assert says in done.stderr.replace("\n", " ")
    nobody = sagalog("send", "shop:runner", "Paid", "--json", '{"order_id": "Z"}')
    assert nobody.returncode == 1
    assert json.loads(nobody.stdout)["outcomes"] == {"shop": "no_instance"}
