"""What the pages in docs/ show is run, and prints what it says.

SAGALOG_WRITE_DOCS=1 writes the simulation's story anew: its milliseconds change with what a runner waits for.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

import click
import pytest

from sagalog.cli.group import COMMANDS, sagalog

from ..servers.nats import Nats
from .test_readme import ROOT, run, run_program

PAGES = sorted((ROOT / "docs").rglob("*.md"))


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(), re.S)


def printed(folder: Path, code: str, **environment: str) -> str:
    """Run the code of a page, and return what it prints."""
    (folder / "shown.py").write_text(code)
    done = run_program(folder, "shown.py", **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "page",
    [
        *(
            "answers-in-time.md",
            "asking.md",
            "children.md",
            "itineraries.md",
            "joins.md",
            "keys.md",
            "numbered-events.md",
            "phases.md",
            "stored-types.md",
        ),
        "recurring-times.md",
    ],
)
def test_each_program_on_a_page_prints_what_stands_behind_it(page: str, tmp_path: Path) -> None:
    for code, expected in zip(blocks(page, "python"), blocks(page, "text"), strict=True):
        assert printed(tmp_path, code) == expected


@pytest.mark.parametrize("page", ["synchronous-code.md", "web.md", "transactions.md"])
def test_the_first_program_of_a_page_prints_what_stands_behind_it(page: str, tmp_path: Path) -> None:
    assert printed(tmp_path, blocks(page, "python")[0]) == blocks(page, "text")[0]


def test_a_step_within_a_transaction_does_what_the_page_says(postgres_schema: str, tmp_path: Path) -> None:
    (code,) = blocks("journals.md", "python")
    (expected,) = blocks("journals.md", "text")
    url, _, query = postgres_schema.partition("?")
    schema = query.partition("&")[0].partition("=")[2]
    code = code.replace("?migrate=true", f"?migrate=true&schema={schema}").replace("TABLE", "TEMPORARY TABLE")
    assert printed(tmp_path, code, DATABASE_URL=url) == expected


def test_events_come_from_a_broker_as_the_page_says(tmp_path: Path) -> None:
    server = Nats(tmp_path / "nats", servers=1)
    server.start()
    try:
        code = [one for one in blocks("brokers.md", "python") if "BrokerConformance" not in one]
        for shown, expected in zip(code, blocks("brokers.md", "text"), strict=True):
            assert printed(tmp_path, shown, NATS_URL=server.url) == expected
    finally:
        server.stop()


def test_a_second_start_is_declined_as_the_page_says(tmp_path: Path) -> None:
    window, code = blocks("message-ids.md", "python")
    (expected,) = blocks("message-ids.md", "text")
    before = "from dataclasses import dataclass\nfrom datetime import timedelta\nfrom sagalog import Saga, starts\n\n\n"
    reading = "@dataclass\nclass Reading:\n    meter: str = ''\n\n\n"
    handler = "\n    @starts(Reading, key='meter')\n    def read(self, state, event): ...\n"
    printed(tmp_path, before + reading + window + handler)
    assert printed(tmp_path, code) == expected


def test_each_shape_does_what_its_picture_says(tmp_path: Path) -> None:
    shapes, expected = blocks("which-shape.md", "python"), blocks("which-shape.md", "text")
    assert (
        len(shapes) == len(blocks("which-shape.md", "mermaid")) - 1
    )  # the second one's program stands on a page of its own
    told = [printed(tmp_path, code) for code in shapes]
    assert [text for text in told if text] == expected


def test_the_pictures_of_the_examples_are_what_the_command_draws(tmp_path: Path) -> None:
    targets = ("examples.trip:TripSaga", "examples.subscription:SubscriptionSaga")
    drawn = [
        run(ROOT, sys.executable, "-m", "sagalog", "diagram", target, PYTHONPATH=str(ROOT)).stdout for target in targets
    ]
    assert [picture.strip() for picture in blocks("examples.md", "mermaid")] == [picture.strip() for picture in drawn]


def test_the_journal_that_the_page_writes_is_one(tmp_path: Path) -> None:
    (tmp_path / "test_file_journal.py").write_text("\n".join(blocks("writing-a-journal.md", "python")))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")  # none of this project's settings
    done = run(tmp_path, sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "the capability SHARED is not named" in done.stdout
    assert "the capability TRANSACTIONS is not named" in done.stdout
    assert " passed" in done.stdout


# What a program may use, and what `pip install` has to name for it.
INSTALLED = {
    r"^from (starlette|sagalog\.web) ": r"web|serve|dashboard",
    r"^import httpx": r"httpx|serve",
    r"^from (nats|sagalog\.brokers\.nats)[. ]": "nats",
    r"^import asyncpg": "postgres",
    r"^from prometheus_client ": "prometheus",
    r"^from opentelemetry[. ]": "otel",
    r"^from sagalog\.dashboard ": "dashboard",
    r"\bcron=\"": "cron",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT / "docs").as_posix())
def test_a_page_says_what_to_install_for_its_programs(page: Path) -> None:
    text = page.read_text()
    said = " ".join(re.findall(r"pip install [^`\n]*", text))
    for program in re.findall(r"```python\n(.*?)```", text, re.S):
        for used, needed in INSTALLED.items():
            if re.search(used, program, re.M):
                assert re.search(rf"\b({needed})\b", said), f"{used} needs pip install {needed}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT / "docs").as_posix())
def test_every_command_on_a_page_exists_and_takes_what_it_is_given(page: Path) -> None:
    text = page.read_text()
    shell = "\n".join(re.findall(r"```(?:sh|console)\n(.*?)```", text, re.S))
    typed = re.findall(r"^(?:\$ )?sagalog (\w.*)", shell, re.M)
    named = re.findall(r"`sagalog ([a-z][^`\n]*)`", re.sub(r"```.*?```", "", text, flags=re.S))
    for line in [*typed, *named]:
        line = re.sub(r" (#|>|\||&).*", "", line)
        name, *words = shlex.split(line)
        assert name in COMMANDS, line
        command = sagalog.get_command(click.Context(sagalog), name)
        assert command is not None
        options = {name: one for one in command.params for name in [*one.opts, *one.secondary_opts]}
        given = iter(words)
        positional = []
        for word in given:
            option = word.partition("=")[0]
            if not word.startswith("--"):
                positional.append(word)
            elif option != "--help":
                assert option in options, f"sagalog {name} has no {option}: {line}"
                if not getattr(options[option], "is_flag", False) and "=" not in word:
                    next(given, None)
        arguments = [one for one in command.params if isinstance(one, click.Argument)]
        most = 99 if any(one.nargs < 0 for one in arguments) else len(arguments)
        assert len(positional) <= most, f"sagalog {name} takes {most} words: {line}"


@pytest.mark.timeout(300)
def test_the_tests_on_the_testing_page_pass_and_fail_as_shown(tmp_path: Path) -> None:
    late = (
        "\n\ndef test_late():\n    order = Scenario(OrderSaga).given(OrderPlaced('A-1'))\n"
        "    order.after(timedelta(minutes=15)).when(PaymentReceived('A-1')).then(sent=[ShipOrder('A-1')])\n"
    )
    _write_the_testing_page(tmp_path, late)
    done = run(tmp_path, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert "1 failed, 6 passed" in done.stdout, done.stdout[-3000:]
    said = "\n".join(line.removeprefix("E").strip() for line in done.stdout.splitlines() if line.startswith("E  "))
    (expected,) = blocks("testing.md", "text")
    for line in expected.splitlines():
        assert line.strip() in said, f"{line!r} is not in:\n{said}"


def test_the_operating_pages_show_what_their_commands_print() -> None:
    done = run(ROOT, sys.executable, "scripts/operating_pages.py", "--check", PYTHONPATH=str(ROOT / "src"))
    assert done.returncode == 0, (
        f"run scripts/operating_pages.py, and look at what it changes:\n{done.stdout}{done.stderr}"
    )


@pytest.mark.timeout(300)
def test_the_bug_on_the_testing_page_is_found_as_shown_and_told_again_by_its_last_line(tmp_path: Path) -> None:
    _write_the_testing_page(tmp_path)
    (shown,) = blocks("testing.md", "console")
    command, _, expected = shown.partition("\n")
    found = run(tmp_path, sys.executable, "-m", *command.removeprefix("$ ").split())
    if os.environ.get("SAGALOG_WRITE_DOCS"):
        page = ROOT / "docs" / "testing.md"
        page.write_text(page.read_text().replace(expected.strip(), found.stdout.strip()))
        expected = found.stdout
    assert (found.returncode, found.stdout.strip()) == (1, expected.strip())
    again = expected.strip().rpartition("to run it again: ")[2]
    told = run(tmp_path, sys.executable, "-m", *again.split())
    assert told.returncode == 1
    assert expected.strip().partition("\n\nto run it again")[0] in told.stdout


def _write_the_testing_page(folder: Path, more: str = "") -> None:
    own = [code for code in blocks("testing.md", "python") if not code.startswith("# ")]
    (folder / "test_order.py").write_text("\n".join(own) + more)
    (other,) = [code for code in blocks("testing.md", "python") if code.startswith("# ")]
    (folder / other.partition("\n")[0].removeprefix("# ")).write_text(other)
    (folder / "pytest.ini").write_text("[pytest]\n")
