"""Ends what a test run has started when the run ends, however it ends: also by SIGKILL, SIGTERM or Ctrl-C.

The run starts this file as a process of its own and holds the only write end of its standard input. Everything that
tests start inherits an environment variable with the name of the run; when the pipe closes, every process that carries
it is killed. No test has to register anything, and what a server or a worker starts by itself is found as well.
Processes are found through /proc, so on other systems than Linux the fixtures alone end what they have started.

Each test also tells when it begins and how long it may take. A test whose time limit could not end it (it swallows the
failure, or hangs in C code) ends the whole run, under its name: nothing hangs for ever.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

VARIABLE = "SAGALOG_TEST_RUN"


class Watchdog:
    """The watcher of this process. Start it where standard error is the real one, since it reports there."""

    def __init__(self) -> None:
        token = uuid4().hex
        environment = {key: value for key, value in os.environ.items() if key != VARIABLE}  # it must not kill itself
        os.environ[VARIABLE] = token
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(os.getpid()), token],
            stdin=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the run
            bufsize=0,
        )

    def expect(self, name: str, seconds: float) -> None:
        """Say that `name` begins now, and kill the run if nothing else is said within so many seconds (0: no limit)."""
        assert self._process.stdin is not None
        one_line = name.encode("ascii", "backslashreplace").replace(b"\n", b"\\n")[:2000]
        try:
            self._process.stdin.write(b"%g %s\n" % (seconds, one_line))
        except BrokenPipeError:  # somebody has killed it: the run goes on without
            pass

    def stop(self) -> None:
        """Kill what is left of the run, and return when it is gone."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


def carriers(token: str) -> list[int]:
    """Return the processes that were started with this token in their environment."""
    mark = f"{VARIABLE}={token}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:  # it is gone, or somebody else's
            continue
    return found


def end_all(token: str, seconds: float = 10) -> None:
    """Kill every process of the run, again and again until none is left: one may be starting another."""
    deadline = time.monotonic() + seconds
    while (left := carriers(token)) and time.monotonic() < deadline:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        time.sleep(0.02)


def watch(run: int, token: str) -> None:
    """Read what the run says until it is gone, or until a test has overrun its limit."""
    said, name, deadline = b"", "", None
    while True:
        patience = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([0], [], [], patience)[0]:
            sys.stderr.write(f"\n{name} is not over, and its time limit did not end it: the run is killed.\n")
            sys.stderr.flush()
            os.kill(run, signal.SIGKILL)
            return
        more = os.read(0, 65536)
        if not more:
            return
        *lines, said = (said + more).split(b"\n")
        if lines:
            seconds, _, told = lines[-1].decode().partition(" ")
            name, deadline = told, time.monotonic() + float(seconds) if float(seconds) else None


if __name__ == "__main__":
    watch(int(sys.argv[1]), sys.argv[2])
    end_all(sys.argv[2])
