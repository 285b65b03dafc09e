"""Phases and kept events as an operator sees them: listed, counted, told, drawn, checked and edited."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from sagalog import JournalSagaStateStore, ManualClock, SagaRunner, SqliteJournal
from sagalog.cli.group import sagalog as main
from sagalog.decision.record import decode_record, encode_record

from ..numbered import Meters, Numbered
from ..phased import Labelled, Orders, Paid, Placed, Shipped

Sagalog = Callable[..., Result]
JOURNAL = "sqlite:///phased.db"

MODULE = """
from sagalog import SagaRunner
from tests.phased import Orders

runner = SagaRunner("sqlite:///phased.db", sagas=[Orders], dispatch=lambda command: None)
"""


@pytest.fixture
def sagalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sagalog:
    """The command line within this process, which is ten times as fast."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(*arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(main, arguments, input=stdin)

    return run


@pytest.fixture
def phased(tmp_path: Path) -> Path:
    """A journal with an order that is shipped, and one that is placed and keeps a label."""
    (tmp_path / "depot.py").write_text(MODULE)

    async def fill() -> None:
        async with SagaRunner(
            f"sqlite:///{tmp_path}/phased.db", sagas=[Orders], dispatch=lambda command: None
        ) as runner:
            for order in ("new", "old"):
                await runner.handle(Placed(order), message_id=f"placed {order}")
                await runner.handle(Labelled(order, "x"), message_id=f"label {order}")
            await runner.handle(Paid("old"), message_id="paid old")
            await runner.handle(Shipped("old"), message_id="shipped old")
            await runner.settle()

    asyncio.run(fill())
    return tmp_path


async def _lose_the_phase(folder: Path) -> None:
    async with SqliteJournal(folder / "phased.db") as journal:
        store = JournalSagaStateStore(journal, "phased")
        saved = await store.load("old")
        assert saved is not None
        odd = msgspec.structs.replace(decode_record(saved.payload), phase="LOST")
        await store.save("old", encode_record(odd), expected_version=saved.version)


def test_list_and_stats_tell_the_phase(sagalog: Sagalog, phased: Path) -> None:
    listed = sagalog("list", "--journal", JOURNAL).stdout
    assert "running PLACED" in listed
    assert "running SHIPPED" in listed
    one = sagalog("list", "--journal", JOURNAL, "--phase", "SHIPPED", "--json").stdout.splitlines()
    assert [(json.loads(text)["id"], json.loads(text)["phase"]) for text in one] == [("old", "SHIPPED")]
    counted = sagalog("stats", "--journal", JOURNAL).stdout
    assert "kept                 1   messages that wait for their moment" in counted
    assert "by phase     PLACED 1, SHIPPED 1" in counted
    assert json.loads(sagalog("stats", "--journal", JOURNAL, "--json").stdout)["phases"] == {"PLACED": 1, "SHIPPED": 1}


def test_show_and_history_tell_what_is_kept_and_which_phase_is_entered(sagalog: Sagalog, phased: Path) -> None:
    shown = sagalog("show", "new", "--journal", JOURNAL).stdout
    assert "phase   PLACED" in shown
    assert "kept    Labelled, message label new" in shown
    told = sagalog("history", "new", "--journal", JOURNAL).stdout
    assert "keeps Labelled (label new)" in told
    assert "enters PLACED" in told
    told = sagalog("history", "old", "--journal", JOURNAL).stdout
    assert "Paid (paid old), Labelled, which was kept (label old)" in told
    assert "enters SHIPPED" in told
    steps = [json.loads(text) for text in sagalog("history", "old", "--journal", JOURNAL, "--json").stdout.splitlines()]
    assert [step["phase"] for step in steps if "phase" in step] == ["PLACED", "PAID", "SHIPPED"]
    handled = [one for step in steps for one in step["handled"]]
    assert [one["id"] for one in handled if one.get("how") == "kept"] == ["label old"]


def test_the_phase_is_edited_and_a_kept_message_dropped(sagalog: Sagalog, phased: Path) -> None:
    target = ("edit", "depot:runner", "new", "--journal", JOURNAL)
    wrong = sagalog(*target, "--phase", "Paid", "--yes")
    assert (wrong.exit_code, "its phases are PLACED, PAID, SHIPPED" in wrong.stderr) == (1, True)
    both = sagalog(*target, "--phase", "PAID", "--from", "-", stdin="{}")
    assert both.exit_code == 2
    done = sagalog(*target, "--phase", "PAID", "--yes", "--note", "paid by phone")
    assert "sets the phase PAID, where it was PLACED; no handler runs" in done.stdout
    assert "saved as version" in done.stdout
    assert "phase   PAID" in sagalog("show", "new", "--journal", JOURNAL).stdout
    dropped = sagalog("drop", "new", "label new", "--journal", JOURNAL, "--yes")
    assert "drops the kept Labelled, message label new; it counts as consumed" in dropped.stdout
    assert "kept    " not in sagalog("show", "new", "--journal", JOURNAL).stdout


def test_check_names_those_that_could_not_go_on_and_warns_of_a_phase_that_nothing_enters(
    sagalog: Sagalog, phased: Path
) -> None:
    fine = sagalog("check", "depot:runner", "--journal", JOURNAL)
    assert (fine.exit_code, "warning" in fine.stdout) == (0, False)
    asyncio.run(_lose_the_phase(phased))
    found = sagalog("check", "depot:runner", "--journal", JOURNAL)
    assert found.exit_code == 1
    assert "1  phased: its phase LOST is unknown to this code: if it was renamed" in found.stdout
    assert "unreadable" in sagalog("list", "--journal", JOURNAL, "--code", "depot:runner").stdout


def test_numbers_and_gaps_are_told(sagalog: Sagalog, tmp_path: Path) -> None:
    async def fill() -> None:
        clock = ManualClock()
        async with SagaRunner(
            f"sqlite:///{tmp_path}/phased.db", sagas=[Meters], dispatch=lambda command: None, clock=clock
        ) as runner:
            for n in (1, 4):
                await runner.handle(Numbered("m", n), message_id=f"m{n}")
            await runner.settle()
            clock.advance(timedelta(minutes=10))
            await runner.settle()

    asyncio.run(fill())
    shown = sagalog("show", "m", "--journal", JOURNAL).stdout
    assert "number  Numbered: 2 comes next" in shown
    assert "why     Numbered 2 to 3 did not come within 0:10:00" in shown
    assert "Numbered 2 to 3 did not come" in sagalog("history", "m", "--journal", JOURNAL).stdout
    done = sagalog("skip", "m", "--journal", JOURNAL, "--yes")
    assert "no longer waits for what is missing of Numbered: continues after it" in done.stdout


def test_the_phases_are_drawn_with_what_each_expects_and_keeps(sagalog: Sagalog, phased: Path) -> None:
    drawn = sagalog("diagram", "tests.phased:Orders", "--phases").stdout.splitlines()
    assert drawn[:2] == ["stateDiagram-v2", "    [*] --> PLACED: Placed, Restarted"]
    for line in (
        "PLACED --> PAID: Paid",
        "PAID --> SHIPPED: Shipped",
        "PLACED: keeps Labelled",
        "SHIPPED: on Reviewed",
    ):
        assert f"    {line}" in drawn
    without = sagalog("diagram", "tests.orders:OrderSaga", "--phases")
    assert (without.exit_code, "has no phases" in without.stderr) == (1, True)
