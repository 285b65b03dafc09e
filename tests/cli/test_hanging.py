"""A command that hangs is seen by everybody who looks, with its age, and can be passed."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from sagalog import InMemoryJournal, Journal, PersistentRepr, SagaRecord, SqliteJournal, Status
from sagalog.cli.group import sagalog as command
from sagalog.decision.entries import Command, Undo
from sagalog.decision.record import decode_record, encode_record
from sagalog.definition.codec import Typed
from sagalog.operating.inspect import view_of
from sagalog.operating.outbox import oldest_pending, pending

NOW = datetime.now(UTC)
SENT, LATER = NOW - timedelta(days=40), NOW - timedelta(days=30)


def typed(name: str) -> Typed:
    return Typed(name, msgspec.Raw(b'{"order_id":"a"}'), 1)


def record(at: datetime, **more: Any) -> SagaRecord:
    return SagaRecord(format=1, status=Status.RUNNING, state=msgspec.Raw(b"{}"), started_at=SENT, updated_at=at, **more)


async def fill(journal: Journal, correlation_id: str = "a", *, history: bool = True) -> None:
    own = f"saga::order::{correlation_id}"
    first, second = Command("1/0", typed("Reserve")), Command("2/0", typed("Note"))
    undo = (Undo("1/0", typed("Release")),)
    held = NOW + timedelta(hours=1)
    await journal.write_messages(
        [
            PersistentRepr(own, 1, encode_record(record(SENT, outbox=(first,), undo=undo))),
            PersistentRepr(
                own, 2, encode_record(record(LATER, outbox=(first, second), undo=undo, leased_until=held)), due_at=held
            ),
        ]
    )
    if not history:
        await journal.delete_messages_to(own, 1)


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    async def make() -> None:
        async with SqliteJournal("orders.db") as journal:
            await fill(journal)

    asyncio.run(make())


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, [*arguments, "--journal", "sqlite:///orders.db"])


async def test_a_command_waits_since_its_own_step_and_at_least_since_the_last_one_where_that_is_gone() -> None:
    for history in (True, False):
        journal = InMemoryJournal()
        await fill(journal, history=history)
        message = await journal.latest_message("saga::order::a")
        assert message is not None
        waits = await pending(journal, view_of(message))
        assert [(one.name, one.since, one.exact) for one in waits] == [
            ("Reserve (1/0)", SENT if history else LATER, history),
            ("Note (2/0)", LATER, True),
        ]
        assert [one.held_until is not None for one in waits] == [True, False]
        assert await oldest_pending(journal, view_of(message)) == waits[0]


@pytest.mark.usefixtures("hanging")
def test_list_show_stats_and_doctor_name_it_with_its_age() -> None:
    listed = run("list").stdout
    assert "running" in listed
    assert "Reserve (1/0) has not been accepted for 40d" in listed
    told = json.loads(run("list", "--json").stdout)
    assert (told["waits_for"], told["waits_since"]) == ("1/0", SENT.isoformat().replace("+00:00", "Z"))
    shown = run("show", "a").stdout
    assert re.search(r"outbox  1/0 Reserve: not accepted yet, 40d( \d+[hms])? old, a worker holds it until", shown)
    assert "outbox  2/0 Note: not accepted yet, 30d" in shown
    assert [one["id"] for one in json.loads(run("show", "a", "--json").stdout)["pending"]] == ["1/0", "2/0"]
    assert "oldest command: 40d" in run("stats").stdout
    assert "old, Reserve (1/0) of a" in run("stats").stdout
    examined = CliRunner().invoke(command, ["doctor", "sqlite:///orders.db"])
    assert "warn  outbox         Reserve (1/0) of order a has not been accepted for 40d" in examined.stdout


@pytest.mark.usefixtures("hanging")
def test_drop_takes_it_out_by_its_number_or_its_full_id() -> None:
    dry = run("drop", "a", "1/0", "--dry-run")
    assert dry.stdout == (
        "order a\n  drops Reserve (1/0), which was not accepted; it may have been carried out\n"
        "dry run: 1 instance would be repaired; nothing was changed\n"
    )
    assert run("drop", "a", "saga::order::a/1/0", "--yes").exit_code == 0
    wrong = run("drop", "a", "1/0", "--yes")
    assert (wrong.exit_code, wrong.stderr) == (
        1,
        "order a: RepairError: '1/0' is neither a command in the outbox nor a timer, nor the id of a kept message; "
        "there wait Note (2/0)\n",
    )

    async def left() -> SagaRecord:
        async with SqliteJournal("orders.db") as journal:
            message = await journal.latest_message("saga::order::a")
            assert message is not None
            return decode_record(message.payload)

    after = asyncio.run(left())
    assert [entry.id for entry in after.outbox] == ["2/0"]
    assert [undo.of for undo in after.undo] == ["1/0"]
    assert [audit.action for audit in after.audit] == ["drop"]
