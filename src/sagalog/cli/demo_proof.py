"""The demo's proof: the saga's file and the ledger of its commands' receivers, read with sqlite3 and json alone."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Proof:
    """What was counted. It holds if nothing was lost, nothing changed an order twice, and one command has one id."""

    events: int
    accepted: int
    completed: int
    compensated: int
    unfinished: int
    commands: int
    deliveries: int
    duplicates: int
    lost: int

    @property
    def holds(self) -> bool:
        """Nothing was lost and nothing happened twice."""
        return self.lost == self.duplicates == self.unfinished == 0 and self.accepted == self.events

    def figures(self) -> dict[str, Any]:
        """Return the figures by name."""
        return {**asdict(self), "redelivered": self.deliveries - self.commands, "holds": self.holds}

    def rows(self) -> list[tuple[str, int, str]]:
        """Return the closing table."""
        again = self.deliveries - self.commands
        return [
            ("events accepted", self.accepted, f"of {self.events:,} that were sent"),
            ("orders completed", self.completed, "paid and shipped"),
            ("orders compensated", self.compensated, "not deliverable: refunded, stock released"),
            ("orders unfinished", self.unfinished, ""),
            (
                "commands by id",
                self.commands,
                f"in {self.deliveries:,} deliveries: {again} came again, under the same id",
            ),
            ("duplicates", self.duplicates, "a command under two ids, or an event that changed an order twice"),
            ("lost", self.lost, "an accepted event or a command that is nowhere to be found"),
        ]


def _records(journal: Path, query: str) -> list[tuple[str, dict[str, Any]]]:
    connection = sqlite3.connect(f"file:{journal}?mode=ro", uri=True, timeout=10)
    try:
        return [(key, json.loads(payload)) for key, payload in connection.execute(query)]
    finally:
        connection.close()


_NEWEST = "SELECT i.persistence_id, r.payload FROM instance i JOIN record r ON r.record_id = i.record_id"
_EVERY = "SELECT i.persistence_id, r.payload FROM record r JOIN instance i USING (instance_id) ORDER BY r.record_id"


def count_finished(journal: Path) -> int:
    """Count the orders that are completed or compensated, with nothing left to deliver."""
    done = ("completed", "compensated")
    return sum(r["status"] in done and not r.get("outbox") for _, r in _records(journal, _NEWEST))


def examine(journal: Path, ledger: Path, accepted: set[str], sent: Iterable[str]) -> Proof:
    """Compare what the sender was told, what the journal holds, and what the receivers saw."""
    newest = _records(journal, _NEWEST)
    consumed = Counter(message for _, record in newest for message in record.get("inbox", ()))
    twice = sum(count - 1 for count in consumed.values())
    twice += sum(len(r["state"]["steps"]) - len(set(r["state"]["steps"])) for _, r in newest)
    lost = sum(1 for message in accepted if message not in consumed)

    decided: set[str] = set()  # the ids of all commands of all steps, from the history
    for key, record in _records(journal, _EVERY):
        decided.update(f"{key}/{entry['id']}" for entry in record.get("outbox", ()))
    deliveries = [json.loads(line) for line in ledger.read_text().splitlines()]
    seen = {note["id"] for note in deliveries}
    lost += len(decided - seen)
    ids: dict[tuple[str, str], set[str]] = defaultdict(set)
    for note in deliveries:
        ids[(note["order"], note["command"])].add(note["id"])
    twice += sum(len(found) - 1 for found in ids.values())
    twice += len(seen - decided)  # a command of a step that never happened

    status = Counter(record["status"] for _, record in newest)
    done = status["completed"] + status["compensated"]
    return Proof(
        events=len(set(sent)),
        accepted=len(accepted),
        completed=status["completed"],
        compensated=status["compensated"],
        unfinished=len(newest) - done,
        commands=len(seen),
        deliveries=len(deliveries),
        duplicates=twice,
        lost=lost,
    )
