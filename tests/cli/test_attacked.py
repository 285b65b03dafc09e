"""What an operator meets: hostile ids, a full journal, a colleague who is faster, Ctrl-C, a store of a newer version."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from sagalog import InMemoryJournal, PersistentRepr, SagaRecord, SqliteJournal, Status
from sagalog.cli.group import sagalog as command
from sagalog.decision.entries import Audit, Command, Handled, Held, Timer, Undo
from sagalog.decision.record import encode_record
from sagalog.definition.codec import Typed
from sagalog.operating.inspect import find, instances

from .conftest import ROOT

EVIL = "\x1b[2J\u202e\r\nx\x07"
NOW = datetime.now(UTC)
OLD = NOW - timedelta(hours=3)
IDS = [f"evil{EVIL}", "a::b", "::", "-x", "--yes", " ", "é" * 200]
FORBIDDEN = re.compile(r"[\x00-\x09\x0b-\x1f\x7f\u202e]")


def typed(name: str) -> Typed:
    return Typed(name + EVIL, msgspec.Raw(msgspec.json.encode({f"a{EVIL}": EVIL})), 1)


def record(**more: Any) -> SagaRecord:
    more.setdefault("status", Status.RUNNING)
    return SagaRecord(format=1, state=msgspec.Raw(b'{"total":1}'), started_at=OLD, updated_at=OLD, **more)


def hostile() -> SagaRecord:
    return record(
        outbox=(Command(f"1/0{EVIL}", typed("Cmd")), Command("1/1", typed("Cmd"), True, f"1/9{EVIL}")),
        timers={f"t{EVIL}": Timer(f"1/2{EVIL}", OLD, typed("Tim")), "s": Timer("1/3", OLD, typed("Sch"), True)},
        undo=(Undo(f"1/0{EVIL}", typed("Und")),),
        parked=f"why{EVIL}",
        stuck=f"1/0{EVIL}",
        held=(Held(f"m{EVIL}", typed("Hel")),),
        audit=(Audit(OLD, f"act{EVIL}", f"note{EVIL}", f"by{EVIL}"),),
        handled=(Handled(f"h{EVIL}", f"Typ{EVIL}"), Handled(f"saga::order::evil{EVIL}/1/0{EVIL}/refused", "T")),
        inbox=(f"i{EVIL}",),
    )


def stored(persistence_id: str, payload: bytes, number: int = 1, **more: Any) -> PersistentRepr:
    return PersistentRepr(persistence_id, number, payload, "saga-state", f"w{EVIL}", **more)


def fill(path: str, *records: PersistentRepr) -> None:
    async def write() -> None:
        async with SqliteJournal(path) as journal:
            for first in range(0, len(records), 500):
                await journal.write_messages(records[first : first + 500])

    asyncio.run(write())


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAGALOG_JOURNAL", "sqlite:///orders.db")


def run(*arguments: str, as_json: bool = False) -> Result:
    """Run a command; whatever it prints is safe for a terminal, and JSON where that is asked for."""
    done = CliRunner().invoke(command, [*arguments[:1], *(["--json"] if as_json else []), *arguments[1:]])
    assert done.exception is None or isinstance(done.exception, SystemExit), (arguments, done.exception)
    assert not FORBIDDEN.search(done.output), (arguments, done.output)
    if as_json:
        for row in done.stdout.splitlines():
            json.loads(row)
    return done


def test_hostile_ids_types_and_texts_never_reach_the_terminal_as_they_are() -> None:
    payload = encode_record(hostile())
    waiting = msgspec.structs.replace(hostile(), parked="", stuck="", held=())
    fill(
        "orders.db",
        *(stored(f"saga::order::{one}", payload) for one in IDS),
        *(stored(f"saga::order::{one}", payload, 2) for one in IDS),
        stored(f"saga::ev{EVIL}il::q", payload),
        stored(f"saga::order::damaged{EVIL}", b"\x1b[2J\xff"),
        stored(f"saga::order::waits{EVIL}", encode_record(waiting), due_at=OLD),
    )
    for as_json in (False, True):
        for name in ("list", "stats"):
            run(name, as_json=as_json)
        run("doctor", "sqlite:///orders.db", as_json=as_json)
        for one in [*IDS, f"damaged{EVIL}", f"waits{EVIL}", "q", f"nosuch{EVIL}", "\udcff", "x" * 3000, ""]:
            for name in ("show", "history"):
                run(name, "--", one, as_json=as_json)
            for name in ("retry", "skip", "cancel"):
                run(name, "--dry-run", "--", one, as_json=as_json)
            run("drop", "--dry-run", "--", one, as_json=as_json)
            for entry in (f"1/0{EVIL}", f"1/2{EVIL}", f"nope{EVIL}", ""):
                run("drop", "--dry-run", "--", one, entry, as_json=as_json)
                run("resend", "--dry-run", "--", one, entry, as_json=as_json)


@pytest.mark.parametrize("saga", ["order::a", "order:", "", "::", "nosuch"])
async def test_a_saga_name_that_is_none_finds_nothing_and_never_another_instance(saga: str) -> None:
    journal = InMemoryJournal()
    await journal.write_messages(
        [stored(f"saga::order::{one}", encode_record(record())) for one in ("a::b", ":b", "b", "")]
    )
    assert await find(journal, "b", saga) == []
    assert [view.correlation_id for view in await find(journal, "b", "order")] == ["b"]


def test_an_empty_store_answers_every_question() -> None:
    fill("orders.db")
    for as_json in (False, True):
        assert run("list", as_json=as_json).exit_code == 0
        assert run("stats", as_json=as_json).exit_code == 0
        assert run("doctor", "sqlite:///orders.db", as_json=as_json).exit_code == 0
        assert run("health", as_json=as_json).exit_code == 0
        assert run("cancel", "--status", "parked", "--yes", as_json=as_json).exit_code == 0
        for name in ("show", "history", "retry", "skip", "cancel", "drop"):
            done = run(name, "nosuch", as_json=as_json)
            assert (done.exit_code, done.stdout) == (1, "")
            assert "no instance of any saga has the id 'nosuch'" in done.stderr


def test_a_store_of_a_newer_version_is_left_alone_by_every_command() -> None:
    fill("orders.db", stored("saga::order::a", encode_record(record())))
    with closing(sqlite3.connect("orders.db")) as file:
        file.execute("PRAGMA user_version=99")
    before = Path("orders.db").read_bytes()
    for arguments in (
        ("list",),
        ("stats",),
        ("show", "a"),
        ("history", "a"),
        ("cancel", "a", "--yes"),
        ("drop", "a", "1/0", "--yes"),
        ("purge", "--older-than", "1d", "--yes"),
        ("export", "-"),
        ("health",),
        ("doctor", "sqlite:///orders.db"),
    ):
        done = run(*arguments)
        assert done.exit_code == 1, arguments
        assert "Upgrade sagalog" in done.output, arguments
    assert json.loads(run("health", as_json=True).stdout)["ready"] is False
    assert Path("orders.db").read_bytes() == before


async def test_listing_reads_a_page_at_a_time_and_as_far_as_it_is_asked() -> None:
    class Counted(InMemoryJournal):
        read = 0

        async def latest_by_prefix(self, *arguments: Any, **more: Any) -> list[PersistentRepr]:
            found = await super().latest_by_prefix(*arguments, **more)
            self.read += len(found)
            return found

        async def latest_message(self, persistence_id: str) -> PersistentRepr | None:
            self.read += 1
            return await super().latest_message(persistence_id)

    journal = Counted()
    payload = encode_record(record())
    await journal.write_messages([stored(f"saga::order::{number:05}", payload) for number in range(3_000)])
    listing = instances(journal)
    assert (await anext(listing)).correlation_id == "00000"
    assert journal.read <= 64
    await listing.aclose()
    assert [view.correlation_id async for view in instances(journal)] == [f"{number:05}" for number in range(3_000)]


def test_a_row_that_the_file_cannot_give_back_hides_none_of_its_page() -> None:
    fill("orders.db", *(stored(f"saga::order::{number}", encode_record(record())) for number in range(5)))
    with closing(sqlite3.connect("orders.db")) as file:
        file.execute("UPDATE record SET payload = 'text' WHERE record_id = 3")
        file.commit()
    listed = [json.loads(row) for row in run("list", as_json=True).stdout.splitlines()]
    assert [one["status"] for one in listed] == ["running", "running", "unreadable", "running", "running"]


def _sagalog(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sagalog", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
        # Who starts the tests in the background has SIGINT ignored, and so would have all that they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def _many(number: int = 6_000) -> None:
    payload = encode_record(record(parked="why"))
    fill("orders.db", *(stored(f"saga::order::{one:05}", payload) for one in range(number)))


def test_a_listing_whose_reader_leaves_ends_without_a_word() -> None:
    _many()
    process = _sagalog("list")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith("SAGA")
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(30) == 1
    process.stderr.close()


def test_ctrl_c_in_the_midst_of_many_repairs_says_how_far_it_came() -> None:
    _many()
    process = _sagalog("retry", "--status", "parked", "--yes", "--json")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["changes"]
    process.send_signal(signal.SIGINT)
    rest, told = process.communicate(timeout=30)
    assert process.returncode == 130
    found = re.search(r"([\d,]+) repaired so far, ([\d,]+) not looked at", told)
    assert found is not None, told
    done, left = (int(one.replace(",", "")) for one in found.groups())
    assert done + left == 6_000
    parked = sum(json.loads(row)["status"] == "parked" for row in run("list", as_json=True).stdout.splitlines())
    assert 6_000 - parked >= done >= rest.count("\n")
    assert parked > 0


def test_an_export_that_is_stopped_leaves_no_payloads_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    fill("orders.db", stored("saga::order::a", encode_record(record())))

    async def broken(*_: Any, **__: Any) -> Any:
        yield b"payload"
        raise KeyboardInterrupt

    monkeypatch.setattr("sagalog.cli.export.export_lines", broken)
    assert CliRunner().invoke(command, ["export", "out.jsonl"]).exit_code == 130
    assert sorted(path.name for path in Path().glob("out*")) == []


def test_of_many_operators_at_once_one_repairs_and_the_others_are_told() -> None:
    fill("orders.db", stored("saga::order::a", encode_record(record(parked="why", held=()))))
    shutil.copy("orders.db", "before.db")
    with ThreadPoolExecutor(6) as pool:
        told = list(pool.map(lambda who: _sagalog("skip", "a", "--yes", "--by", who).communicate(timeout=60), "abcdef"))
    assert all(errors == "" for _, errors in told)
    assert sum("1 instance repaired" in text for text, _ in told) == 1
    others = [text for text, _ in told if "1 instance repaired" not in text]
    assert all(
        "another operator or worker was first" in text or "nothing: it is not parked" in text for text in others
    ), others
    shown = json.loads(run("show", "a", as_json=True).stdout)
    assert len(shown["record"]["audit"]) == 1
