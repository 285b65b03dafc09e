"""`history` says what each step was, and says so where it cannot be known."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from sagalog import PersistentRepr, SagaRecord, SqliteJournal, Status
from sagalog.cli.group import sagalog as command
from sagalog.decision.entries import Audit, Command, Handled, Held, Undo
from sagalog.decision.record import encode_record
from sagalog.definition.codec import Typed

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
OWN = "saga::order::a"


def sent(entry: str, kind: str, **more: Any) -> Command:
    return Command(entry, Typed(kind, msgspec.Raw(b"{}"), 1), **more)


RESERVE, CHARGE = sent("1/0", "Reserve"), sent("2/0", "Charge")
RELEASE, REFUND = sent("4/0", "Release", undo=True, of="1/0"), sent("4/1", "Refund", undo=True, of="2/0")


def record(number: int, **more: Any) -> SagaRecord:
    more.setdefault("status", Status.RUNNING)
    at = NOW + timedelta(seconds=number)
    return SagaRecord(format=1, state=msgspec.Raw(b"{}"), started_at=NOW, updated_at=at, **more)


def write(*records: SagaRecord | bytes, hidden: int = 0) -> None:
    async def fill() -> None:
        async with SqliteJournal("orders.db") as journal:
            for number, one in enumerate(records, 1):
                payload = one if isinstance(one, bytes) else encode_record(one)
                await journal.write_messages([PersistentRepr(OWN, number, payload)])
            if hidden:
                await journal.delete_messages_to(OWN, hidden)

    asyncio.run(fill())


def test_a_result_is_told_with_the_step_that_completed_and_by_show() -> None:
    done = {"status": Status.COMPLETED, "result": Typed("builtins:str", msgspec.Raw(b'"B-7\\u001b[2J"'))}
    write(record(1, outbox=(RESERVE,)), record(2, outbox=(RESERVE,), **done), record(3, **done))
    history = CliRunner().invoke(command, ["history", "a", "--journal", "sqlite:///orders.db"]).stdout
    assert history.count("completed with str: ") == 1
    assert '      completed with str: "B-7\\u001b[2J"\n' in history
    rows = (
        CliRunner().invoke(command, ["history", "a", "--json", "--journal", "sqlite:///orders.db"]).stdout.splitlines()
    )
    told = [json.loads(row)["result"] for row in rows]
    assert told == [None, {"type": "builtins:str", "data": "B-7\x1b[2J"}, None]
    shown = CliRunner().invoke(command, ["show", "a", "--journal", "sqlite:///orders.db"]).stdout
    assert 'result  str: "B-7\\u001b[2J"\n' in shown


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def told() -> list[str]:
    """Return what is said of each step, without its number, moment, status and what stands below."""
    done = CliRunner().invoke(command, ["history", "a", "--journal", "sqlite:///orders.db"])
    assert done.exit_code == 0, done.output
    return [row.split("  ", 4)[-1].strip() for row in done.stdout.splitlines() if not row.startswith("      ")]


def as_json() -> list[dict[str, Any]]:
    done = CliRunner().invoke(command, ["history", "a", "--json", "--journal", "sqlite:///orders.db"])
    return [json.loads(row) for row in done.stdout.splitlines()]


def test_an_acceptance_a_lease_and_a_step_that_changes_nothing_are_told_apart() -> None:
    until = NOW + timedelta(minutes=1)
    write(
        record(1, outbox=(RESERVE,), handled=(Handled("m1", "Placed"),)),
        record(2, outbox=(RESERVE,), leased_until=until),
        record(3),
        record(4),
        record(5, parked="x", stuck="1/0"),
        record(6, outbox=(CHARGE,), audit=(Audit(NOW, "resend"),)),
        record(7, audit=(Audit(NOW, "resend"), Audit(NOW, "drop"))),
    )
    assert told() == [
        "Placed (m1)",
        "prolonged its worker's lease until 2026-01-31 12:01:00",
        "recorded what was accepted",
        "changed nothing that is stored",
        "parked",
        "repair",
        "repair",
    ]
    steps = as_json()
    assert [one["accepted"] for one in steps] == [[], [], [{"id": "1/0", "type": "Reserve"}], [], [], [], []]
    assert [one["lease_until"] is not None for one in steps] == [False, True, False, False, False, False, False]


def test_what_was_refused_is_not_told_as_accepted() -> None:
    undone = (Undo("1/0", RELEASE.command), Undo("2/0", REFUND.command))
    write(
        record(1, outbox=(RESERVE, CHARGE), undo=undone),
        record(2, outbox=(RESERVE,), undo=undone[:1], handled=(Handled(f"{OWN}/2/0/refused", "Charge"),)),
    )
    assert told()[1] == "Charge was refused (2/0)"
    assert as_json()[1]["accepted"] == []


def test_undo_commands_that_are_put_back_are_not_told_as_accepted() -> None:
    compensating = record(1, status=Status.COMPENSATING, outbox=(REFUND, RELEASE))
    failed = record(
        2,
        status=Status.COMPENSATION_FAILED,
        undo=(Undo("1/0", RELEASE.command), Undo("2/0", REFUND.command)),
        handled=(Handled(f"{OWN}/4/1/refused", "Refund"),),
    )
    write(compensating, failed)
    assert as_json()[1]["accepted"] == []


def test_where_steps_are_not_kept_history_says_so_and_does_not_guess() -> None:
    write(record(1, outbox=(RESERVE,)), record(2), record(3), hidden=1)
    done = CliRunner().invoke(command, ["history", "a", "--journal", "sqlite:///orders.db"]).stdout
    assert done.startswith("      steps 1 to 1 are not kept\n")
    assert told() == ["what it did is unknown: the step before is not kept", "changed nothing that is stored"]
    assert [one["compared_with"] for one in as_json()] == [None, 2]


def test_who_has_sent_an_event_by_hand_is_told() -> None:
    held = Held("m2", Typed("Noted", msgspec.Raw(b"{}"), 1), by="ada")
    write(record(1, handled=(Handled("m1", "Placed", by="grace\x1b[2J"),)), record(2, held=(held,)))
    assert told() == ["Placed (m1), sent by grace\\x1b[2J", "held Noted (m2), sent by ada"]
    assert as_json()[0]["handled"] == [{"id": "m1", "type": "Placed", "by": "grace\x1b[2J"}]


def test_a_step_behind_one_that_cannot_be_read_is_compared_with_the_one_before() -> None:
    write(record(1, outbox=(RESERVE,)), b"\xff", record(3))
    assert "unreadable" in told()[1]
    assert told()[2] == "recorded what was accepted"
    assert [one["compared_with"] for one in as_json()] == [None, 1, 1]


def test_the_undo_of_what_was_refused_is_not_told_as_accepted() -> None:
    write(
        record(1, status=Status.COMPENSATING, outbox=(RESERVE, RELEASE)),
        record(2, status=Status.COMPENSATED, handled=(Handled(f"{OWN}/1/0/refused", "Reserve"),)),
    )
    assert as_json()[1]["accepted"] == []
