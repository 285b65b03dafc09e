"""Commands that are built elsewhere than in a handler are known when the runner is made, or refused then."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sagalog import DefinitionError

FILES = {
    "commands": "from dataclasses import dataclass\n"
    + "".join(
        f"@dataclass\nclass {name}:\n    id: str = ''\n"
        for name in ("Ship", "Bill", "Pack", "Rush", "Late", "Placed", "Clash")
    ),
    "other": "from dataclasses import dataclass\n@dataclass\nclass Clash:\n    n: int = 0\n",
    "helpers": "from . import commands\nfrom .commands import Bill\ndef bill(id):\n    return Bill(id)\n",
    "policies": "from .commands import Rush\nclass Urgent:\n    def command(self, id):\n        return Rush(id)\n",
    "late": "from .commands import Late\n",
    "base": "from sagalog import Saga, Send\nfrom .commands import Ship\n"
    "class Base(Saga[dict]):\n    def more(self, id):\n        yield Send(Ship(id))\n",
    "order": "from sagalog import starts\nfrom . import helpers, commands, other\nfrom .base import Base\n"
    "from .commands import Placed\nTABLE = {'pack': commands.Pack}\n"
    "class Order(Base):\n    name = 'order'\n    def __init__(self, policy=None):\n        self.policy = policy\n"
    "    @starts(Placed, key='id')\n    def placed(self, state, event):\n        yield from super().more(event.id)\n"
    "        commands.Clash, other.Clash\n        from .late import Late\n        yield helpers.bill(event.id)\n",
}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    package = tmp_path / "declaredshop"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for name, source in FILES.items():
        (package / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield lambda name: importlib.import_module(f"declaredshop.{name}")
    for name in [name for name in sys.modules if name.startswith("declaredshop")]:
        del sys.modules[name]


@pytest.mark.parametrize("command", ["Ship", "Bill", "Pack", "Late", "Clash"])
def test_a_command_of_super_a_helper_a_table_or_a_late_import_can_be_packed_and_read_by_another_worker(
    shop: Any, command: str
) -> None:
    order = shop("order").Order
    value = getattr(shop("commands"), command)("a") if command != "Clash" else shop("other").Clash(3)
    stored = order.registry().pack(value)
    assert order.registry().unpack(stored) == value


def test_two_classes_of_one_name_in_a_handler_do_not_stand_in_each_others_way(shop: Any) -> None:
    registry = shop("order").Order.registry()
    for value in (shop("commands").Clash("a"), shop("other").Clash(1)):
        assert registry.unpack(registry.pack(value)) == value


def test_what_an_injected_policy_sends_is_known(shop: Any) -> None:
    order, urgent = shop("order").Order, shop("policies").Urgent()
    value = urgent.command("a")
    registry = order.registry(order(urgent))
    assert registry.unpack(registry.pack(value)) == value


def test_a_type_that_was_reached_and_is_declared_now_is_still_read_under_both_names(shop: Any) -> None:
    order = shop("order").Order
    value = shop("commands").Pack("a")
    before = order.registry().pack(value)

    class Declared(order):  # type: ignore[misc]
        messages = (shop("commands"),)

    after = Declared.registry().pack(value)
    assert before.type == "declaredshop.commands:Pack"
    assert after.type == "Pack"
    assert Declared.registry().unpack(before) == Declared.registry().unpack(after) == value


def test_messages_that_are_no_types_are_refused_when_the_class_is_made(shop: Any) -> None:
    order = shop("order").Order
    for bad in ("Pack", (1,), ("Pack",), None):
        with pytest.raises(DefinitionError, match="messages takes message types"):
            type("Bad", (order,), {"messages": bad})
    union = shop("commands").Pack | shop("commands").Bill
    assert "Bill" in type("Good", (order,), {"messages": union, "name": "good"}).registry().names()  # type: ignore[attr-defined]
