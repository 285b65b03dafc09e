"""The verdict: the ledger and the journal's file, read with json and sqlite3 alone, must tell the same story."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from .shop import TIMER_SECONDS, plan, read_ledger

FINAL = {"completed", "compensated"}


def examine(folder: Path, orders: int, *, frozen: bool = False) -> Counter[str]:
    """Raise AssertionError for anything lost, doubled, early or out of order. Return what was counted.

    `frozen`: a worker was frozen anywhere, perhaps between its last look at the clock and the delivery. Then a command
    may come again, under its id, after the saga's end.
    """
    ledger = read_ledger(folder / "ledger")
    connection = sqlite3.connect(folder / "shop.db")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    rows = connection.execute(
        "SELECT persistence_id, sequence_nr, payload FROM record ORDER BY persistence_id, sequence_nr"
    )
    history: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for persistence_id, sequence_nr, payload in rows:
        history[persistence_id].append(json.loads(payload))
        assert sequence_nr == len(history[persistence_id]), "a gap in the sequence numbers"
    connection.close()
    commands = [note for note in ledger if "command" in note]
    _events_are_kept(ledger, history)
    decided = _ids_and_contents(history, commands)
    for n in range(orders):
        _one_order(f"o-{n}", history[f"saga::shop::o-{n}"], [c for c in commands if c["order"] == f"o-{n}"], frozen)
    finished = Counter(steps[-1]["status"] for steps in history.values())
    return finished + Counter(commands=len(decided), deliveries=len(commands))


def _events_are_kept(ledger: list[dict[str, Any]], history: dict[str, list[dict[str, Any]]]) -> None:
    for note in ledger:
        if note.get("outcome") in ("handled", "duplicate"):
            order = note["ack"].partition("/")[0]
            steps = history[f"saga::shop::{order}"]
            assert note["ack"] in steps[-1]["inbox"], f"accepted, and lost: {note['ack']}"


def _ids_and_contents(history: dict[str, list[dict[str, Any]]], commands: list[dict[str, Any]]) -> set[str]:
    decided: dict[str, str] = {}
    for persistence_id, steps in history.items():
        for step in steps:
            for entry in step.get("outbox", ()):
                command_id = f"{persistence_id}/{entry['id']}"
                kind = entry["command"]["type"]
                assert decided.setdefault(command_id, kind) == kind, f"one id for two commands: {command_id}"
    seen = {note["id"]: note["command"] for note in commands}
    assert not seen.keys() - decided.keys(), f"sent, but of no durable step: {seen.keys() - decided.keys()}"
    assert not decided.keys() - seen.keys(), f"never delivered: {decided.keys() - seen.keys()}"
    assert all(decided[command_id] == kind for command_id, kind in seen.items())
    by_purpose: dict[tuple[str, str], set[str]] = defaultdict(set)
    for note in commands:
        by_purpose[(note["order"], note["command"])].add(note["id"])
    doubled = {purpose: ids for purpose, ids in by_purpose.items() if len(ids) > 1}
    assert not doubled, f"one command under several ids: {doubled}"
    return set(decided)


def _one_order(order: str, steps: list[dict[str, Any]], commands: list[dict[str, Any]], frozen: bool) -> None:
    last = steps[-1]
    log = last["state"]["log"]
    assert last["status"] in FINAL, f"{order} is not finished: {last['status']}"
    assert not last.get("outbox"), f"{order} still has commands"
    assert len(log) == len(set(log)), f"{order} changed twice by one message: {log}"
    assert len(last["inbox"]) == len(set(last["inbox"])), f"{order} consumed one message twice"
    for before, after in pairwise(steps):
        assert after["state"]["log"][: len(before["state"]["log"])] == before["state"]["log"], (
            f"{order}: history rewritten"
        )
        assert after["inbox"][: len(before["inbox"])] == before["inbox"], f"{order}: inbox rewritten"

    first = list(dict.fromkeys(c["command"] for c in commands))  # in the order of their first delivery
    assert first[0] == "Reserve"
    if last["status"] == "completed":
        assert first == ["Reserve", "Charge", "Ship"], f"{order}: {first}"
        assert log == [f"{order}/placed", f"{order}/paid", "delivered"]
    else:
        undone = {"Release"} | ({"Refund"} if "Charge" in first and not _refused(commands) else set())
        assert undone <= set(first), f"{order}: not all undone: {first}"
        assert first[-1] == "Release", f"{order}: not backwards: {first}"
        if "Refund" in first:
            assert first.index("Charge") < first.index("Refund") < first.index("Release"), f"{order}: {first}"
        assert frozen or commands[-1]["command"] == "Release", f"{order}: something came after its end"
    if "overdue" in log:
        fired = next(s for s in steps if "overdue" in s["state"]["log"])
        started = datetime.fromisoformat(steps[0]["started_at"])
        waited = datetime.fromisoformat(fired["updated_at"]) - started
        assert waited >= timedelta(seconds=TIMER_SECONDS), f"{order}: the timer fired early, after {waited}"


def _refused(commands: list[dict[str, Any]]) -> bool:
    return any(c["refused"] for c in commands)


def every_event_was_acknowledged(folder: Path, orders: int) -> None:
    acknowledged = {note["ack"] for note in read_ledger(folder / "ledger") if "ack" in note}
    missing = {uid for uid, _ in plan(orders)} - acknowledged
    assert not missing, f"the test itself never got through: {missing}"
