"""Output that cannot be written: one line, exit code 1, no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from sagalog.cli import group

from .conftest import Sagalog
from .test_dashboard import ENVIRONMENT


@pytest.mark.parametrize(
    "arguments",
    [
        "--help",
        "--version",
        "list --help",
        "list --journal sqlite:///orders.db",
        "list --json --journal sqlite:///orders.db",
        "show running --journal sqlite:///orders.db",
        "stats --journal sqlite:///orders.db",
        "doctor sqlite:///orders.db",
        "export - --journal sqlite:///orders.db",
        "export /dev/full --force --journal sqlite:///orders.db",
    ],
)
def test_a_full_disk_is_one_line(filled: Path, arguments: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sagalog", *arguments.split()],
            cwd=filled.parent,
            env=ENVIRONMENT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_a_reader_that_has_gone_is_no_traceback(filled: Path) -> None:
    command = [sys.executable, "-m", "sagalog", "list", "--journal", "sqlite:///orders.db"]
    with subprocess.Popen(
        command, cwd=filled.parent, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as listing:
        assert listing.stdout is not None
        assert listing.stderr is not None
        listing.stdout.close()
        assert listing.stderr.read() == ""
        assert listing.wait(60) == 1


def test_an_export_is_for_its_owner_only(filled: Path) -> None:
    out = filled.parent / "out.jsonl"
    out.with_name("out.jsonl.part").write_text("left by one that died")
    command = [sys.executable, "-m", "sagalog", "export", str(out), "--journal", "sqlite:///orders.db"]
    subprocess.run(command, cwd=filled.parent, env=ENVIRONMENT, check=True, timeout=60, capture_output=True)
    assert out.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ("list --older-than nan", "--older-than"),
        ("list --older-than -1s", "--older-than"),
        ("list --newer-than 999999999w", "--newer-than"),
        ("purge --older-than 999999d", "--older-than"),
        ("list --limit 0", "--limit"),
        ("health 127.0.0.1:1 --timeout nan", "--timeout"),
        ("health 127.0.0.1:1 --timeout inf", "--timeout"),
        ("health --behind nan", "--behind"),
        ("health --behind -1", "--behind"),
        ("worker x:y --processes 0", "--processes"),
        ("cancel x --retention nan", "--retention"),
        ("dashboard --port 99999", "--port"),
    ],
)
def test_an_odd_value_is_refused_and_its_option_named(
    sagalog: Sagalog, filled: Path, arguments: str, option: str
) -> None:
    done = sagalog(*arguments.split(), SAGALOG_JOURNAL="sqlite:///orders.db")
    assert (done.returncode, f"Invalid value for '{option}'" in done.stderr) == (2, True), done.stderr


def test_ctrl_c_has_an_exit_code_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sagalog.cli.stats._stats", interrupted)
    done = CliRunner().invoke(group.sagalog, ["stats", "--journal", "sqlite:///any.db"])
    assert done.exit_code == 130
    assert "stopped" in done.output
