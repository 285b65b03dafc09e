"""kill -9 in the middle of activities: each is called under one id, and a trip is booked whole or taken back whole."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import msgspec
import pytest

from sagalog import JournalSagaStateStore, open_journal
from sagalog.decision.record import SagaRecord, decode_record
from sagalog.journal import migrate_journal

ROOT = Path(__file__).parents[2]
SCALE = int(os.environ.get("SAGALOG_CRASH_KILLS", "1"))
COUNT, KILLS = 25 * SCALE, 6 * SCALE


@pytest.fixture(params=["sqlite", "postgres", "nats"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a journal that outlives the workers."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'trips.db'}"
    url: str = request.getfixturevalue("postgres_schema" if request.param == "postgres" else "nats_stream")
    asyncio.run(migrate_journal(url))
    return url


def test_trips_survive_workers_that_are_killed_in_their_activities(journal: str, tmp_path: Path, seed: int) -> None:
    chance, ledger = random.Random(seed), tmp_path / "ledger"
    argv = [sys.executable, "-m", "tests.crash.trips", journal, str(ledger), str(COUNT)]
    for _ in range(KILLS):
        before = ledger.stat().st_size if ledger.exists() else 0
        wanted = before + chance.randrange(50, 3000)
        worker = subprocess.Popen([*argv, str(wanted)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert worker.stdout is not None
        told = worker.stdout.readline()
        if told == "within\n":
            worker.send_signal(signal.SIGKILL)
        worker.wait()
        worker.stdout.close()
        if told == "over\n":  # all is done already
            break
        assert worker.returncode == -signal.SIGKILL
    told = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout
    assert told == "over\n"
    _judge(journal, ledger)


def _judge(journal: str, ledger: Path) -> None:
    done: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    begun: dict[str, int] = defaultdict(int)
    for line in ledger.read_text().splitlines():
        verb, what, call = line.split(" ")[:3]
        trip = call.split("::")[2].split("/")[0]
        begun[call] += 1
        if verb == "does":
            done[trip][what].add(call)
    records = _newest(journal)
    again = [call for call, times in begun.items() if times > 2]
    assert again, "nobody was killed within an activity"
    for n in range(COUNT):
        trip, record = f"T-{n}", records[f"T-{n}"]
        carried_out = done[trip]
        assert all(len(calls) == 1 for calls in carried_out.values()), f"{trip} was called under several ids"
        names = set(carried_out)
        if trip.endswith("3"):
            assert record.status.value == "compensated"
            assert names == {"flight", "hotel", "car", "undo-flight", "undo-hotel", "undo-car"}
        else:
            assert record.status.value == "completed"
            assert names == {"flight", "hotel", "car", "payment"}
            state = msgspec.json.decode(bytes(record.state))
            for name in names:
                assert state[name] == f"{name} {next(iter(carried_out[name]))}"


def _newest(journal: str) -> dict[str, SagaRecord]:
    async def read() -> dict[str, SagaRecord]:
        opened = open_journal(journal)
        await opened.open()
        store = JournalSagaStateStore(opened, "trip")
        found = {}
        for n in range(COUNT):
            saved = await store.load_with_tombstone(f"T-{n}")
            assert saved is not None
            found[f"T-{n}"] = decode_record(saved.payload)
        await opened.close()
        return found

    return asyncio.run(read())
