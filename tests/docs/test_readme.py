"""What the README shows is run, and prints what it says."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sagalog

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
DATE = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"


def normalised(text: str) -> str:
    return re.sub(r"\[[0-9a-f]{8}\]", "[WORKER]", re.sub(DATE, "DATE", text))


def run(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, **environment}
    )


@pytest.fixture
def after_the_twenty_lines(tmp_path: Path) -> Path:
    (tmp_path / "twenty.py").write_text(PYTHON[0])
    done = run(tmp_path, sys.executable, "twenty.py")
    assert done.returncode == 0, done.stderr
    (expected,) = re.findall(r"```text\n(.*?)```", README, re.S)
    assert done.stdout == expected
    return tmp_path


def test_the_twenty_lines_run_as_printed_and_so_does_the_look_into_the_journal(after_the_twenty_lines: Path) -> None:
    (shown,) = re.findall(r"```console\n(.*?)```", README, re.S)
    command, _, expected = shown.partition("\n")
    done = run(after_the_twenty_lines, sys.executable, "-m", *command.removeprefix("$ ").split())
    assert normalised(done.stdout) == normalised(expected)


def test_the_commands_for_a_stuck_saga_exist(after_the_twenty_lines: Path) -> None:
    (block,) = (b for b in re.findall(r"```sh\n(.*?)```", README, re.S) if "SAGALOG_JOURNAL" in b)
    export, *commands = [line.partition("#")[0].strip() for line in block.strip().splitlines()]
    name, _, value = export.removeprefix("export ").partition("=")
    for command in commands:
        done = run(after_the_twenty_lines, sys.executable, "-m", *command.split(), **{name: value})
        assert done.returncode == 0, done.stderr


def test_every_python_snippet_is_valid_and_names_what_exists() -> None:
    for snippet in PYTHON:
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST
        compile(snippet, "README.md", "exec", flags)
        for name in re.findall(r"runner\.(\w+)\(", snippet):
            assert hasattr(sagalog.SagaRunner, name)


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
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    for page in ("README.md", "CONTRIBUTING.md"):
        assert set(re.findall(r"(?:^|`)make (\w+)", (ROOT / page).read_text(), re.M)) <= targets | {"install"}
