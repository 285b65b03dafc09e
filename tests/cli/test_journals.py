"""stats, purge, export, import and doctor: what is done with a journal as a whole."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sagalog import JournalSagaStateStore, SqliteJournal
from sagalog.cli.durations import spoken
from sagalog.cli.group import sagalog as command

pytestmark = pytest.mark.usefixtures("here")
URL = ("--journal", "sqlite:///orders.db")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))


def test_stats_tell_how_all_is_going() -> None:
    done = run("stats", *URL)
    assert done.exit_code == 0
    rows = {row.split()[0]: " ".join(row.split()[1:]) for row in done.stdout.splitlines()[1:]}
    assert done.stdout.splitlines()[0] == "order"
    assert rows["live"] == "3 finished and remembered 1"
    assert rows["parked"] == "1 holding 2 messages"
    assert rows["last"] == "hour 4 changed; 4 started, 1 ended"
    (figures,) = [json.loads(row) for row in run("stats", "--json", *URL).stdout.splitlines()]
    assert (figures["live"], figures["parked"], figures["timers"]) == (3, 1, 2)
    assert run("stats", "--saga", "nobody", *URL).stdout.splitlines()[1].split()[:2] == ["live", "0"]


def test_purge_forgets_finished_ones_and_asks_before() -> None:
    assert "dry run: 1 finished instance would" in run("purge", "--older-than", "0s", "--dry-run", *URL).stdout
    refused = run("purge", "--older-than", "0s", *URL)
    assert (refused.exit_code, "add --yes to purge" in refused.stderr) == (2, True)
    assert run("purge", "--older-than", "1h", "--yes", *URL).stdout == "0 finished instances forgotten\n"
    assert "finished" in run("list", "--all", "--json", *URL).stdout
    assert run("purge", "--older-than", "0s", "--yes", "--json", *URL).stdout == (
        '{"found":1,"purged":1,"reservations_found":0,"reservations_purged":0}\n'
    )
    ids = [json.loads(row)["id"] for row in run("list", "--all", "--json", *URL).stdout.splitlines()]
    assert sorted(ids)[1:] == ["parked", "running"]


@pytest.mark.parametrize("name", ["orders.jsonl", "orders.jsonl.gz"])
def test_what_is_exported_can_be_imported_elsewhere(name: str) -> None:
    done = run("export", name, *URL)
    assert re.fullmatch(r"4 instances, \d+ records exported\n", done.stdout), done.output
    assert "exists already; --force" in run("export", name, *URL).stderr
    assert run("export", name, "--force", "--json", *URL).exit_code == 0
    new = ("--journal", "sqlite:///new.db")
    dry = run("import", name, "--dry-run", *new)
    assert dry.stdout.startswith("dry run: 4 instances, ")
    assert not Path("new.db").exists()
    first = run("import", name, *new)
    assert first.exit_code == 0
    assert re.fullmatch(
        r"4 instances, \d+ records imported; 0 there already, unchanged; 0 left alone, because .*\n", first.stdout
    )
    assert run("import", name, *new).stdout.startswith("0 instances, 0 records imported; 4 there already")
    for look in (("list", "--all"), ("history", "parked"), ("show", "running", "--json")):
        assert run(*look, *URL).stdout == run(*look, *new).stdout


def test_an_import_overwrites_nothing() -> None:
    run("export", "orders.jsonl", *URL)

    async def other() -> None:
        async with SqliteJournal("other.db") as journal:
            await JournalSagaStateStore(journal, "order").save("parked", b"{}")

    asyncio.run(other())
    done = run("import", "orders.jsonl", "--journal", "sqlite:///other.db")
    assert done.exit_code == 1
    assert done.stderr == "saga::order::parked: something else is stored there\n"
    assert done.stdout.startswith("3 instances")
    again = run("import", "orders.jsonl", "--skip-existing", "--json", "--journal", "sqlite:///other.db")
    assert again.exit_code == 0
    assert json.loads(again.stdout)["differs"] == 1


def test_a_damaged_or_missing_export_is_named() -> None:
    run("export", "orders.jsonl", *URL)
    text = Path("orders.jsonl").read_bytes()
    Path("cut.jsonl").write_bytes(text[: len(text) // 2].rpartition(b"\n")[0] + b"\n")
    Path("cut.jsonl.gz").write_bytes(gzip.compress(text)[:-20])
    for name in ("cut.jsonl", "cut.jsonl.gz"):
        done = run("import", name, "--journal", f"sqlite:///{name}.db")
        assert (done.exit_code, "Traceback" in done.stderr) == (1, False)
        assert "What is counted above is imported." in done.stderr
        assert run("import", "orders.jsonl", "--journal", f"sqlite:///{name}.db").exit_code == 0
    assert "cannot be read: No such file" in run("import", "nothing.jsonl", "--journal", "sqlite:///x.db").stderr
    assert not Path("x.db").exists()


def test_an_export_can_be_piped() -> None:
    done = run("export", "-", "--saga", "order", "--latest", *URL)
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) == 2 * 4 + 2
    assert json.loads(done.stdout.splitlines()[-1])["total"]["instances"] == 4


def test_the_doctor_finds_what_is_not_well() -> None:
    done = run("doctor", "sqlite:///orders.db")
    assert done.exit_code == 0
    rows = {row[6:].split("  ")[0].strip(): row[:4].strip() for row in done.stdout.splitlines() if row[0] != " "}
    assert rows == {
        "reachable": "ok",
        "durable": "ok",
        "schema": "ok",
        "clock": "ok",
        "due work": "ok",
        "instances": "ok",
        "parked": "warn",
        "unreadable": "ok",
        "uncompensated": "ok",
        "outbox": "ok",
        "commands": "ok",
        "receivers": "ok",
    }
    assert "-> `sagalog list --status parked` shows which, and why" in done.stdout
    assert run("doctor", "sqlite:///orders.db", "--strict").exit_code == 1
    assert run("doctor", "sqlite:///orders.db", "--strict", "--quick").exit_code == 0
    for row in run("doctor", "sqlite:///orders.db", "--json").stdout.splitlines():
        assert set(json.loads(row)) == {"name", "level", "text", "remedy"}


def test_the_doctor_finds_work_that_nobody_takes() -> None:
    from datetime import UTC, datetime, timedelta

    async def late() -> None:
        async with SqliteJournal("orders.db") as journal:
            store = JournalSagaStateStore(journal, "loan")
            await store.save("late", b"{", due_at=datetime.now(UTC) - timedelta(hours=2))

    asyncio.run(late())
    done = run("doctor", "sqlite:///orders.db")
    assert done.exit_code == 1
    assert "fail  due work       1 waiting since up to 2h" in done.stdout
    assert "fail  unreadable     1 wait for an operator" in done.stdout


@pytest.mark.parametrize(
    ("url", "row"),
    [
        ("memory://", "fail  durable        in memory: nothing survives the process"),
        (
            "sqlite:///nowhere.db",
            "fail  reachable      JournalUnavailableError: nowhere.db does not exist, and was not created",
        ),
        (
            "sqlite://orders.db",
            "fail  reachable      DefinitionError: an SQLite journal's URL is sqlite:///relative.db",
        ),
        ("oracle://x", "fail  reachable      DefinitionError: there is no journal for oracle://"),
        (
            "postgresql://nobody:secret@127.0.0.1:1/x?connect_seconds=0.2",
            "fail  reachable      JournalUnavailableError: PostgreSQL 127.0.0.1:1",
        ),
    ],
)
def test_the_doctor_says_when_there_is_no_journal_to_trust(url: str, row: str) -> None:
    done = run("doctor", url)
    assert done.exit_code == 1
    assert row in done.stdout
    assert "secret" not in done.output


def test_the_doctor_examines_servers(postgres_schema: str, nats_stream: str) -> None:
    for url, text in (
        (postgres_schema, "ok    durable        PostgreSQL"),
        (nats_stream, "durable        nats-server"),
    ):
        done = run("doctor", url)
        assert text in done.stdout, done.output
        assert "clock          this machine and the server agree" in done.stdout


def test_durations_are_spoken_shortly() -> None:
    from datetime import timedelta

    assert [spoken(timedelta(seconds=seconds)) for seconds in (-1, 0, 59, 3661, 90061)] == [
        "0s",
        "0s",
        "59s",
        "1h 1m",
        "1d 1h",
    ]
