"""`list`, `show` and `history`: what they print, for people and as JSON, and what they refuse."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sagalog
from sagalog import SagaRunner

from ..orders import Noted, OrderSaga
from .conftest import Sagalog

URL = ("--journal", "sqlite:///orders.db")


def test_list_shows_the_live_ones_and_with_all_the_finished_ones(sagalog: Sagalog, filled: Path) -> None:
    done = sagalog("list", *URL)
    assert done.returncode == 0
    rows = [row.split()[:3] for row in done.stdout.splitlines()]
    assert ["order", "running", "running"] in rows
    assert ["order", "parked", "parked"] in rows
    assert "handling Failing raised RuntimeError, 5 times" in done.stdout
    assert "finished" not in done.stdout.replace("finished ones", "")
    assert "compensated" in sagalog("list", "--all", *URL).stdout


def test_list_filters_and_limits(sagalog: Sagalog, filled: Path) -> None:
    parked = [json.loads(row) for row in sagalog("list", "--status", "parked", "--json", *URL).stdout.splitlines()]
    assert [one["id"] for one in parked] == ["parked"]
    assert set(parked[0]) == {
        *("saga", "id", "status", "version", "started_at", "updated_at", "due_at", "why", "waits_for", "waits_since")
    }
    assert len(sagalog("list", "--json", "--limit", "2", *URL).stdout.splitlines()) == 2
    assert sagalog("list", "--json", "--saga", "other", *URL).stdout == ""
    for options, expected in (
        (("--status", "compensated"), ["finished"]),
        (("--why", "RUNTIMEERROR"), ["parked"]),
        (("--why", "ConnectionError"), []),
        (("--id-has", "unnin"), ["running"]),
        (("--older-than", "1h"), []),
        (("--newer-than", "1h", "--id-has", "r"), ["parked", "running"]),
        (("--overdue",), []),
    ):
        rows = sagalog("list", *options, "--json", *URL).stdout.splitlines()
        assert [json.loads(row)["id"] for row in rows if "evil" not in row] == expected


def test_the_journal_may_come_from_the_environment(sagalog: Sagalog, filled: Path) -> None:
    assert sagalog("list", SAGALOG_JOURNAL="sqlite:///orders.db").returncode == 0


def test_show_tells_everything_about_one_instance(sagalog: Sagalog, filled: Path) -> None:
    text = sagalog("show", "parked", *URL).stdout
    for part in (
        "status  parked",
        "why     handling Failing",
        "held    Failing, message m4",
        "held    Noted, message m5",
        "timer   payment: Overdue at",
        "undo    Release, of command 1/0",
        '"log": [',
        "inbox   1 message consumed",
    ):
        assert part in text
    assert "repair" in sagalog("show", "finished", *URL).stdout
    assert "by hand" in sagalog("show", "finished", *URL).stdout


def test_a_huge_state_and_long_lists_are_cut_and_say_how_to_get_all(sagalog: Sagalog, filled: Path) -> None:
    async def grow() -> None:
        async with SagaRunner("sqlite:///orders.db", sagas=[OrderSaga], dispatch=lambda command: None) as runner:
            for number in range(30):
                await runner.handle(Noted("parked", "x" * 300), message_id=f"more{number}")
                await runner.handle(Noted("running", "y" * 300), message_id=f"y{number}")

    with contextlib.chdir(filled.parent):
        asyncio.run(grow())
    assert "held    ... 12 more: --json shows all" in sagalog("show", "parked", *URL).stdout
    text = sagalog("show", "running", *URL).stdout
    assert "... cut at 4,000 of " in text
    assert len(text) < 6_000
    assert all(len(row) < 150 for row in sagalog("history", "running", *URL).stdout.splitlines())
    assert len(json.loads(sagalog("show", "running", "--json", *URL).stdout)["record"]["state"]["log"]) == 32


def test_show_as_json_holds_the_record(sagalog: Sagalog, filled: Path) -> None:
    shown = json.loads(sagalog("show", "running", "--json", *URL).stdout)
    assert shown["record"]["state"] == {"total": 7, "paid": True, "log": ["placed", "paid"]}
    assert shown["record"]["inbox"] == ["m1", "m2"]


def test_history_tells_each_step(sagalog: Sagalog, filled: Path) -> None:
    text = sagalog("history", "running", *URL).stdout
    assert re.search(r"running  Placed \(m1\)  \[[0-9a-f]{8}\]\n      total: new, 7\n      paid: new, false\n", text)
    assert '      paid: false -> true\n      log[1]: new, "paid"\n' in text
    assert "      accepted Reserve (1/0)\n" in text
    assert "      sent Charge as 2/0\n" in text
    steps = [json.loads(row) for row in sagalog("history", "running", "--json", *URL).stdout.splitlines()]
    assert [step["step"] for step in steps] == list(range(1, len(steps) + 1))
    assert steps[0]["handled"] == [{"id": "m1", "type": "Placed"}]
    assert steps[0]["sent"] == [{"id": "1/0", "type": "Reserve"}]
    assert steps[1]["state"]["paid"] is True
    assert steps[0]["writer"].startswith("saga-")
    assert steps[1]["changes"][0] == {"path": "paid", "before": False, "after": True}
    assert "cancel with compensation: by hand" in sagalog("history", "finished", *URL).stdout
    assert "parked: handling Failing raised RuntimeError, 5 times" in sagalog("history", "parked", *URL).stdout


@pytest.mark.parametrize(
    "command",
    [
        ("list",),
        ("show", "evil\x1b[2J[bold red]\u202e\r\n"),
        ("history", "evil\x1b[2J[bold red]\u202e\r\n"),
        ("show", "no\x1b[2J"),
    ],
)
def test_what_is_stored_cannot_control_the_terminal(sagalog: Sagalog, filled: Path, command: tuple[str, ...]) -> None:
    done = sagalog(*command, *URL)
    printed = done.stdout + done.stderr
    assert all(c.isprintable() or c == "\n" for c in printed)
    assert r"\x1b[2J" in printed or r"m7\x07" in printed


def test_an_unknown_id_fails_with_a_hint(sagalog: Sagalog, filled: Path) -> None:
    done = sagalog("show", "nobody", *URL)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no instance of any saga has the id 'nobody': `sagalog list --all` shows those that are there" in done.stderr


def test_an_id_of_two_sagas_must_say_which(sagalog: Sagalog, filled: Path) -> None:
    code = (
        "import asyncio\nfrom sagalog import *\n"
        "async def main():\n"
        "    async with SqliteJournal('orders.db') as journal:\n"
        "        await JournalSagaStateStore(journal, 'loan').save('running', b'damaged')\n"
        "asyncio.run(main())\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=filled.parent, check=True)
    done = sagalog("show", "running", *URL)
    assert done.returncode == 1
    assert "choose one with --saga (loan, order)" in done.stderr
    assert sagalog("show", "running", "--saga", "order", *URL).returncode == 0
    unreadable = sagalog("show", "running", "--saga", "loan", *URL)
    assert "why     the stored record is damaged: it is not JSON" in unreadable.stdout
    assert "unreadable" in sagalog("list", *URL).stdout


def test_looking_makes_no_file_and_changes_none(sagalog: Sagalog, tmp_path: Path, filled: Path) -> None:
    done = sagalog("list", "--journal", "sqlite:///nowhere.db")
    assert done.returncode == 1
    assert "nowhere.db does not exist, and was not created" in done.stderr
    assert not (tmp_path / "nowhere.db").exists()
    before = hashlib.sha256(filled.read_bytes()).digest()
    for command in (("list", "--all"), ("show", "running"), ("history", "running")):
        sagalog(*command, *URL)
    assert hashlib.sha256(filled.read_bytes()).digest() == before


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("list",), 2, "Missing option '--journal'"),
        (("list", "--journal", "oracle://x"), 1, "no journal for oracle://"),
        (("list", "--status", "odd", *URL), 2, "'odd' is not one of"),
        (("list", "--older-than", "soon", *URL), 2, "'soon' is not a duration: write it as 90s, 15m"),
        (("frobnicate",), 2, "No such command"),
        (("--help",), 0, "Exit codes"),
        (("show", "--help"), 0, "Examples:"),
        (("--version",), 0, sagalog.__version__),
    ],
)
def test_the_command_line_says_what_is_wrong(
    sagalog: Sagalog, filled: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = sagalog(*arguments)
    assert done.returncode == code
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
