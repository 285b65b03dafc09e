"""Run the commands on the pages of docs/operating again, and write down what they print.

    python scripts/operating_pages.py [--check]

Each page has an empty folder with docs/operating/shop.py and its orders. Dates, workers and ages are made the same every
time, so that a page changes only when what is printed does. `--check` changes nothing; exit code 1 if anything differs.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from click.testing import CliRunner

from sagalog.cli.group import sagalog

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "operating"
PAGES = [page for page in sorted(FOLDER.glob("*.md")) if "scripts/operating_pages.py. -->" in page.read_text()]
PICTURE = "order.svg"  # which one of the commands draws
SHOWN_AT = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
WORKERS = ("d2e62daa", "7c41b0f9", "a90e5d13", "31f8c2e6", "5b7d9a04")
ENVIRONMENT = {"SAGALOG_JOURNAL": "sqlite:///orders.db", "LOGNAME": "ada", "COLUMNS": "100"}
# A command is delivered again when its lease ends, so a machine that stalls for five seconds would write other histories.
IMPATIENT = "RunnerSettings(handler_retry"
PATIENT = "RunnerSettings(lease=timedelta(minutes=10), handler_retry"
STEPS = re.compile(r"```console\n(.*?)```|<!-- run: (.*?) -->", re.S)


class Page:
    """One page, and the folder that its commands run in, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.began = datetime.now(UTC)
        self.workers: dict[str, str] = {}
        shop = (FOLDER / "shop.py").read_text()
        assert IMPATIENT in shop
        (folder / "shop.py").write_text(shop.replace(IMPATIENT, PATIENT))
        (folder / "broken.json").write_text('{"total": "forty"}\n')
        (folder / "right.json").write_text('{"total": 45, "paid": false, "street": ""}\n')
        self.run("python shop.py")

    def run(self, line: str) -> str:
        """Run one command line; return what it prints, the same every time."""
        program, *arguments = shlex.split(line)
        if program == "sagalog":
            done = CliRunner().invoke(sagalog, arguments, prog_name="sagalog", env=ENVIRONMENT)
            return self.steady(done.output)
        subprocess.run([sys.executable, *arguments], cwd=self.folder, check=True, timeout=60)  # noqa: S603
        return ""

    def steady(self, text: str) -> str:
        """Return `text` with what differs from run to run made the same."""
        text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", self._moment, text)
        text = re.sub(r"\[([0-9a-f]{8})\]", self._worker, text)
        text = re.sub(r"\b\d+[smhd]( \d+[smhd])? old", "2s old", text)
        text = re.sub(r"\bpaused: (\w+) for \d+[smh]( \d+[smh])?", r"paused: \1 for 0s", text)
        return re.sub(r"in 0:1[45]:\d\d\b", "in 0:15:00", text)

    def _moment(self, match: re.Match[str]) -> str:
        passed = datetime.strptime(match[0], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC) - self.began
        quarters = round(passed / timedelta(minutes=15))
        return f"{SHOWN_AT + quarters * timedelta(minutes=15):%Y-%m-%d %H:%M:%S}"

    def _worker(self, match: re.Match[str]) -> str:
        return f"[{self.workers.setdefault(match[1], WORKERS[len(self.workers)])}]"


def rendered(text: str) -> tuple[str, str | None]:
    """Return a page with everything that its commands print now, and the picture, if they draw it."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        page = Page(Path(folder))

        def step(match: re.Match[str]) -> str:
            if match[2]:
                page.run(match[2])
                return match[0]
            lines: list[str] = []
            for line in match[1].splitlines():
                if line.startswith("$ "):
                    lines += [line, *page.run(line.removeprefix("$ ")).splitlines()]
            return "```console\n" + "\n".join(lines) + "\n```"

        page_now = STEPS.sub(step, text)
        picture = Path(folder) / PICTURE
        return page_now, picture.read_text() if picture.exists() else None


def differences(page: Path) -> Iterator[str]:
    """Yield how a page differs from what its commands print."""
    text = page.read_text()
    now, picture = rendered(text)
    yield from difflib.unified_diff(text.splitlines(), now.splitlines(), page.name, "printed now", "", "", 2)
    if picture is not None and picture != (FOLDER / PICTURE).read_text():
        yield f"{PICTURE} differs"


def main() -> int:
    """Write the pages, or check them."""
    if sys.argv[1:] not in ([], ["--check"]):
        print(__doc__)
        return 2
    if sys.argv[1:] == ["--check"]:
        found = [line for page in PAGES for line in differences(page)]
        print("\n".join(found))
        return 1 if found else 0
    for page in PAGES:
        now, picture = rendered(page.read_text())
        page.write_text(now)
        if picture is not None:
            (FOLDER / PICTURE).write_text(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
