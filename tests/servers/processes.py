"""What the servers of the tests share: free ports, dropping root, waiting for a port, and ending what was started."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path


def free_port() -> int:
    """Return a port that was free a moment ago, and that no outgoing connection is given: those begin at 32768 on Linux."""
    while True:
        port = random.SystemRandom().randrange(15_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def free_ports(count: int) -> list[int]:
    """Return so many different ones."""
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port())
    return list(ports)


def as_somebody(folder: Path) -> list[str]:
    """Return what to put before a command that refuses to run as root; `folder` becomes writable for it."""
    if os.getuid() != 0:
        return []
    if shutil.which("unshare"):
        inside = ["unshare", "-U", "--map-user=1000", "--map-group=1000"]
        if subprocess.run([*inside, "true"], check=False, capture_output=True).returncode == 0:
            return inside
    shutil.chown(folder, "nobody")
    for parent in folder.parents:  # the way there, for somebody who is not root
        if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    return ["setpriv", "--reuid=nobody", "--clear-groups"]


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path, seconds: float = 30) -> None:
    """Return when something listens. Raises RuntimeError with the log's end if the process ended or time is up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"nothing listens on port {port}: {log.read_text()[-2000:]}")


def end(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> None:
    """Send a signal, and wait for the end."""
    if process.poll() is None:
        process.send_signal(number)
        process.wait(30)


async def eventually(check: object, seconds: float = 60) -> None:
    """Return as soon as `check()` (may be async) is true. Raises AssertionError when time is up."""
    deadline = time.monotonic() + seconds
    while True:
        result = check()  # type: ignore[operator]
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.02)
