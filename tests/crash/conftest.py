from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sagalog.journal.sqlite.schema import prepare

from ..seeds import SEED
from ..servers.nats import Nats

ROOT = Path(__file__).parents[2]


class Zygote:
    """The process that forks workers."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
            start_new_session=True,  # Ctrl-C is for the tests; this one ends when they do
        )

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def spawn(
        self,
        folder: Path,
        orders: int,
        seed: int,
        point: str = "",
        passing: int = 0,
        freeze: str = "",
        *,
        world: str = "shop",
    ) -> int:
        work = [str(folder), str(orders), str(seed), point, str(passing), freeze]
        pid: int = self._ask(world=world, work=work)["pid"]
        return pid

    def wait(self, pid: int) -> dict[str, Any]:
        """Return {"signal": n}, {"exit": n}, or {"hung": pid} for one that had to be killed at last."""
        return self._ask(wait=pid)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    started = Zygote()
    yield started
    started.close()


def first_seed() -> int:
    """Return the seed of this run."""
    return int(os.environ.setdefault("SAGALOG_CRASH_SEED", str(SEED)))


def pytest_report_header() -> str:
    return (
        f"crash tests: to run the same again, SAGALOG_CRASH_SEED={first_seed()}; for more kills, SAGALOG_CRASH_KILLS=10"
    )


@pytest.fixture
def seed() -> int:
    print(f"to run the same again: SAGALOG_CRASH_SEED={first_seed()}")
    return first_seed()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an empty journal in it; making one is tested by itself."""
    prepare(str(tmp_path / "shop.db"), busy_seconds=5)
    return tmp_path


def wait_for(folder: Path, wanted: str, *, seconds: float = 60.0) -> None:
    """Return when the ledger holds a line with that text."""
    deadline = time.monotonic() + seconds
    path = folder / "ledger"
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    with path.open() as ledger:
        rest = ""
        while time.monotonic() < deadline:
            rest += ledger.read()
            if wanted in rest:
                return
            rest = rest.rpartition("\n")[2]
            time.sleep(0.001)
    raise AssertionError(f"the ledger never said {wanted!r}")


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    os.kill(pid, number)


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[Nats]:
    """A NATS of one server, of the test's own, to be killed."""
    server = Nats(tmp_path / "nats", servers=1)
    server.start()
    yield server
    server.stop()
