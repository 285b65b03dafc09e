"""`sagalog worker` and `sagalog migrate`: real processes, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sagalog.cli.worker import _Supervisor

from ..servers.processes import eventually
from .conftest import ROOT, Sagalog, line

TICKING = """
from dataclasses import dataclass
from datetime import timedelta
from sagalog import Saga, SagaRunner, Complete, Send, SetTimer, on, starts

@dataclass
class Began:
    key: str

@dataclass
class Rang:
    key: str

@dataclass
class Tell:
    key: str

@dataclass
class State:
    rings: int = 0

class Ticking(Saga[State]):
    name = "ticking"

    @starts(Began, key="key")
    def began(self, state, event):
        yield SetTimer("bell", Rang(event.key), after=timedelta(seconds=1))

    @on(Rang, key="key")
    def rang(self, state, event):
        state.rings += 1
        yield Send(Tell(event.key))
        yield Complete()

def tell(command, context):
    with open("told.txt", "a") as told:
        told.write(f"{context.id}\\n")

runner = SagaRunner("sqlite:///ticking.db", sagas=[Ticking], dispatch=tell)
"""


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    (tmp_path / "ticking.py").write_text(TICKING)
    if request.param == "sqlite":
        return "sqlite:///ticking.db"
    schema: str = request.getfixturevalue("postgres_schema")
    return schema


@contextmanager
def worker(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(ROOT)])}
    command = [sys.executable, "-m", "sagalog", "worker", *arguments]
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def begin(sagalog: Sagalog, tmp_path: Path, url: str, count: int) -> None:
    """Start instances whose timer is due in a second, in a process that is gone by then."""
    (tmp_path / "events.jsonl").write_text("\n".join(line("Began", f"b{n}", key=f"k{n}") for n in range(count)) + "\n")
    done = sagalog("run", "ticking:runner", "--journal", url, "--events", "events.jsonl")
    assert done.returncode == 0, done.stderr


def told(tmp_path: Path) -> list[str]:
    path = tmp_path / "told.txt"
    return path.read_text().splitlines() if path.exists() else []


def wait_until_told(tmp_path: Path, process: subprocess.Popen[str], count: int) -> None:
    deadline = time.monotonic() + 30
    while len(told(tmp_path)) < count:
        assert process.poll() is None
        assert time.monotonic() < deadline, f"{len(told(tmp_path))} of {count} were told"
        time.sleep(0.01)


def test_workers_share_what_is_due_and_stop_when_told(sagalog: Sagalog, tmp_path: Path, url: str) -> None:
    begin(sagalog, tmp_path, url, 200)
    with worker(tmp_path, "ticking:runner", "--journal", url, "--processes", "3") as workers:
        assert workers.stderr is not None
        started = [workers.stderr.readline() for _ in range(3)]
        assert all("runs: ticking" in one for one in started)
        pids = [int(one.split()[1]) for one in started]
        wait_until_told(tmp_path, workers, 200)
        os.kill(pids[0], signal.SIGKILL)  # it is replaced
        assert f"worker {pids[0]} ended with -9" in workers.stderr.readline()
        assert "runs: ticking" in workers.stderr.readline()
        workers.send_signal(signal.SIGUSR1)
        health = [json.loads(workers.stderr.readline()) for _ in range(3)]
        assert {one["pid"] for one in health} >= set(pids[1:])
        assert all(one["sagas"] == ["ticking"] for one in health)
        workers.send_signal(signal.SIGTERM)
        last = workers.stderr.read()
        assert workers.wait(30) == 0
        assert last.count("stopped: ") == 3
    commands = told(tmp_path)
    assert sorted(set(commands)) == sorted(f"saga::ticking::k{n}/2/0" for n in range(200))
    assert sum(one["timers"] for one in health) <= 200


@pytest.mark.parametrize("when", ["running", "starting"])
def test_workers_end_with_a_supervisor_that_is_killed(tmp_path: Path, when: str) -> None:
    (tmp_path / "ticking.py").write_text(TICKING)
    with worker(tmp_path, "ticking:runner", "--processes", "2") as workers:
        assert workers.stderr is not None
        pids = [int(workers.stderr.readline().split()[1]) for _ in range(2 if when == "running" else 1)]
        workers.kill()
        assert "stopped: " in workers.stderr.read()  # which comes to its end when the last of them has closed it
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                while True:
                    os.kill(pid, 0)
                    time.sleep(0.01)


@pytest.mark.parametrize("address", ["bad", "h:99999", "a b:1"])
def test_an_address_that_is_none_names_its_option(sagalog: Sagalog, tmp_path: Path, address: str) -> None:
    (tmp_path / "ticking.py").write_text(TICKING)
    done = sagalog("worker", "ticking:runner", "--http", address)
    assert (done.returncode, "--http" in done.stderr) == (2, True), done.stderr


def test_one_worker_alone_stops_at_ctrl_c(sagalog: Sagalog, tmp_path: Path, url: str) -> None:
    begin(sagalog, tmp_path, url, 1)
    with worker(tmp_path, "ticking:runner", "--journal", url) as alone:
        assert alone.stderr is not None
        assert "runs: ticking" in alone.stderr.readline()
        wait_until_told(tmp_path, alone, 1)
        alone.send_signal(signal.SIGINT)
        assert alone.wait(30) == 0
        assert "1 timers" in alone.stderr.read()


def test_workers_that_cannot_start_say_why_and_end(tmp_path: Path) -> None:
    (tmp_path / "ticking.py").write_text(TICKING)
    nowhere = "postgresql://127.0.0.1:1/x?connect_seconds=0.2"
    with worker(tmp_path, "ticking:runner", "--journal", nowhere, "--processes", "2") as workers:
        assert workers.stderr is not None
        said = workers.stderr.read()
        assert workers.wait(30) == 1
    assert "JournalUnavailableError: PostgreSQL 127.0.0.1:1/x" in said


def test_a_journal_in_memory_cannot_be_shared(sagalog: Sagalog, tmp_path: Path) -> None:
    (tmp_path / "ticking.py").write_text(TICKING)
    done = sagalog("worker", "ticking:runner", "--journal", "memory://", "--processes", "2")
    assert done.returncode == 2
    assert "belongs to one process" in done.stderr


def test_migrate_makes_what_is_missing_and_open_asks_for_it(
    sagalog: Sagalog, tmp_path: Path, postgres_schema: str
) -> None:
    url = postgres_schema.replace("&migrate=true", "")
    (tmp_path / "ticking.py").write_text(TICKING)
    refused = sagalog("list", "--journal", url)
    assert refused.returncode == 1
    assert "create it with `sagalog migrate --journal URL`," in refused.stderr
    assert "made at version 3" in sagalog("migrate", "--journal", url).stdout
    assert "at version 3 already" in sagalog("migrate", "--journal", url).stdout
    assert sagalog("list", "--journal", url).returncode == 0
    assert "nothing to do" in sagalog("migrate", "--journal", "sqlite:///any.db").stdout
    assert not (tmp_path / "any.db").exists()


async def supervised(folder: Path, program: str, *, patience: float) -> tuple[_Supervisor, asyncio.Future[int], Any]:
    """Return the supervisor of a worker that runs this program, when that has said that it is up; and the worker."""
    supervisor = _Supervisor([[sys.executable, "-c", program]], dict(os.environ), patience)
    running = asyncio.ensure_future(supervisor.run())
    await eventually((folder / "up").exists)
    (process,) = supervisor._running
    return supervisor, running, process


async def test_a_worker_that_does_not_stop_is_killed_after_a_while(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that is frozen hears no SIGTERM, and its supervisor would wait for it for ever."""
    deaf = (
        "import pathlib, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pathlib.Path({str(tmp_path / 'up')!r}).touch()\n"
        "time.sleep(1000)"
    )
    supervisor, running, process = await supervised(tmp_path, deaf, patience=0.1)
    supervisor._stop()
    assert await asyncio.wait_for(running, 60) == 1
    assert process.returncode == -signal.SIGKILL
    assert f"worker {process.pid} has not stopped within 0.1 s, so it is killed" in capsys.readouterr().err


async def test_a_worker_that_a_second_signal_ends_is_told_and_not_called_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopping = (
        "import pathlib, signal, time\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "def stop(*_):\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_DFL)\n"
        "    (folder / 'stopping').touch()\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "(folder / 'up').touch()\n"
        "while True:\n"
        "    time.sleep(1000)"
    )
    supervisor, running, process = await supervised(tmp_path, stopping, patience=1000)
    supervisor._stop()
    await eventually((tmp_path / "stopping").exists)
    supervisor._stop()
    assert await asyncio.wait_for(running, 60) == 1
    assert f"worker {process.pid} ended with -15 before it had stopped" in capsys.readouterr().err


async def test_a_worker_that_is_told_to_stop_before_it_has_begun_has_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = f"import pathlib, time; pathlib.Path({str(tmp_path / 'up')!r}).touch(); time.sleep(1000)"
    supervisor, running, _ = await supervised(tmp_path, waiting, patience=1000)
    supervisor._stop()
    assert await asyncio.wait_for(running, 60) == 0
    assert capsys.readouterr().err == ""


def test_a_worker_that_waits_for_its_journal_tells_how_it_is_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "ticking.py").write_text(TICKING)
    nowhere = "postgresql://127.0.0.1:1/x?connect_seconds=100"
    with worker(tmp_path, "ticking:runner", "--journal", nowhere, "--http", "127.0.0.1:0") as waiting:
        assert waiting.stderr is not None
        address = waiting.stderr.readline().split()[-1].replace("/ready", "/live")
        with urllib.request.urlopen(address, timeout=30) as answer:
            assert answer.status == 200
        waiting.send_signal(signal.SIGUSR1)
        assert json.loads(waiting.stderr.readline())["pid"] == waiting.pid
        assert waiting.poll() is None
