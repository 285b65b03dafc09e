"""The loan example against figures computed here straight from the file, without Sagalog."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from ..seeds import SEED

ROOT = Path(__file__).parents[2]
SMALL = ROOT / "examples" / "loans.jsonl.gz"
FULL = ROOT.parent / "shared" / "data" / "bpic2012.jsonl.gz"
whole_log = pytest.mark.skipif(not FULL.exists(), reason="the whole log is not here; the small cut is tested anyway")


def expected(path: Path) -> str:
    """Read the file once, and decide everything by hand."""
    decisions: dict[str, str] = {}
    waiting: dict[str, datetime] = {}  # application -> when its offer was sent
    reminders = 0
    last = None
    with gzip.open(path, "rt") as lines:
        for line in lines:
            row = json.loads(line)
            case, activity, at = row["case"], row["activity"], datetime.fromisoformat(row["at"])
            last = at if last is None else max(last, at)
            decisions.setdefault(case, "open")
            if decisions[case] != "open":
                continue
            if case in waiting and waiting[case] + timedelta(days=30) <= at:
                reminders += 1
                del waiting[case]
            if activity == "O_SENT":
                waiting[case] = at
            elif activity in ("O_SENT_BACK", "O_ACCEPTED", "O_DECLINED", "O_CANCELLED"):
                waiting.pop(case, None)
            elif activity in ("A_DECLINED", "A_CANCELLED", "A_APPROVED"):
                decisions[case] = activity[2:].lower()
                waiting.pop(case, None)
    assert last is not None
    reminders += sum(sent + timedelta(days=30) <= last for sent in waiting.values())
    counts = Counter(decisions.values())
    figures = ", ".join(f"{counts[name]:,} {name}" for name in ("declined", "cancelled", "approved", "open"))
    return f"{figures}, of {len(decisions):,}; {reminders:,} reminders"


def command(journal: Path, events: Path) -> list[str]:
    target = str(ROOT / "examples" / "loans.py") + ":runner"
    return [
        sys.executable,
        "-m",
        "sagalog",
        "run",
        target,
        "--journal",
        f"sqlite:///{journal}",
        "--events",
        str(events),
    ]


def run(journal: Path, events: Path) -> str:
    done = subprocess.run(command(journal, events), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[0]


def commands_by_purpose(journal: Path) -> Counter[tuple[str, str]]:
    """Count, in the whole history, the commands that were ever sent, by what they are for: read with plain SQL."""
    sent: dict[str, tuple[str, str]] = {}
    rows = "SELECT persistence_id, payload FROM record JOIN instance USING (instance_id)"
    for persistence_id, payload in sqlite3.connect(journal).execute(rows):
        for entry in json.loads(payload).get("outbox", ()):
            sent[f"{persistence_id}/{entry['id']}"] = (persistence_id, entry["command"]["type"])
    return Counter(sent.values())


def test_the_small_cut_is_what_its_program_makes(tmp_path: Path) -> None:
    program = tmp_path / "make_loans.py"
    program.write_bytes((ROOT / "examples" / "make_loans.py").read_bytes())
    subprocess.run([sys.executable, str(program)], check=True)
    assert gzip.decompress((tmp_path / "loans.jsonl.gz").read_bytes()) == gzip.decompress(SMALL.read_bytes())


def test_the_small_cut_gives_the_figures_computed_by_hand_also_the_second_time(tmp_path: Path) -> None:
    figures = expected(SMALL)
    assert re.search(r"[1-9]\d* reminders", figures), "a cut without reminders would test nothing"
    assert run(tmp_path / "loans.db", SMALL) == figures
    assert run(tmp_path / "loans.db", SMALL) == figures


@whole_log
def test_the_whole_log_gives_the_known_figures_also_when_killed_ten_times(tmp_path: Path) -> None:
    journal = tmp_path / "loans.db"
    chance = random.Random(SEED)
    kills = 0
    while kills < 10:
        worker = subprocess.Popen(command(journal, FULL), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            worker.wait(chance.uniform(0.6, 1.7))
        except subprocess.TimeoutExpired:
            os.kill(worker.pid, signal.SIGKILL)
            assert worker.wait() == -signal.SIGKILL
            kills += 1
        else:
            break  # a quick machine is through with it before ten kills
    figures = run(journal, FULL)
    assert kills >= 5, "too quick a machine: kill earlier"
    assert figures == expected(FULL)
    assert figures.startswith("7,635 declined, 2,807 cancelled, 2,246 approved, 399 open, of 13,087; ")
    counts = commands_by_purpose(journal)
    decisions = {purpose: count for purpose, count in counts.items() if purpose[1] == "SendDecision"}
    assert len(decisions) == 7_635 + 2_807 + 2_246
    assert set(decisions.values()) == {1}
