from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

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
        )

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def spawn(self, folder: Path, orders: int, seed: int, point: str = "", passing: int = 0, stop: str = "") -> int:
        pid: int = self._ask(work=[str(folder), str(orders), str(seed), point, str(passing), stop])["pid"]
        return pid

    def wait(self, pid: int) -> dict[str, Any]:
        """Return {"signal": n} or {"exit": n}."""
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


@pytest.fixture
def seed() -> int:
    value = int(os.environ.get("SAGALOG_CRASH_SEED") or random.randrange(10**6))
    print(f"to run the same again: SAGALOG_CRASH_SEED={value}")
    return value


def wait_for(folder: Path, wanted: str, *, seconds: float = 20.0) -> None:
    """Return when the ledger holds a line with that text."""
    deadline = time.monotonic() + seconds
    path = folder / "ledger"
    while time.monotonic() < deadline:
        if path.exists() and wanted in path.read_text():
            return
        time.sleep(0.001)
    raise AssertionError(f"the ledger never said {wanted!r}")


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    os.kill(pid, number)
