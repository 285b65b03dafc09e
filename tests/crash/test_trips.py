"""kill -9 in the middle of activities: each is called under one id, and a trip is booked whole or taken back whole."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import msgspec
import pytest

from sagalog import JournalSagaStateStore, open_journal
from sagalog.decision.record import SagaRecord, decode_record
from sagalog.journal import migrate_journal

ROOT = Path(__file__).parents[2]
COUNT, KILLS = 25, 6


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
    killed = 0
    while True:
        worker = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert worker.stdout is not None
        if killed < KILLS:
            assert worker.stdout.readline() == "ready\n"
            before = len(ledger.read_bytes()) if ledger.exists() else 0
            wanted = before + chance.randrange(50, 3000)  # bytes of the ledger: so it dies while activities run
            give_up = time.monotonic() + 3
            while worker.poll() is None and time.monotonic() < give_up:
                if ledger.exists() and ledger.stat().st_size >= wanted and _is_within(ledger):
                    break
            if worker.poll() is None:
                worker.send_signal(signal.SIGKILL)
                killed += 1
            if worker.wait() == 0:  # all is done already
                killed = KILLS
            worker.stdout.close()
            continue
        told, _ = worker.communicate(timeout=60)
        assert told.splitlines()[-1] == "over"
        break
    _judge(journal, ledger)


def _is_within(ledger: Path) -> bool:
    """Say whether the newest line tells of an activity that has begun."""
    with ledger.open("rb") as file:
        file.seek(max(0, ledger.stat().st_size - 200))
        return file.read().splitlines()[-1].startswith(b"begins")


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
