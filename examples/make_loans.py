"""Make `loans.jsonl.gz`: a small log of invented loan applications, in the format of the BPI Challenge 2012 log.

Everything is drawn from a fixed seed, so the file comes out the same each time: `python examples/make_loans.py`.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

APPLICATIONS = 200
START = datetime(2024, 1, 1, 9, tzinfo=UTC)


def application(number: int, chance: random.Random) -> Iterator[tuple[datetime, str, str]]:
    """Yield (when, activity, lifecycle) of one invented application."""
    now = START + timedelta(minutes=chance.randrange(60 * 24 * 90))

    def later(most_days: float) -> datetime:
        nonlocal now
        now += timedelta(seconds=chance.uniform(1, most_days * 86400))
        return now

    yield now, "A_SUBMITTED", "COMPLETE"
    yield later(0.01), "A_PARTLYSUBMITTED", "COMPLETE"
    kind = chance.choices(["declined", "cancelled", "approved", "open"], [50, 20, 25, 5])[0]
    if kind == "declined" and chance.random() < 0.6:  # at once
        yield later(0.01), "A_DECLINED", "COMPLETE"
        return
    yield later(1), "A_PREACCEPTED", "COMPLETE"
    yield later(0.5), "W_Completeren aanvraag", "SCHEDULE"
    for _ in range(chance.randrange(1, 4)):
        yield later(0.01), "O_SENT", "COMPLETE"
        yield later(0.1), "W_Completeren aanvraag", "START"
        if chance.random() < 0.7:
            yield later(40), "O_SENT_BACK", "COMPLETE"
            break
        later(20)
    if kind == "open":
        return
    if kind == "cancelled":
        yield later(50), "O_CANCELLED", "COMPLETE"
    decision = {"declined": "A_DECLINED", "cancelled": "A_CANCELLED", "approved": "A_APPROVED"}[kind]
    yield later(10), decision, "COMPLETE"
    if kind == "approved":
        yield later(0.001), "A_REGISTERED", "COMPLETE"
        yield later(0.001), "A_ACTIVATED", "COMPLETE"
    yield later(1), "W_Valideren aanvraag", "COMPLETE"  # after the decision: a work item is closed


def main(path: Path) -> None:
    """Write the file."""
    chance = random.Random(2012)
    rows = []
    for number in range(APPLICATIONS):
        amount = chance.randrange(1, 100) * 500
        for index, (at, activity, lifecycle) in enumerate(application(number, chance)):
            row = {
                "id": f"loan-{number}-{index}",
                "case": str(number),
                "activity": activity,
                "lifecycle": lifecycle,
                "at": at.isoformat(timespec="milliseconds"),
            }
            if index == 0:
                row["amount_requested"] = amount  # type: ignore[assignment]
            rows.append((at, number, index, row))
    rows.sort(key=lambda row: row[:3])
    lines = "".join(json.dumps(row) + "\n" for *_, row in rows)
    with path.open("wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as out:
        out.write(lines.encode())


if __name__ == "__main__":
    main(Path(__file__).with_name("loans.jsonl.gz"))
