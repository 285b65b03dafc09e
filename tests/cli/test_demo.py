"""The demo proves what it says, and its proof can fail."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from sagalog.cli.demo_proof import examine

from .conftest import Sagalog


def test_the_demo_kills_a_worker_and_loses_nothing(sagalog: Sagalog) -> None:
    done = sagalog("demo", "--orders", "80", "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["holds"]
    assert (figures["accepted"], figures["completed"], figures["compensated"]) == (160, 70, 10)
    assert (figures["duplicates"], figures["lost"], figures["unfinished"]) == (0, 0, 0)
    # Reserve and charge each, ship each; refund and release every eighth.
    assert figures["commands"] == 3 * 80 + 2 * 10


def test_the_demo_speaks_plainly_and_cleans_up(sagalog: Sagalog) -> None:
    done = sagalog("demo", "--orders", "40")
    assert "kill -9" in done.stdout
    assert "Nothing was lost and nothing happened twice." in done.stdout


def story(
    folder: Path, ledger: list[dict[str, object]], inbox: list[str], outbox: list[str], steps: list[str]
) -> object:
    connection = sqlite3.connect(folder / "orders.db")
    connection.executescript(
        "CREATE TABLE instance (instance_id, persistence_id, record_id);"
        "CREATE TABLE record (record_id, instance_id, payload)"
    )
    entries = [{"id": entry, "command": {"type": "Reserve"}} for entry in outbox]
    first = {"status": "running", "state": {"steps": steps}, "inbox": inbox, "outbox": entries}
    last = {"status": "completed", "state": {"steps": steps}, "inbox": inbox}
    for number, record in enumerate((first, last), 1):
        connection.execute("INSERT INTO record VALUES (?, 1, ?)", (number, json.dumps(record)))
    connection.execute("INSERT INTO instance VALUES (1, 'saga::order::1', 2)")
    connection.commit()
    connection.close()
    (folder / "ledger").write_text("".join(json.dumps(note) + "\n" for note in ledger))
    proof = examine(folder / "orders.db", folder / "ledger", {"m1"}, ["m1"])
    return proof.lost, proof.duplicates, proof.holds


NOTE = {"id": "saga::order::1/1/0", "command": "Reserve", "order": "1"}


@pytest.mark.parametrize(
    ("ledger", "inbox", "outbox", "steps", "verdict"),
    [
        ([NOTE, NOTE], ["m1"], ["1/0"], ["placed"], (0, 0, True)),
        ([], ["m1"], ["1/0"], ["placed"], (1, 0, False)),  # a command that was never delivered
        ([NOTE], [], ["1/0"], ["placed"], (1, 0, False)),  # an accepted event that is nowhere
        ([NOTE, {**NOTE, "id": "saga::order::1/2/0"}], ["m1"], ["1/0", "2/0"], ["placed"], (0, 1, False)),  # two ids
        ([NOTE, {**NOTE, "id": "other"}], ["m1"], ["1/0"], ["placed"], (0, 2, False)),  # of no step
        ([NOTE], ["m1"], ["1/0"], ["placed", "placed"], (0, 1, False)),  # changed twice
    ],
)
def test_the_proof_finds_what_is_lost_or_doubled(
    tmp_path: Path,
    ledger: list[dict[str, object]],
    inbox: list[str],
    outbox: list[str],
    steps: list[str],
    verdict: object,
) -> None:
    assert story(tmp_path, ledger, inbox, outbox, steps) == verdict
