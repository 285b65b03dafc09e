from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sagalog import SagaRunner, SqliteJournal
from sagalog.cli.group import sagalog as command
from sagalog.decision.record import SagaRecord, decode_record

from ..orders import Failing, Noted, OrderSaga, Placed
from .conftest import ROOT, Sagalog

URL = ("--journal", "sqlite:///orders.db")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, [*arguments, *URL])


def record(key: str, saga: str = "order") -> SagaRecord:
    async def read() -> SagaRecord:
        async with SqliteJournal("orders.db") as journal:
            message = await journal.latest_message(f"saga::{saga}::{key}")
            assert message is not None
            return decode_record(message.payload)

    return asyncio.run(read())


def state(key: str) -> Any:
    return json.loads(record(key).state_bytes())


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), **more}


def on_a_terminal(folder: Path, *arguments: str, answers: str, **environment: str) -> tuple[int, str]:
    """Run the command line on a terminal of its own; return its exit code and what the terminal shows."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "sagalog", *arguments, *URL],
        cwd=folder,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=_environment(**environment),
    )
    os.close(slave)
    os.write(master, answers.encode())
    shown = b""
    while True:
        try:
            shown += os.read(master, 4096)
        except OSError:  # the terminal is closed at its other end
            break
    os.close(master)
    return process.wait(30), shown.decode()


def test_retry_says_what_will_happen_and_leaves_the_replay_to_a_worker(here: Path) -> None:
    done = run("retry", "parked", "--yes", "--note", "it is fixed")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == (
        "order parked\n  replays 2 held messages, in the order they came: Failing (m4), Noted (m5)\n"
        "1 instance repaired; a running worker takes it from there\n"
    )
    repaired = record("parked")
    assert (repaired.parked, len(repaired.held)) == ("", 2)
    assert [(one.action, one.note, one.by) for one in repaired.audit] == [("retry", "it is fixed", "ada")]
    assert "retry by ada: it is fixed" in run("history", "parked").stdout
    assert "a running worker replays soon what is held" in run("show", "parked").stdout

    async def work() -> None:
        async with SagaRunner("sqlite:///orders.db", sagas=[OrderSaga], dispatch=lambda command: None) as runner:
            await runner.settle()

    asyncio.run(work())
    assert state("parked")["log"] == ["placed", "recovered", "later"]


@pytest.mark.parametrize("name", ["retry", "skip", "cancel"])
def test_without_a_terminal_nothing_is_repaired_unless_asked_with_yes(here: Path, name: str) -> None:
    before = record("parked")
    done = run(name, "parked")
    assert done.exit_code == 2
    assert "there is no terminal to ask for confirmation: add --yes" in done.stderr
    dry = run(name, "parked", "--dry-run")
    assert dry.exit_code == 0
    assert "dry run: 1 instance would be repaired; nothing was changed" in dry.stdout
    assert record("parked") == before


def test_on_a_terminal_the_operator_is_asked(here: Path) -> None:
    code, shown = on_a_terminal(here, "skip", "parked", answers="n\n")
    assert code == 1
    assert "drops the held Failing, message m4; it counts as consumed" in shown
    assert "Skip: 1 instance? [y/N]" in shown
    assert len(record("parked").held) == 2
    code, shown = on_a_terminal(here, "skip", "parked", "--by", "eve", answers="y\n")
    assert code == 0
    assert [held.id for held in record("parked").held] == ["m5"]
    assert [audit.by for audit in record("parked").audit] == ["eve"]


def test_cancel_as_it_stands_and_with_compensation(here: Path) -> None:
    done = run("cancel", "parked", "--no-compensate", "--yes")
    assert "ends the instance as it stands" in done.stdout
    assert "takes it from there" not in done.stdout
    assert record("parked").status.value == "cancelled"
    assert "sends Refund, Release, last in first out" in run("cancel", "running", "--yes").stdout
    assert record("running").status.value == "compensating"


def test_a_selection_repairs_in_bulk_and_names_what_failed(here: Path) -> None:
    async def more() -> None:
        async with SagaRunner("sqlite:///orders.db", sagas=[OrderSaga], dispatch=lambda command: None) as runner:
            for number in range(14):
                await runner.handle(Placed(f"p{number}"))
        async with SqliteJournal("orders.db") as journal:
            from sagalog import JournalSagaStateStore

            await JournalSagaStateStore(journal, "loan").save("broken", b"{")

    asyncio.run(more())
    done = run("cancel", "--newer-than", "1h", "--id-has", "p", "--yes", "--dry-run")
    assert "... (--dry-run --json shows all)" in done.stdout
    assert "dry run: 15 instances would be repaired" in done.stdout
    done = run("cancel", "--newer-than", "1h", "--id-has", "p", "--yes", "--no-compensate")
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "15 instances repaired")
    done = run("retry", "--status", "unreadable", "--yes")
    assert done.exit_code == 1
    assert done.stderr.startswith("loan broken: SagaParkedError: ")
    assert done.stdout == "0 instances repaired, 1 could not be\n"


def test_several_ids_are_repaired_and_the_unknown_one_is_named(here: Path) -> None:
    done = run("retry", "parked", "nobody", "--yes")
    assert done.exit_code == 1
    assert "nobody: no instance of any saga has the id" in done.stderr
    assert "1 instance repaired, 1 could not be" in done.stdout
    rows = [json.loads(row) for row in run("retry", "parked", "nobody", "--yes", "--json").stdout.splitlines()]
    assert rows[1]["error"].startswith("no instance")  # in the order in which they are named
    assert (rows[0]["changes"], rows[0]["effects"][0][:21]) == (False, "nothing: it is repair")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("retry", "running", "--yes"), 0, "nothing: it is not parked, it is running"),
        (("retry", "nobody", "--yes"), 1, "no instance of any saga has the id 'nobody'"),
        (("retry", "finished", "--yes"), 1, "NoInstanceError: saga 'order', id 'finished': it has ended; nothing"),
        (("retry", "--yes"), 2, "which instances? Give their ids,"),
        (("retry", "parked", "--status", "parked"), 2, "not both"),
        (("retry", "--status", "compensating", "--yes"), 0, "0 instances repaired"),
        (("resend", "running", "9/9", "--yes"), 1, "is not a command in the kept history"),
        (("resend", "nobody", "1/0", "--yes"), 1, "no instance of any saga"),
        (("edit", "shop:runner", "running"), 2, "there is no terminal for an editor"),
        (("edit", "shop:not_a_runner", "running"), 2, "is of type int, not SagaRunner"),
    ],
)
def test_what_cannot_be_repaired_is_told(here: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    done = run(*arguments)
    assert message in done.stdout + done.stderr
    assert done.exit_code == code
    assert "Traceback" not in done.stderr


def test_resend_finds_the_command_in_history(here: Path) -> None:
    assert "sent Reserve as 1/0" in run("history", "finished").stdout
    done = run("resend", "finished", "1/0", "--yes")
    assert "sends Reserve (1/0) again, under the same id" in done.stdout
    assert [entry.id for entry in record("finished").outbox] == ["1/0"]
    assert "is in the outbox already" in run("resend", "finished", "1/0", "--yes").stderr


def editor(folder: Path, script: str) -> str:
    """Return a command for $EDITOR that runs `script` with the file's `text`."""
    path = folder / "editor.py"
    path.write_text(
        "import pathlib, subprocess, sys\npath = pathlib.Path(sys.argv[1])\ntext = path.read_text()\n"
        f"{script}\npath.write_text(text)\n"
    )
    return f"{sys.executable} {path}"


def test_edit_checks_the_state_and_saves_it_against_what_was_shown(here: Path) -> None:
    code, shown = on_a_terminal(
        here,
        *("edit", "shop:runner", "running", "--note", "wrong total"),
        answers="y\n",
        EDITOR=editor(here, "text = text.replace('7', '9')"),
    )
    assert code == 0, shown
    assert "total: 7 -> 9" in shown
    assert state("running")["total"] == 9
    assert [(one.action, one.note) for one in record("running").audit] == [("edit", "wrong total")]


def test_an_edit_that_the_saga_cannot_read_can_be_done_again_and_is_not_saved(here: Path) -> None:
    twice = "text = text.replace('7', '\"seven\"') if '7' in text else text.replace('\"seven\"', '8')"
    code, shown = on_a_terminal(here, "edit", "shop:runner", "running", answers="y\ny\n", EDITOR=editor(here, twice))
    assert code == 0, shown
    assert "saga order cannot read it: stored JSON is not a valid OrderState: Expected `int`, got `str`" in shown
    assert "Edit again? [Y/n]" in shown
    assert state("running")["total"] == 8
    before = record("running")
    code, shown = on_a_terminal(
        here, "edit", "shop:runner", "running", answers="n\n", EDITOR=editor(here, "text = text + '}'")
    )
    assert (code, "it is not JSON" in shown, record("running") == before) == (1, True, True)
    code, shown = on_a_terminal(here, "edit", "shop:runner", "running", answers="", EDITOR=editor(here, ""))
    assert (code, "unchanged; nothing was saved" in shown) == (0, True)


def test_a_step_during_the_edit_is_not_overwritten(here: Path) -> None:
    retried = f"subprocess.run([sys.executable, '-m', 'sagalog', 'retry', 'parked', '--yes', *{URL!r}], check=True)"
    code, shown = on_a_terminal(
        here,
        *("edit", "shop:runner", "parked"),
        answers="y\n",
        EDITOR=editor(here, f"text = text.replace('1', '5')\n{retried}"),
    )
    assert code == 1
    assert re.search(r"has moved on since version \d+ was shown; nothing was saved", shown)
    kept = shown.replace("\r\n", "").partition("kept in ")[2].partition(".json")[0].strip()
    assert json.loads(Path(f"{kept}.json").read_text())["total"] == 5
    Path(f"{kept}.json").unlink()
    assert state("parked")["total"] == 1


def test_edit_takes_the_state_from_a_file_too(here: Path) -> None:
    (here / "state.json").write_text('{"total": 3}')
    dry = run("edit", "shop:runner", "running", "--from", "state.json", "--dry-run")
    assert "total: 7 -> 3" in dry.stdout
    assert state("running")["total"] == 7
    assert run("edit", "shop:runner", "running", "--from", "state.json", "--yes").exit_code == 0
    assert (state("running")["total"], state("running")["log"]) == (3, [])
    (here / "state.json").write_text('{"total": []}')
    bad = run("edit", "shop:runner", "running", "--from", "state.json", "--yes")
    assert (bad.exit_code, "nothing was saved" in bad.stderr) == (1, True)


def test_ids_and_names_cannot_control_the_terminal(here: Path) -> None:
    evil = "evil\x1b[2J[bold red]\u202e\r\n"

    async def park() -> None:
        OrderSaga.fail_times = 99
        async with SagaRunner("sqlite:///orders.db", sagas=[OrderSaga], dispatch=lambda command: None) as runner:
            await runner.handle(Failing(evil), message_id="\x1b[31m")
            await runner.handle(Noted(evil), message_id="\x07")
        OrderSaga.fail_times = 0

    asyncio.run(park())
    for arguments in (
        ("skip", evil, "--dry-run"),
        ("skip", evil, "--dry-run", "--json"),
        ("retry", evil, "--yes", "--note", "\x1b[2J"),
        ("history", evil),
        ("history", evil, "--json"),
        ("show", evil, "--json"),
        ("list", "--json"),
    ):
        done = run(*arguments)
        printed = done.stdout + done.stderr
        assert r"\x1b" in printed or r"\u001b" in printed
        assert all(c.isprintable() or c == "\n" for c in printed)


def test_a_journal_that_is_down_is_named() -> None:
    done = CliRunner().invoke(
        command, ["retry", "x", "--yes", "--journal", "postgresql://nobody@127.0.0.1:1/x?connect_seconds=0.2"]
    )
    assert done.exit_code == 1
    assert "JournalUnavailableError" in done.stderr


def test_every_command_has_examples_in_its_help(capsys: Any) -> None:
    from sagalog.cli.group import COMMANDS

    for name in COMMANDS:
        done = CliRunner().invoke(command, [name, "--help"])
        assert done.exit_code == 0
        assert "Example" in done.stdout or name == "demo", name


def test_the_shell_completes_commands_and_options(sagalog: Sagalog) -> None:
    done = sagalog(_SAGALOG_COMPLETE="bash_complete", COMP_WORDS="sagalog re", COMP_CWORD="1")
    assert {"plain,resend", "plain,retry"} <= set(done.stdout.split())
    assert "_sagalog_completion" in sagalog(_SAGALOG_COMPLETE="bash_source").stdout


OLD = """
from dataclasses import dataclass
from sagalog import Saga, SagaRunner, starts

@dataclass
class Began:
    key: str

@dataclass
class State:
    euros: int = 7

class Old(Saga[State]):
    name = "versioned"

    @starts(Began, key="key")
    def began(self, state, event):
        pass

runner = SagaRunner("sqlite:///orders.db", sagas=[Old])
"""
NEW = OLD.replace("Saga, SagaRunner, starts", "Saga, SagaRunner, schema, starts, upcast").replace(
    "@dataclass\nclass State:\n    euros: int = 7\n",
    "@schema(version=2)\n@dataclass\nclass State:\n    cents: int = 700\n\n\n"
    "@upcast(State, from_version=1)\ndef cents(old):\n    return {'cents': old['euros'] * 100}\n",
)


def test_a_state_of_an_older_version_is_edited_as_the_new_code_reads_it(here: Path) -> None:
    (here / "old.py").write_text(OLD)
    (here / "new.py").write_text(NEW)
    start = (
        "import asyncio, old\nasync def main():\n    async with old.runner as r:\n        await r.handle(old.Began('x'))\n"
        "asyncio.run(main())\n"
    )
    subprocess.run([sys.executable, "-c", start], cwd=here, check=True, env=_environment())
    code, shown = on_a_terminal(
        here, "edit", "new.py:runner", "x", answers="y\n", EDITOR=editor(here, "text = text.replace('700', '705')")
    )
    assert code == 0, shown
    assert "euros: gone, was 7" in shown
    assert "cents: new, 705" in shown
    assert (record("x", "versioned").state_version, record("x", "versioned").state_bytes()) == (2, b'{"cents":705}')
    refused = on_a_terminal(here, "edit", "old.py:runner", "x", answers="", EDITOR=editor(here, ""))
    assert refused[0] == 1
    assert "this code cannot read the state" in refused[1]
