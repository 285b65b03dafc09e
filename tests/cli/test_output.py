"""Output that cannot be written: one line, exit code 1, no traceback."""

from __future__ import annotations

import errno
import os
import shlex
import stat
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from click.testing import CliRunner

from sagalog.cli import group

from .conftest import Sagalog
from .test_dashboard import ENVIRONMENT


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A link to a device on which every write fails with ENOSPC: the machine's own, or else one that is made here.

    A link, because a command that replaces what it should write to takes away nothing but the link.
    """
    device = Path("/dev/full")
    if not _is_full(device):
        device = tmp_path / "device"
        try:
            os.mknod(device, 0o600 | stat.S_IFCHR, os.makedev(1, 7))
        except OSError as error:
            pytest.skip(f"/dev/full is no device that is always full, and none can be made here: {error.strerror}")
        if not _is_full(device):
            pytest.skip("/dev/full is no device that is always full, and a device in the tests' folder is none either")
    link = tmp_path / "full"
    link.symlink_to(device)
    return link


def _is_full(device: Path) -> bool:
    if not device.is_char_device():
        return False
    try:
        with device.open("wb", buffering=0) as opened:
            opened.write(b"x")
    except OSError as error:
        return error.errno == errno.ENOSPC
    return False


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
        "export full --force --journal sqlite:///orders.db",
    ],
)
def test_a_full_disk_is_one_line(filled: Path, full: Path, arguments: str) -> None:
    with full.open("w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "sagalog", *arguments.split()],
            cwd=filled.parent,
            env=ENVIRONMENT,
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "No space left on device" in done.stderr
    assert ("full cannot be written" in done.stderr) == arguments.startswith("export full")
    assert full.is_symlink(), "replaced: had it been the device itself, the machine would have lost it"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("list --journal sqlite:///orders.db >&-", "Error: standard output is closed"),
        ("export - --journal sqlite:///orders.db >&-", "Error: standard output is closed"),
        (
            "cancel running --journal sqlite:///orders.db <&-",
            "Error: there is no terminal to ask for confirmation: add --yes",
        ),
    ],
)
def test_a_closed_stream_is_one_line(filled: Path, command: str, said: str) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f"{shlex.quote(sys.executable)} -m sagalog {command}"],
        cwd=filled.parent,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (1, 2), done.stderr
    *_, line = done.stderr.splitlines()
    assert "Traceback" not in done.stderr
    assert line.startswith(said)


def test_an_export_to_a_pipe_is_written_into_it(filled: Path) -> None:
    pipe = filled.parent / "pipe"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "sagalog", "export", "pipe", "--force", "--journal", "sqlite:///orders.db"]
    with (
        subprocess.Popen(
            command, cwd=filled.parent, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as exporting,
        open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as reader,
    ):
        os.set_blocking(reader.fileno(), True)
        assert exporting.wait(60) == 0
        assert reader.read(12) == b'{"sagalog":"'
    assert pipe.is_fifo()


def test_an_export_through_a_link_leaves_the_link(filled: Path) -> None:
    target, link = filled.parent / "target.jsonl", filled.parent / "link.jsonl"
    target.write_text("older")
    link.symlink_to(target)
    command = [sys.executable, "-m", "sagalog", "export", "link.jsonl", "--force", "--journal", "sqlite:///orders.db"]
    subprocess.run(command, cwd=filled.parent, env=ENVIRONMENT, check=True, timeout=60, capture_output=True)
    assert link.is_symlink()
    assert target.read_text().startswith('{"sagalog":"')


def test_no_command_overwrites_a_journal(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(filled.parent)
    (filled.parent / "link.jsonl").symlink_to(filled)
    before = filled.read_bytes()
    for arguments in (
        "export orders.db --force",
        "export orders.db",
        "export orders.db-wal --force",
        "export link.jsonl --force",
        "diagram tests.orders:OrderSaga --svg orders.db",
    ):
        done = CliRunner().invoke(group.sagalog, arguments.split(), env={"SAGALOG_JOURNAL": "sqlite:///orders.db"})
        assert (done.exit_code, "is a database, and is not overwritten" in done.stderr) == (1, True), arguments
        assert filled.read_bytes() == before


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
        ("list --saga=", "--saga"),
        ("export x.jsonl --saga=", "--saga"),
        ("purge --older-than 0s --saga= --yes", "--saga"),
        ("cancel --why= --yes", "--why"),
        ("cancel --status parked --id-has= --yes", "--id-has"),
        ("retry --phase= --yes", "--phase"),
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


WITH_URL = [
    "health URL",
    "health URL --json",
    "list --journal URL URL",
    "list --older-than URL",
    "list --where URL",
    "list --code URL --journal sqlite:///orders.db",
    "show URL --journal sqlite:///orders.db",
    "export URL --journal sqlite:///orders.db",
    "import URL --journal sqlite:///orders.db",
    "worker URL",
    "worker tests.orders:OrderSaga URL",
    "worker tests.orders:OrderSaga --http URL",
    "run tests.orders:OrderSaga --events URL",
    "simulate URL",
    "URL",
    "health http://shop:p.w@127.0.0.1:1/",
    "health http://127.0.0.1:1/?token=p.w",
]


def test_a_password_in_the_wrong_place_is_not_printed(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(filled.parent)
    urls = ("postgresql://shop:p.w@db/shop", "nats://u:p.w/@a,u:p@p.w@b", "tls://p.w@b")
    for url, arguments in product(urls, WITH_URL):
        done = CliRunner().invoke(group.sagalog, arguments.replace("URL", url).split(), env={"SAGALOG_JOURNAL": None})
        assert (arguments, done.exit_code in (1, 2), "p.w" in done.output) == (arguments, True, False), done.output


def test_a_url_in_the_wrong_place_is_told_the_right_one() -> None:
    for command in ("health", "worker"):
        done = CliRunner().invoke(group.sagalog, [command, "postgresql://shop@db/shop"])
        assert (done.exit_code, "a journal's" in done.stderr, "goes behind --journal" in done.stderr) == (2, True, True)


@pytest.mark.parametrize(
    ("command", "ends"),
    [
        ("check leaving:runner", "sys.exit(0)"),
        ("check leaving.py:runner", "sys.exit(0)"),
        ("worker leaving:runner", "sys.exit()"),
        ("list --code leaving:runner", "sys.exit(0)"),
        ("diagram leaving:runner", "sys.exit('bye')"),
        ("simulate leaving:runner", "sys.exit(0)"),
        ("check leaving:runner", "raise GeneratorExit"),
    ],
)
def test_a_module_that_ends_the_process_at_its_import_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, ends: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "leaving.py").write_text(f"import sys\nrunner = None\n{ends}\n")
    (tmp_path / "orders.db").touch()
    done = CliRunner().invoke(group.sagalog, command.split(), env={"SAGALOG_JOURNAL": "sqlite:///orders.db"})
    assert done.exit_code == 2
    assert f"importing {command.split()[-1].partition(':')[0]} failed: " in done.stderr


def test_ctrl_c_has_an_exit_code_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sagalog.cli.stats._stats", interrupted)
    done = CliRunner().invoke(group.sagalog, ["stats", "--journal", "sqlite:///any.db"])
    assert done.exit_code == 130
    assert "stopped" in done.output
