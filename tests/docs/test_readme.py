"""What the front page shows is run, and prints what it says; what it promises is tested."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

import sagalog

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
GUARANTEES = (ROOT / "docs" / "guarantees.md").read_text()
DATE = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"


def normalised(text: str) -> str:
    return re.sub(r"\[[0-9a-f]{8}\]", "[WORKER]", re.sub(DATE, "DATE", text))


def run(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=300, env={**os.environ, **environment}
    )


# A command is delivered again when its lease ends, so a machine that stalls for five seconds would print it twice.
PATIENT = """
import runpy, sys
from datetime import timedelta
from sagalog import RunnerSettings, SagaRunner

made = SagaRunner.__init__


def patient(self, *args, settings=None, **named):
    made(self, *args, settings=settings or RunnerSettings(lease=timedelta(minutes=10)), **named)


SagaRunner.__init__ = patient
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_program(folder: Path, file: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program of a page; however slow the machine, no lease ends, so what it prints is always the same."""
    return run(folder, sys.executable, "-c", PATIENT, file, **environment)


@pytest.mark.parametrize("page", ["README.md", "docs/reacting-to-events.md"])
def test_the_first_program_runs_as_printed_and_so_does_the_look_into_its_journal(page: str, tmp_path: Path) -> None:
    text = (ROOT / page).read_text()
    (code,), (expected,), (shown,) = (
        re.findall(rf"```{language}\n(.*?)```", text, re.S) for language in ("python", "text", "console")
    )
    (tmp_path / "shown.py").write_text(code)
    done = run_program(tmp_path, "shown.py")
    assert (done.returncode, done.stdout) == (0, expected), done.stderr
    command, _, expected = shown.partition("\n")
    done = run(tmp_path, sys.executable, "-m", *command.removeprefix("$ ").split())
    assert normalised(done.stdout) == normalised(expected)


def test_the_front_page_is_short() -> None:
    assert len(README.split()) <= 600
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len([line for line in code.splitlines() if line.strip()]) < 30


def test_the_program_of_the_front_page_is_typed(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    (tmp_path / "shown.py").write_text(code)
    done = run(tmp_path, sys.executable, "-m", "mypy", "--strict", "--cache-dir", os.devnull, "shown.py")
    assert done.returncode == 0, done.stdout


def test_the_cast_shows_what_the_demo_says(tmp_path: Path) -> None:
    shown = [unescape(line) for line in re.findall(r"<text [^>]*>(.*)</text>", (ROOT / "docs/demo.svg").read_text())]
    command, *lines = shown
    done = run(tmp_path, sys.executable, "-m", *command.removeprefix("$ ").split(), "--orders", "40")
    assert done.returncode == 0
    assert [without_figures(line) for line in lines] == [without_figures(line) for line in done.stdout.splitlines()]


def without_figures(line: str) -> str:
    return re.sub(r" *[\d,.]+", " 0", line).strip()


@pytest.mark.parametrize("proof", re.findall(r"^- `(tests/.+)`: `(\w+)`$", GUARANTEES, re.M), ids=lambda one: one)
def test_a_guarantee_names_tests_that_exist(proof: tuple[str, str]) -> None:
    file, name = proof
    assert re.search(rf"^ *(async )?def {name}\(", (ROOT / file).read_text(), re.M), f"{file} has no {name}"


def test_there_are_fourteen_guarantees_and_each_has_tests() -> None:
    sections = re.findall(r"^## (\d+)\. .*?(?=^## )", GUARANTEES, re.M | re.S)
    assert sections == [str(number) for number in range(1, 15)]
    for section in re.findall(r"^## \d+\. .*?(?=^## )", GUARANTEES, re.M | re.S):
        assert len(re.findall(r"^- `tests/", section, re.M)) >= 2, section


@pytest.mark.parametrize(
    "page",
    [
        p.relative_to(ROOT).as_posix()
        for p in [
            ROOT / "README.md",
            ROOT / "CONTRIBUTING.md",
            ROOT / "CHANGELOG.md",
            *sorted((ROOT / "docs").rglob("*.md")),
        ]
    ],
)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


def test_public_names_are_sorted_complete_and_documented() -> None:
    names = sagalog.__all__
    assert names == sorted(names, key=lambda name: (name[0].islower(), name))
    for name in names:
        assert getattr(sagalog, name) is not None
    glossary = (ROOT / "docs" / "glossary.md").read_text()
    for action in ("Send", "Schedule", "SetTimer", "CancelTimer", "Compensate", "Complete"):
        assert action in glossary


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    for page in ("README.md", "CONTRIBUTING.md"):
        assert set(re.findall(r"(?:^|`)make ([\w-]+)", (ROOT / page).read_text(), re.M)) <= targets | {"install"}
