"""`sagalog pause` and `sagalog resume`, and where a pause is seen."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sagalog import SqliteJournal
from sagalog.cli.group import sagalog as command
from sagalog.decision.circuits import OpenCircuit
from sagalog.journal.circuits import report_circuits

pytestmark = pytest.mark.usefixtures("here")
URL = ("--journal", "sqlite:///orders.db")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))


def test_a_type_is_paused_with_who_and_why_seen_by_doctor_and_health_and_resumed() -> None:
    before = run("list", "--all", "--json", *URL).stdout
    done = run("pause", "Ship", "--note", "the warehouse\x1b[2J is closed", "--by", "ann", *URL)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "commands Ship are paused since" in done.stdout
    assert "by ann: the warehouse" in done.stdout
    assert "\x1b" not in done.stdout
    again = run("pause", "Ship", "--by", "bob", *URL)
    assert "paused already" in again.stdout
    assert "by ann" in again.stdout
    (listed,) = [json.loads(row) for row in run("pause", "--json", *URL).stdout.splitlines()]
    assert (listed["command"], listed["paused"], listed["by"]) == ("Ship", True, "ann")
    told = next(row for row in run("doctor", "sqlite:///orders.db").stdout.splitlines() if "commands" in row)
    assert told.startswith("warn")
    assert "Ship" in told
    assert "ann" in told
    health = json.loads(run("health", *URL, "--behind", "86400", "--json").stdout)
    assert health["ready"]
    assert any("Ship" in reason for reason in health["reasons"])
    assert run("list", "--all", "--json", *URL).stdout == before
    assert run("resume", "Ship", *URL).stdout == "commands Ship leave again\n"
    assert "were not paused" in run("resume", "Ship", *URL).stdout
    assert json.loads(run("resume", "Ship", "--json", *URL).stdout) == {
        "command": "Ship",
        "paused": False,
        "changed": False,
    }
    assert run("pause", *URL).stdout == "nothing is paused\n"


def test_what_cannot_be_kept_is_refused_with_a_message() -> None:
    for given in (("pause", ""), ("pause", "Ship", "--note", "x" * 3000), ("resume", "")):
        refused = run(*given, *URL)
        assert refused.exit_code == 1
        assert "nothing was stored" in refused.stderr
    misplaced = run("pause", "postgresql://shop:hunter2@db/shop", *URL)
    assert misplaced.exit_code == 2
    assert "goes behind --journal" in misplaced.stderr
    assert "hunter2" not in misplaced.stderr
    assert run("pause", "Ship", "--journal", "sqlite:///absent.db").exit_code == 1
    assert run("pause", *URL).stdout == "nothing is paused\n"


def test_export_and_stats_pass_over_a_pause() -> None:
    figures = run("stats", "--json", *URL).stdout
    run("export", "before.jsonl", *URL)
    run("pause", "Ship", *URL)
    assert run("stats", "--json", *URL).stdout == figures
    assert run("export", "after.jsonl", *URL).exit_code == 0
    assert len(Path("after.jsonl").read_text().splitlines()) == len(Path("before.jsonl").read_text().splitlines()) > 4


def test_doctor_tells_of_receivers_that_are_away_while_their_workers_say_so() -> None:
    async def tell(seconds: float) -> None:
        async with SqliteJournal("orders.db") as journal:
            now = datetime.now(UTC)
            away = [
                OpenCircuit(
                    "Ship\x1b[2J", "w1", now - timedelta(minutes=9), now + timedelta(seconds=seconds), 7, "OSError"
                )
            ]
            await report_circuits(journal, "w1", away, now)

    def told() -> str:
        return next(row for row in run("doctor", "sqlite:///orders.db").stdout.splitlines() if "receivers" in row)

    assert told().startswith("ok")
    asyncio.run(tell(60))
    assert told().startswith("warn")
    assert "OSError" in told()
    assert "\x1b" not in told()
    asyncio.run(tell(-1))
    assert told().startswith("ok")
