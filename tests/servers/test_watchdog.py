"""What a test run has started is gone when the run is, and a test that does not end is named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .watchdog import carriers

ROOT = Path(__file__).parents[2]
CONFTEST = """
import tests.conftest
from tests.conftest import *
tests.conftest.GRACE_SECONDS = 1.0
"""
STARTS_SERVERS = """
import os, subprocess, time
from pathlib import Path
from tests.crash.conftest import Zygote
from tests.servers.nats import Nats
from tests.servers.postgres import Postgres

def test_with_servers(tmp_path):
    postgres = Postgres(tmp_path / "postgres")
    postgres.start()
    Nats(tmp_path / "nats", 1).start()
    zygote = Zygote()
    subprocess.Popen(["sh", "-c", "sleep 600 & sleep 600"], start_new_session=True)
    Path("started.tmp").write_text(f"{os.environ['SAGALOG_TEST_RUN']} {postgres.postmaster()}")
    os.rename("started.tmp", "started")
    time.sleep(WAIT)
"""


def run_pytest(folder: Path, code: str, *arguments: str) -> subprocess.Popen[str]:
    (folder / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text(code)
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Who starts the tests in the background has SIGINT ignored, and so would have all that they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def until(check: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are found through /proc, which only Linux has")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, 0], ids=lambda one: f"signal {one}")
def test_servers_end_with_the_run_that_started_them_however_it_ends(tmp_path: Path, number: int) -> None:
    code = STARTS_SERVERS.replace("WAIT", "600" if number else "0")
    with run_pytest(tmp_path, code) as run:
        try:
            until(lambda: (tmp_path / "started").exists() or run.poll() is not None)
            assert (tmp_path / "started").exists(), run.communicate()[0]
            token, postmaster = (tmp_path / "started").read_text().split()
            if number:
                until(lambda: len(carriers(token)) >= 5)  # PostgreSQL, NATS, the zygote, the shell and its child
                run.send_signal(number)
            run.communicate(timeout=60)
            until(lambda: not carriers(token))
            until(lambda: not Path(f"/proc/{postmaster}").exists())
        finally:
            run.kill()


def test_a_test_that_is_over_its_time_fails_under_its_name_and_the_next_one_runs(tmp_path: Path) -> None:
    code = "import asyncio\nasync def test_slow():\n    await asyncio.Event().wait()\ndef test_next(): pass\n"
    with run_pytest(tmp_path, code, "--timeout=1") as run:
        said = run.communicate(timeout=60)[0]
    assert "FAILED test_it.py::test_slow" in said, said
    assert "1 failed, 1 passed" in said


def test_a_test_that_its_time_limit_cannot_end_ends_the_run_under_its_name(tmp_path: Path) -> None:
    code = """
import time
def test_deaf():
    while True:
        try:
            time.sleep(600)
        except BaseException:
            pass
"""
    with run_pytest(tmp_path, code, "--timeout=1") as run:
        said = run.communicate(timeout=60)[0]
    assert "test_it.py::test_deaf is not over, and its time limit did not end it" in said
    assert run.returncode == -signal.SIGKILL
