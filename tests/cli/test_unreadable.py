"""What no code can read is seen by whoever looks, and can be mended or ended; what it was is kept."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import stat
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from sagalog import ConflictError, InMemoryJournal, PersistentRepr, SagaRecord, SagaRunner, SqliteJournal
from sagalog.cli.group import sagalog as command
from sagalog.cli.keeping import keep
from sagalog.decision.record import decode_record, encode_record
from sagalog.operating.mend import ended, replace, stored

from ..orders import Noted, OrderSaga, Placed
from .test_repairs import editor, on_a_terminal

URL = ("--journal", "sqlite:///orders.db")
CODE = """
from sagalog import SagaRunner
from tests.orders import OrderSaga

def dispatch(command): ...

runner = SagaRunner("sqlite:///orders.db", sagas=[OrderSaga], dispatch=dispatch)
"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, [*arguments, *URL])


def newest(key: str) -> PersistentRepr:
    async def read() -> PersistentRepr:
        async with SqliteJournal("orders.db") as journal:
            message = await journal.latest_message(f"saga::order::{key}")
            assert message is not None
            return message

    return asyncio.run(read())


def record(key: str) -> SagaRecord:
    return decode_record(newest(key).payload)


def write(key: str, payload: bytes) -> None:
    async def append() -> None:
        old = newest_of[key]
        async with SqliteJournal("orders.db") as journal:
            number = await journal.highest_sequence_nr(f"saga::order::{key}")
            await journal.write_messages([msgspec.structs.replace(old, sequence_nr=number + 1, payload=payload)])

    newest_of = {key: newest(key)}
    asyncio.run(append())


def spoil(key: str, **fields: Any) -> bytes:
    """Change fields of a stored record, in a new step; return its payload."""
    document = json.loads(newest(key).payload)
    document.update(fields)
    payload = json.dumps(document).encode()
    write(key, payload)
    return payload


def kept_file(output: str) -> bytes:
    found = re.search(r"kept in (\S+)", output)
    assert found is not None, output
    path = Path(found[1])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    return path.read_bytes()


def work() -> None:
    async def once() -> None:
        async with SagaRunner("sqlite:///orders.db", sagas=[OrderSaga], dispatch=lambda command: None) as runner:
            await runner.settle()

    asyncio.run(once())


@pytest.fixture(autouse=True)
def orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(CODE)

    async def fill() -> None:
        async with SagaRunner("sqlite:///orders.db", sagas=[OrderSaga], dispatch=lambda command: None) as runner:
            for key in ("good", "odd"):
                await runner.handle(Placed(key, 7), message_id=f"{key}-1")
                await runner.handle(Noted(key, "two"), message_id=f"{key}-2")
            await runner.settle()

    asyncio.run(fill())


SPOILED = {
    "the state": {"state": {"total": "seven"}},
    "the state's version": {"state_version": 9},
    "a command": {"outbox": [{"id": "2/0", "command": {"type": "Charge", "data": {"order": 1}}}]},
    "a command of an unknown type": {"outbox": [{"id": "2/0", "command": {"type": "Gone", "data": {}}}]},
    "a timer": {
        "timers": {"payment": {"id": "1/1", "due_at": "2027-01-01T00:00:00Z", "event": {"type": "Overdue", "data": {}}}}
    },
    "an undo command": {"undo": [{"of": "1/0", "command": {"type": "Release", "data": []}}]},
    "a held event": {"parked": "x", "held": [{"id": "m", "event": {"type": "Noted", "data": {"order_id": 5}}}]},
}


@pytest.mark.parametrize("what", SPOILED)
def test_what_the_code_cannot_read_is_seen_with_the_code(what: str) -> None:
    spoil("odd", **SPOILED[what])
    code = ("--code", "mine.py:runner")
    listed = [json.loads(row) for row in run("list", "--json", *code).stdout.splitlines()]
    assert {one["id"]: one["status"] for one in listed} == {"good": "running", "odd": "unreadable"}
    assert [
        json.loads(row)["id"] for row in run("list", "--status", "unreadable", "--json", *code).stdout.splitlines()
    ] == ["odd"]
    assert json.loads(run("stats", "--json", *code).stdout)["unreadable"] == 1
    shown = run("show", "odd", *code).stdout
    assert "status  unreadable" in shown
    assert "state   " in shown  # what can be read is shown
    done = CliRunner().invoke(command, ["doctor", "sqlite:///orders.db", *code])
    assert done.exit_code == 1
    assert "fail  unreadable     1 wait for an operator" in done.stdout
    plain = CliRunner().invoke(command, ["doctor", "sqlite:///orders.db"])
    assert plain.exit_code == 0  # nobody can tell without the code


def test_a_command_without_a_handler_here_is_not_unreadable(tmp_path: Path) -> None:
    (tmp_path / "part.py").write_text(CODE.replace("dispatch=dispatch", "dispatch={}"))
    listed = [
        json.loads(row)["status"] for row in run("list", "--json", "--code", "part.py:runner").stdout.splitlines()
    ]
    assert listed == ["running", "running"]


def test_a_state_that_the_code_cannot_read_is_edited_as_it_is_and_kept() -> None:
    spoil("odd", state={"total": "seven", "paid": False, "log": ["two"]})
    (Path("state.json")).write_text('{"total": 7, "log": ["mended"]}')
    done = run("edit", "mine.py:runner", "odd", "--from", "state.json", "--yes", "--note", "ticket 12")
    assert done.exit_code == 0, done.output
    assert "this code cannot read the stored state:" in done.stderr
    assert json.loads(kept_file(done.stderr))["total"] == "seven"
    mended = record("odd")
    assert (json.loads(mended.state_bytes()), mended.state_version) == (
        {"total": 7, "log": ["mended"]},
        1,
    )
    assert [
        json.loads(row)["status"] for row in run("list", "--json", "--code", "mine.py:runner").stdout.splitlines()
    ] == [
        "running",
        "running",
    ]


def test_a_state_of_newer_code_is_not_edited_by_older_code() -> None:
    spoil("odd", state_version=9)
    before = newest("odd")
    Path("state.json").write_text("{}")
    done = run("edit", "mine.py:runner", "odd", "--from", "state.json", "--yes")
    assert (done.exit_code, newest("odd")) == (1, before)
    assert "this code cannot read the state: " in done.stderr


def test_a_state_whose_base64_is_damaged_is_seen_without_the_code_shown_and_edited() -> None:
    spoil("odd", state="%%%", state_is_base64=True)
    assert "unreadable" in run("list").stdout
    assert run("history", "odd").exit_code == 0
    assert run("show", "odd").exit_code == 0
    Path("state.json").write_text('{"total": 7}')
    done = run("edit", "mine.py:runner", "odd", "--from", "state.json", "--yes")
    assert done.exit_code == 0, done.output
    assert kept_file(done.stderr) == b'"%%%"'
    assert json.loads(record("odd").state_bytes())["total"] == 7


def test_a_command_that_no_code_can_read_is_dropped_and_what_is_behind_it_leaves() -> None:
    spoil(
        "odd",
        outbox=[
            {"id": "9/0", "command": {"type": "Charge", "data": {"order": 1}}},
            {"id": "9/1", "command": {"type": "Note", "data": {"order_id": "odd", "text": "behind"}}},
        ],
    )
    done = run("drop", "odd", "9/0", "--yes")
    assert (done.exit_code, done.stdout.splitlines()[1]) == (
        0,
        "  drops Charge (9/0), which was not accepted; it may have been carried out",
    )
    work()
    assert record("odd").outbox == ()


@pytest.mark.parametrize("damage", [b"\xff\x00", b"", b'{"format": 99}', b"{}", b"[1]", b'{"format":1,"new":2}'])
def test_a_damaged_record_is_seen_and_ended_and_knows_the_messages_of_the_step_before(damage: bytes) -> None:
    write("odd", damage)
    assert {row.split()[2] for row in run("list").stdout.splitlines()[1:3]} == {"running", "unreadable"}
    assert "`sagalog edit --record` corrects it, `sagalog drop` ends it" in run("show", "odd").stdout
    for wish in ("retry", "skip", "cancel"):
        told = run(wish, "odd", "--yes")
        assert told.exit_code == 1
    dry = run("drop", "odd", "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "remembers the 2 messages of step" in dry.stdout
    assert newest("odd").payload == damage
    assert not list(Path().glob("*.record"))
    assert run("drop", "odd").exit_code == 2  # there is no terminal to ask on
    done = run("drop", "odd", "--yes", "--note", "ticket 12", "--by", "ada")
    assert done.exit_code == 0, done.output
    assert kept_file(done.stdout) == damage
    ended = newest("odd")
    assert ended.deleted
    last = decode_record(ended.payload)
    assert (last.status.value, [audit.action for audit in last.audit]) == ("cancelled", ["drop"])

    async def again() -> None:
        async with SagaRunner("sqlite:///orders.db", sagas=[OrderSaga], dispatch=lambda command: None) as runner:
            assert (await runner.handle(Placed("odd", 7), message_id="odd-1")).duplicate
            assert not (await runner.handle(Placed("odd", 7), message_id="odd-9")).duplicate
            await runner.settle()

    asyncio.run(again())
    assert json.loads(record("odd").state_bytes())["log"] == ["placed"]


def test_a_damaged_record_is_mended_and_goes_on() -> None:
    good = newest("odd").payload
    write("odd", good[:-10])
    refused = run("edit", "mine.py:runner", "odd", "--from", "record.json", "--yes")
    assert refused.exit_code == 2  # there is no such file
    document = json.loads(good)
    document["state"]["log"].append("mended")
    document["outbox"] = [{"id": "9/0", "command": {"type": "Note", "data": {"order_id": "odd", "text": "x"}}}]
    Path("record.json").write_text(json.dumps(document, indent=1))
    plain = run("edit", "mine.py:runner", "odd", "--from", "record.json", "--yes")
    assert "--record edits all of it" in plain.stderr
    done = run("edit", "mine.py:runner", "odd", "--record", "--from", "record.json", "--yes", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert Path(told["kept_in"]).read_bytes() == good[:-10]
    assert told["effects"] == ["replaces the whole record", "delivers Note (9/0)"]
    work()
    after = record("odd")
    assert (after.outbox, json.loads(after.state_bytes())["log"][-1]) == ((), "mended")
    assert [audit.action for audit in after.audit] == ["edit of the record"]


def test_a_damaged_record_is_written_anew_in_an_editor_that_begins_with_the_newest_readable_step() -> None:
    write("odd", newest("odd").payload[:-10])
    twice = "text = text.replace('running', 'walking') if 'walking' not in text else text.replace('walking', 'running')"
    code, shown = on_a_terminal(
        Path.cwd(), "edit", "mine.py:runner", "odd", "--record", answers="y\ny\n", EDITOR=editor(Path.cwd(), twice)
    )
    assert code == 0, shown
    assert "the record is not JSON: step" in shown
    assert "it does not have the fields of a saga record; nothing was saved" in shown.replace(
        "the stored record is damaged: ", ""
    )
    assert [audit.action for audit in record("odd").audit] == ["edit of the record"]
    assert json.loads(record("odd").state_bytes())["log"] == ["placed", "two"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "it is not JSON"),
        ("{}", "does not have the fields of a saga record"),
        ('{"format": 2}', "this code knows up to 1"),
        ("state", "state: stored JSON is not a valid OrderState"),
        ("outbox", "pending command: the message type 'Gone' is unknown to this version of the code (9/0)"),
    ],
)
def test_a_record_that_the_code_could_not_go_on_with_is_not_saved(text: str, why: str) -> None:
    good = json.loads(newest("odd").payload)
    if text == "state":
        good["state"] = {"total": []}
    elif text == "outbox":
        good["outbox"] = [{"id": "9/0", "command": {"type": "Gone", "data": {}}}]
    Path("record.json").write_text(json.dumps(good) if text.isalpha() else text)
    before = newest("odd")
    done = run("edit", "mine.py:runner", "odd", "--record", "--from", "record.json", "--yes")
    assert (done.exit_code, newest("odd")) == (1, before)
    assert why in done.stderr
    assert "nothing was saved" in done.stderr
    assert not list(Path().glob("*.record"))


def test_a_row_that_the_file_cannot_give_back_is_not_said_to_be_mended_by_a_command_that_cannot() -> None:
    with closing(sqlite3.connect("orders.db")) as other:
        other.execute("UPDATE instance SET record_id = 10000 WHERE persistence_id = 'saga::order::odd'")  # lost
        other.commit()
    shown = run("show", "odd").stdout
    assert ("Restore a backup" in shown, "sagalog drop" in shown) == (True, False)
    assert "Restore a backup" in run("drop", "odd", "--yes").stderr


def test_an_instance_that_can_be_read_is_not_ended_by_drop() -> None:
    done = run("drop", "odd", "--yes")
    assert done.exit_code == 2
    assert "which command?" in done.stderr
    assert not record("odd").audit


def test_a_folder_that_cannot_be_written_keeps_the_record_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    write("odd", b"\xff")

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", full)
    done = run("drop", "odd", "--yes")
    assert (done.exit_code, newest("odd").payload) == (1, b"\xff")
    assert "cannot be kept in a file here (No space left on device); nothing was changed" in done.stderr


def test_a_mended_record_is_written_behind_the_version_that_was_seen_only() -> None:
    write("odd", b"\xff")

    async def race() -> None:
        async with SqliteJournal("orders.db") as journal:
            old = await stored(journal, "order", "odd")
            first, second = await ended(journal, old), await ended(journal, old)
            await replace(journal, old, first)
            with pytest.raises(ConflictError):
                await replace(journal, old, second)

    asyncio.run(race())


def test_the_moment_of_a_mended_record_is_that_of_the_repair() -> None:
    before = datetime.now(UTC)
    write("odd", b"\xff")
    run("drop", "odd", "--yes")
    assert record("odd").updated_at >= before
    assert encode_record(record("odd")) == newest("odd").payload


async def test_a_mended_record_does_not_overwrite_an_instance_that_was_purged_and_began_anew() -> None:
    journal = InMemoryJournal()
    first = PersistentRepr("saga::order::a", 1, b"\xff", epoch=1)
    await journal.write_messages([first])
    old = await stored(journal, "order", "a")
    new = await ended(journal, old)
    await journal.write_messages([msgspec.structs.replace(first, sequence_nr=2, deleted=True, epoch=0)])
    await journal.purge([("saga::order::a", 2)])
    await journal.write_messages([msgspec.structs.replace(first, payload=b"anew", epoch=2)])
    with pytest.raises(ConflictError):
        await replace(journal, old, new)
    latest = await journal.latest_message("saga::order::a")
    assert latest is not None
    assert latest.payload == b"anew"


def test_a_repair_that_comes_too_late_keeps_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write("odd", b"\xff")

    async def moved(*_: Any, **__: Any) -> int:
        raise ConflictError("saga::order::odd", 1)

    monkeypatch.setattr("sagalog.cli.edit_record.replace", moved)
    done = run("drop", "odd", "--yes")
    assert (done.exit_code, list(Path().glob("*.record"))) == (1, [])
    assert "has moved on since version" in done.stderr


@pytest.mark.parametrize("saga", ["../../up", "/etc/x", "a\x00b", "\x1b[2J", "n" * 500])
def test_the_file_that_keeps_a_record_stays_in_this_folder_whatever_the_saga_is_called(saga: str) -> None:
    kept = Path(keep(b"payload", saga, 7))
    assert (kept.parent.resolve(), kept.read_bytes()) == (Path.cwd(), b"payload")
    assert kept.name.isprintable()
