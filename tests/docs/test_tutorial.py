"""The ten steps of the tutorial are taken, one after the other, in an empty folder.

SAGALOG_WRITE_DOCS=1 writes anew what the commands print.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from sagalog import open_journal
from sagalog.journal import MovedDue

from ..cli.test_health import address, wait_for
from ..cli.test_worker import worker
from .test_readme import ROOT, normalised, run

PAGE = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(r"```(python|console|sh)\n(.*?)```", re.S)
PORT = "127.0.0.1:8080"


# The reader's runner takes over from the dead one after five seconds. On a machine that stalls for as long, a live one
# would lose its lease, and deliver a command again. So here no lease ends by itself.
RUNNER = 'runner = SagaRunner("sqlite:///orders.db", sagas=[OrderSaga])'
PATIENT = (
    "from datetime import timedelta\nfrom sagalog import RunnerSettings\n"
    f"{RUNNER[:-1]}, settings=RunnerSettings(lease=timedelta(minutes=10)))"
)


def plain(text: str) -> str:
    return re.sub(r"in \d+\.\d+s( \(.+\))?", "in SECONDS", normalised(text)).strip()


async def end_the_lease_of_the_dead(folder: Path) -> None:
    """Let the lease end that the killed process held, as if ten minutes had passed."""
    async with open_journal(f"sqlite:///{folder / 'orders.db'}") as journal:
        newest = await journal.latest_message("saga::order::A-1")
        assert newest is not None
        move = MovedDue(newest.persistence_id, newest.sequence_nr, datetime.now(UTC))
        assert await journal.move_due([move]) == [True]


def test_the_ten_steps_lead_where_they_say(tmp_path: Path) -> None:
    text = PAGE.read_text()
    assert re.findall(r"^## (\d+)\.", text, re.M) == [str(step) for step in range(1, 11)]
    assert RUNNER in text
    steps = text.partition("## 9.")
    Steps(tmp_path).take(steps[0])
    (command,) = re.findall(r"```sh\nsagalog (worker .+)\n```", steps[2])
    with worker(tmp_path, *command.replace(PORT, "127.0.0.1:0").split()[1:]) as process:
        where = address(process)

        def sagalog(*arguments: str) -> subprocess.CompletedProcess[str]:
            return run(tmp_path, sys.executable, "-m", "sagalog", *arguments)

        wait_for(sagalog, 0, where)
        while "completed" not in sagalog("show", "A-2", "--journal", "sqlite:///orders.db").stdout:
            assert process.poll() is None
        Steps(tmp_path, where).take(steps[2])
    if os.environ.get("SAGALOG_WRITE_DOCS"):
        PAGE.write_text(WRITTEN.get("text", PAGE.read_text()))


WRITTEN: dict[str, str] = {}


class Steps:
    """What a reader does: writes the files, runs the commands, compares what they print."""

    def __init__(self, folder: Path, where: str = PORT) -> None:
        self.folder = folder
        self.where = where

    def take(self, text: str) -> None:
        for language, block in BLOCK.findall(text):
            if language == "python":
                name, _, code = block.removeprefix("# ").partition("\n")
                code = code.replace(RUNNER, PATIENT)
                file, _, method = name.partition(": ")
                self._write(self.folder / file, code, method)
            elif language == "console":
                for command, expected in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", block, re.M):
                    self._type(command, expected)

    def _write(self, file: Path, code: str, method: str) -> None:
        if method:  # the page shows this one anew
            old = re.compile(rf"    @[^\n]+\n    def {method}\(.*?(?=\n    @|\Z)", re.S)
            code, found = old.subn(lambda _: code, file.read_text())
            assert found == 1
        file.write_text(code)

    def _type(self, command: str, expected: str) -> None:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

        def typed() -> subprocess.CompletedProcess[str]:
            line = command.replace(PORT, self.where)
            return run(self.folder, "bash", "-c", line, PATH=path, PYTHONDONTWRITEBYTECODE="1")

        done = typed()
        ends = time.monotonic() + 60
        while self.where != PORT and plain(done.stdout) != plain(expected) and time.monotonic() < ends:
            done = typed()  # it asks a worker that may be slow
        assert done.returncode in ((137, -9) if "POWER_FAILS" in command else (0,)), done.stderr
        if os.environ.get("SAGALOG_WRITE_DOCS") and plain(done.stdout) != plain(expected):
            before = WRITTEN.get("text", PAGE.read_text())
            WRITTEN["text"] = before.replace(f"$ {command}\n{expected}", f"$ {command}\n{done.stdout}")
            return
        said, told = plain(done.stdout), plain(expected)
        if "POWER_FAILS" in command:
            asyncio.run(end_the_lease_of_the_dead(self.folder))
        if "pay.py" in command:  # whether the runner takes over first or answers first is open
            said, told = "\n".join(sorted(said.splitlines())), "\n".join(sorted(told.splitlines()))
        assert said == told, command
