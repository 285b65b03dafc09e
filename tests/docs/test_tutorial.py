"""The ten steps of the tutorial are taken, one after the other, in an empty folder.

SAGALOG_WRITE_DOCS=1 writes anew what the commands print.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from ..cli.test_health import address, wait_for
from ..cli.test_worker import worker
from .test_readme import ROOT, normalised, run

PAGE = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(r"```(python|console|sh)\n(.*?)```", re.S)
PORT = "127.0.0.1:8080"


def plain(text: str) -> str:
    return re.sub(r"in \d+\.\d+s", "in SECONDS", normalised(text)).strip()


def test_the_ten_steps_lead_where_they_say(tmp_path: Path) -> None:
    text = PAGE.read_text()
    assert re.findall(r"^## (\d+)\.", text, re.M) == [str(step) for step in range(1, 11)]
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
        done = run(self.folder, "bash", "-c", command.replace(PORT, self.where), PATH=path, PYTHONDONTWRITEBYTECODE="1")
        assert done.returncode in ((137, -9) if "POWER_FAILS" in command else (0,)), done.stderr
        if os.environ.get("SAGALOG_WRITE_DOCS") and plain(done.stdout) != plain(expected):
            before = WRITTEN.get("text", PAGE.read_text())
            WRITTEN["text"] = before.replace(f"$ {command}\n{expected}", f"$ {command}\n{done.stdout}")
            return
        said, told = plain(done.stdout), plain(expected)
        if "pay.py" in command:  # on a busy machine, the lease may have ended before this process begins
            said, told = "\n".join(sorted(said.splitlines())), "\n".join(sorted(told.splitlines()))
        assert said == told, command
