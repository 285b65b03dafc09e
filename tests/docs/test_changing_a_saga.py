"""The page about changing a saga: its two versions run one after the other, and check says what it shows."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from .test_pages import blocks
from .test_readme import run

PAGE = "changing-a-saga.md"
BEFORE = """
import asyncio, shop_v1

async def main():
    async with shop_v1.runner as runner:
        await runner.handle(shop_v1.OrderPlaced("A-1", 12.34), message_id="m-1")

asyncio.run(main())
"""
AFTER = """
import asyncio, datetime, shop_v2
from sagalog import ManualClock

async def main():
    clock = ManualClock(datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=15))
    async with shop_v2.runner.using(clock=clock) as runner:
        await runner.settle()
        print(await runner.handle(shop_v2.OrderPlaced("A-1", 1), message_id="m-1"))

asyncio.run(main())
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """The two modules of the page, and an order that the first one has stored."""
    for code in blocks(PAGE, "python"):
        name = code.partition("\n")[0].removeprefix("# ")
        (tmp_path / name).write_text(code)
    done = run(tmp_path, sys.executable, "-c", BEFORE)
    assert done.returncode == 0, done.stderr
    return tmp_path


def checked(shop: Path, module: str) -> tuple[int, str]:
    (shown,) = blocks(PAGE, "console")
    command = shown.partition("\n")[0].removeprefix("$ ").replace("shop_v2.py", module)
    done = run(shop, sys.executable, "-m", *command.split())
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_check_finds_that_the_new_code_can_go_on(shop: Path) -> None:
    (shown,) = blocks(PAGE, "console")
    assert checked(shop, "shop_v2.py") == (0, shown.partition("\n")[2])


def test_check_names_the_upcaster_that_is_missing(shop: Path) -> None:
    (expected,) = blocks(PAGE, "text")
    code = (shop / "shop_v2.py").read_text()
    without, found = re.subn(r"@upcast\(PaymentOverdue.*?\n\n\n", "", code, flags=re.S)
    assert found == 1
    (shop / "without.py").write_text(without)
    assert checked(shop, "without.py") == (1, expected)


def test_the_new_code_goes_on_with_what_the_old_one_stored(shop: Path) -> None:
    done = run(shop, sys.executable, "-c", AFTER)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "Remind(order_id='A-1', days=14)",
        "Receipt(message_id='m-1', outcomes={'order': <Outcome.DUPLICATE: 'duplicate'>})",
    ]
    shown = run(shop, sys.executable, "-m", "sagalog", "show", "A-1", "--journal", "sqlite:///orders.db", "--json")
    assert '"state":{"cents":1234},' in shown.stdout
    assert '"state_version":2' in shown.stdout
