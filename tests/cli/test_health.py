"""`sagalog worker --http` and `sagalog health`: real processes, asked as a container's probe would."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import threading
import time
import urllib.request
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sagalog import JournalSagaStateStore, SqliteJournal

from .conftest import Sagalog
from .test_worker import TICKING, begin, worker

WEDGED = TICKING.replace(
    "def tell(command, context):", "def tell(command, context):\n    import time; time.sleep(600)\n"
)


def address(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    found = re.search(r"http://(\S+)/ready", process.stderr.readline())
    assert found
    return found[1]


def wait_for(sagalog: Sagalog, code: int, *arguments: str) -> str:
    """Ask until the answer has that exit code; return what it said."""
    deadline = time.monotonic() + 30
    while (done := sagalog("health", *arguments)).returncode != code:
        assert time.monotonic() < deadline, done.stdout + done.stderr
    return done.stdout


def test_a_worker_answers_probes_and_a_scraper(sagalog: Sagalog, tmp_path: Path) -> None:
    (tmp_path / "ticking.py").write_text(TICKING)
    begin(sagalog, tmp_path, "sqlite:///ticking.db", 1)
    with worker(tmp_path, "ticking:runner", "--http", "127.0.0.1:0") as alone:
        where = address(alone)
        assert wait_for(sagalog, 0, where) == "ready\n"
        assert sagalog("health", f"http://{where}", "--live").stdout == "live\n"
        said = json.loads(sagalog("health", f"http://{where}/ready", "--json").stdout)
        assert (said["live"], said["ready"], said["reasons"]) == (True, True, [])
        with urllib.request.urlopen(f"http://{where}/metrics", timeout=40) as answer:
            text = answer.read().decode()
        assert 'sagalog_instances_cached{saga="ticking"}' in text
        assert "process_cpu_seconds_total" in text
        alone.send_signal(signal.SIGTERM)
        assert alone.wait(30) == 0
    done = sagalog("health", where)
    assert (done.returncode, done.stdout.splitlines()[0]) == (1, "not ready")
    assert "refused" in done.stdout


def test_a_worker_whose_loop_is_stuck_is_not_live(sagalog: Sagalog, tmp_path: Path) -> None:
    (tmp_path / "ticking.py").write_text(WEDGED)
    begin(sagalog, tmp_path, "sqlite:///ticking.db", 1)
    with worker(tmp_path, "ticking:runner", "--http", "127.0.0.1:0") as alone:
        where = address(alone)
        said = wait_for(sagalog, 1, where, "--live", "--timeout", "0.5")
        assert said == f"not live\n  http://{where}/live does not answer within 0.5 s\n"


def test_the_supervisor_answers_for_all_of_its_workers(sagalog: Sagalog, tmp_path: Path) -> None:
    (tmp_path / "ticking.py").write_text(TICKING)
    with worker(tmp_path, "ticking:runner", "--processes", "2", "--http", "127.0.0.1:0") as workers:
        where = address(workers)
        assert workers.stderr is not None
        pids = [int(workers.stderr.readline().split()[1]) for _ in range(2)]
        assert wait_for(sagalog, 0, where) == "ready\n"
        with urllib.request.urlopen(f"http://{where}/metrics", timeout=40) as answer:
            text = answer.read().decode()
        assert {'sagalog_runners{worker="1"} 1.0', 'sagalog_runners{worker="2"} 1.0'} <= set(text.splitlines())
        os.kill(pids[0], signal.SIGSTOP)
        said = sagalog("health", where, "--live")
        assert said.returncode == 1
        assert re.fullmatch(r"not live\n  worker [12] does not answer: it is stuck\n", said.stdout)
        os.kill(pids[0], signal.SIGCONT)
        assert wait_for(sagalog, 0, where, "--live") == "live\n"
        os.kill(pids[1], signal.SIGKILL)  # it is replaced, and answers at the same place
        assert "ended with -9" in workers.stderr.readline()
        assert wait_for(sagalog, 0, where) == "ready\n"
        workers.send_signal(signal.SIGTERM)
        assert workers.wait(30) == 0


def _due(path: Path, ago: timedelta) -> None:
    async def store() -> None:
        async with SqliteJournal(path) as journal:
            await JournalSagaStateStore(journal, "order").save("a", b"{}", due_at=datetime.now(UTC) - ago)

    asyncio.run(store())


def test_a_journal_tells_whether_anybody_looks_after_it(sagalog: Sagalog, tmp_path: Path) -> None:
    path = tmp_path / "due.db"
    _due(path, timedelta(seconds=5))
    assert sagalog("health", "--journal", f"sqlite:///{path}").stdout == "ready\n"
    assert sagalog("health", SAGALOG_JOURNAL=f"sqlite:///{path}").returncode == 0
    _due(path, timedelta(minutes=10))
    done = sagalog("health", "--journal", f"sqlite:///{path}")
    assert done.returncode == 1
    assert re.fullmatch(r"not ready\n  due work is falling behind: the oldest has been due for 60\d s\n", done.stdout)
    assert sagalog("health", "--journal", f"sqlite:///{path}", "--behind", "3600").returncode == 0


def test_a_journal_that_is_down_is_named(sagalog: Sagalog) -> None:
    done = sagalog("health", "--journal", "postgresql://me:secret@127.0.0.1:1/x?connect_seconds=0.2", "--json")
    assert done.returncode == 1
    said = json.loads(done.stdout)
    assert (said["ready"], said["oldest_due_seconds"]) == (False, None)
    assert "127.0.0.1:1/x" in said["reasons"][0]
    assert "secret" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give a worker (sagalog health 127.0.0.1:8080) or a journal"),
        (("127.0.0.1:1", "--journal", "memory://"), "give a worker or a journal, not both"),
        (("--journal", "memory://", "--live"), "--live asks a worker;"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(sagalog: Sagalog, arguments: tuple[str, ...], said: str) -> None:
    done = sagalog("health", *arguments, SAGALOG_JOURNAL="")
    assert done.returncode == 2
    assert said in done.stderr


def test_what_a_foreign_server_answers_cannot_harm_the_terminal(sagalog: Sagalog, tmp_path: Path) -> None:
    done = sagalog("health", "127.0.0.1:1\x1b[2J")
    assert done.returncode == 1
    assert "\x1b" not in done.stdout


def test_an_address_that_is_none_or_taken_is_refused(sagalog: Sagalog, tmp_path: Path) -> None:
    done = sagalog("worker", "shop:runner", "--http", "8080")
    assert done.returncode == 2
    assert "'8080' is not an address to listen on; write 127.0.0.1:8080" in done.stderr
    (tmp_path / "ticking.py").write_text(TICKING)
    with worker(tmp_path, "ticking:runner", "--http", "127.0.0.1:0") as first:
        where = address(first)
        done = sagalog("worker", "ticking:runner", "--http", where)
        assert done.returncode == 1
        assert f"cannot listen at {where}: " in done.stderr
        assert "Choose another address." in done.stderr


def test_a_journal_that_refuses_writes_is_not_ready(sagalog: Sagalog, tmp_path: Path) -> None:
    path = tmp_path / "orders.db"

    async def make() -> None:
        async with SqliteJournal(path) as journal:
            await JournalSagaStateStore(journal, "order").save("a", b"{}")

    asyncio.run(make())
    assert sagalog("health", "--journal", "sqlite:///orders.db").returncode == 0
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.isolation_level = None
        other.execute("BEGIN IMMEDIATE")  # whoever writes has to wait for it
        done = sagalog("health", "--journal", "sqlite:///orders.db?busy_seconds=0.1", "--json")
        other.execute("ROLLBACK")
    told = json.loads(done.stdout)
    assert (done.returncode, told["ready"]) == (1, False)
    assert told["reasons"][0].startswith("writable: writes are refused")


def test_a_file_whose_records_are_damaged_is_not_ready(sagalog: Sagalog, tmp_path: Path) -> None:
    _due(tmp_path / "due.db", timedelta(seconds=-60))
    with contextlib.closing(sqlite3.connect(tmp_path / "due.db")) as other:
        other.execute("ALTER TABLE label RENAME TO gone")  # as if its page were lost
    done = sagalog("health", "--journal", "sqlite:///due.db")
    assert (done.returncode, done.stdout.splitlines()[0]) == (1, "not ready"), done.stdout
    assert "it is not known what is paused: due.db is damaged" in done.stdout


@pytest.mark.parametrize("speaks", ["a:b:c", ""])
def test_what_is_no_address_or_does_not_speak_http_is_told(sagalog: Sagalog, speaks: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(30)

        def answer() -> None:
            with suppress(TimeoutError, OSError), other.accept()[0] as connection:
                connection.sendall(b"INFO {}\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        done = sagalog("health", speaks or f"127.0.0.1:{other.getsockname()[1]}", "--timeout", "30")
    assert (done.returncode, done.stderr) == (1, "")
    assert "does not speak HTTP, or is not an address" in done.stdout
