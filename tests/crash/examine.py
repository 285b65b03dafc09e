"""The verdict: the ledger and the journal, read without Sagalog, must tell the same story."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from .shop import TIMER_SECONDS, plan, read_ledger
from .witness import read

FINAL = {"completed", "compensated"}


def examine(folder: Path, orders: int, *, frozen: bool = False) -> Counter[str]:
    """Raise AssertionError for anything lost, doubled, early or out of order. Return what was counted.

    `frozen`: a worker was frozen anywhere, perhaps between its last look at the clock and the delivery. Then a command
    may come again, under its id, after the saga's end. A busy machine freezes one of several, too, for longer than a lease.
    """
    ledger = read_ledger(folder / "ledger")
    history, living = read(folder)
    commands = [note for note in ledger if "command" in note]
    _events_are_kept(ledger, history)
    _no_timer_is_early(ledger, history)
    decided = _ids_and_contents(history, commands)
    for n in range(orders):
        _one_order(f"o-{n}", history[f"saga::shop::o-{n}"], [c for c in commands if c["order"] == f"o-{n}"], frozen)
    assert not living, f"finished, but no tombstone: {living}"
    finished = Counter(steps[-1]["status"] for steps in history.values())
    return finished + Counter(commands=len(decided), deliveries=len(commands))


def _events_are_kept(ledger: list[dict[str, Any]], history: dict[str, list[dict[str, Any]]]) -> None:
    for note in ledger:
        if note.get("outcome") in ("handled", "duplicate"):
            order = note["ack"].partition("/")[0]
            steps = history[f"saga::shop::{order}"]
            assert note["ack"] in steps[-1]["inbox"], f"accepted, and lost: {note['ack']}"


def _no_timer_is_early(ledger: list[dict[str, Any]], history: dict[str, list[dict[str, Any]]]) -> None:
    """By the one clock of this machine, whatever the clocks of the workers say; they agree to within a round trip."""
    sent: dict[str, float] = {}
    for note in ledger:
        if "sent" in note:
            sent.setdefault(note["sent"], note["at"])
        elif note.get("command") == "Release":
            order = note["order"]
            if "overdue" in history[f"saga::shop::{order}"][-1]["state"]["log"]:
                waited = note["at"] - sent[f"{order}/placed"]
                assert waited >= TIMER_SECONDS - 0.01, f"{order}: the timer fired after {waited} s"


def _ids_and_contents(history: dict[str, list[dict[str, Any]]], commands: list[dict[str, Any]]) -> set[str]:
    decided: dict[str, str] = {}
    for persistence_id, steps in history.items():
        for sequence_nr, step in enumerate(steps, 1):
            for entry in step.get("outbox", ()):
                command_id = f"{persistence_id}/{entry['id']}"
                kind = entry["command"]["type"]
                if command_id not in decided:
                    number, _, index = entry["id"].partition("/")
                    assert int(number) == sequence_nr, f"an id that does not name its step: {command_id}"
                    assert index.isdigit(), f"an id that is not derived from its step: {command_id}"
                assert decided.setdefault(command_id, kind) == kind, f"one id for two commands: {command_id}"
    early = {note["id"] for note in commands if not note["durable"]}
    assert not early, f"left before their step was durable: {early}"
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
        fired = next(n for n, s in enumerate(steps) if "overdue" in s["state"]["log"])
        due = datetime.fromisoformat(steps[fired - 1]["timers"]["payment"]["due_at"])
        assert due >= datetime.fromisoformat(steps[0]["started_at"]) + timedelta(seconds=TIMER_SECONDS)
        early = due - datetime.fromisoformat(steps[fired]["updated_at"])
        assert early <= timedelta(0), f"{order}: the timer fired {early} early"
        assert f"{order}/paid" not in log, f"{order}: a timer that was cancelled fired"
    assert "payment" not in last.get("timers", {})


def _refused(commands: list[dict[str, Any]]) -> bool:
    return any(c["refused"] for c in commands)


def every_event_was_acknowledged(folder: Path, orders: int) -> None:
    acknowledged = {note["ack"] for note in read_ledger(folder / "ledger") if "ack" in note}
    missing = {uid for uid, _ in plan(orders)} - acknowledged
    assert not missing, f"the test itself never got through: {missing}"
