"""Write the reference pages from the code: the tables of names, the settings, the command line.

    python scripts/reference_pages.py [--check]

`make docs` adds to the tables what each name is in full. `--check` changes nothing; exit code 1 if a page is stale.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from datetime import timedelta
from pathlib import Path

import click
from msgspec.structs import fields

from sagalog import RetryPolicy, RunnerSettings, Saga
from sagalog.cli.group import COMMANDS, sagalog
from sagalog.journal.nats import _SETTINGS as NATS
from sagalog.journal.postgres import _SETTINGS as POSTGRESQL
from sagalog.journal.sqlite import _SETTINGS as SQLITE

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
NAMES = re.compile(r"(<!-- names: ([^\n]+) -->\n).*?(<!-- end of names -->)", re.S)
WIDTH = 100
SHORT = 25  # characters: a first sentence that says nothing by itself


def promise(name: str) -> str:
    """Return the first sentence of what a public name says of itself."""
    module, _, last = name.rpartition(".")
    found = getattr(importlib.import_module(module), last)
    text = SAID.get(name) or inspect.getdoc(found) or ""
    if not text or not callable(found):
        text = SAID[name]
    sentences = re.split(r"(?<=[.!?]) (?=[A-Z`])", " ".join(text.partition("\n\n")[0].split()))
    said = " ".join(sentences[:2]) if len(sentences[0]) < SHORT else sentences[0]
    return said.replace("|", "\\|")


def with_tables(page: str) -> str:
    """Return a page whose lists of names stand before the tables of them."""

    def made(match: re.Match[str]) -> str:
        rows = [f"| `{name}` | {promise(name)} |" for name in match[2].split()]
        return "\n".join([match[1], "| name | what it is |", "| --- | --- |", *rows, "", match[3]])

    return NAMES.sub(made, page)


def shown(value: object) -> str:
    """Return a default as a reader would write it."""
    if isinstance(value, timedelta):
        if value and not value % timedelta(days=1):
            return f"{value.days} days"
        return f"{value.total_seconds():g} s"
    if isinstance(value, RetryPolicy):
        tries = "without end" if value.attempts is None else f"{value.attempts} attempts"
        return f"{tries}, from {shown(value.base)} to {shown(value.cap)}"
    if type(value) is int:
        return f"{value:,}"
    return "none" if value is None else str(value) or '""'


def explained(cls: type) -> dict[str, str]:
    """Return the comment of each field: behind it, or on the lines above."""
    found: dict[str, str] = {}
    above: list[str] = []
    for line in inspect.getsource(cls).splitlines():
        if comment := re.fullmatch(r" *# (.+)", line):
            above.append(comment[1])
        elif field := re.match(r"    (\w+): [^=#]+=(?:.*?  # (.+))?", line):
            found[field[1]] = field[2] or " ".join(above)
            above = []
    return found


def settings() -> str:
    """Return the page of all settings."""
    said = explained(RunnerSettings)
    out = [
        "# Settings",
        "",
        "<!-- Written by scripts/reference_pages.py from the code. -->",
        "",
        "## RunnerSettings",
        "",
        "`SagaRunner(..., settings=RunnerSettings(...))`. [Tuning](../how-to/tuning.md) says which to change, and when.",
        "Durations that you give are a `timedelta` everywhere; options of the command line and settings in URLs are",
        "numbers, in seconds. What is measured (metrics, `Health`, hooks) is in seconds, as its name says.",
        "",
        "| setting | default | meaning |",
        "| --- | --- | --- |",
    ]
    for field in fields(RunnerSettings):
        meaning = said.get(field.name) or SAID[field.name]
        out.append(f"| `{field.name}` | {shown(getattr(RunnerSettings(), field.name))} | {meaning} |")
    out += ["", "## RetryPolicy", "", inspect.getdoc(RetryPolicy) or "", ""]
    out += ["| setting | default | meaning |", "| --- | --- | --- |"]
    out += [f"| `{one.name}` | {shown(one.default)} | {SAID[one.name]} |" for one in fields(RetryPolicy)]
    out += ["", "## Class attributes of a saga", "", "| attribute | default | meaning |", "| --- | --- | --- |"]
    for name, meaning in OF_A_SAGA.items():
        out.append(f"| `{name}` | {shown(vars(Saga)[name]) if name in vars(Saga) else 'required'} | {meaning} |")
    out += ["", *JOURNALS]
    return "\n".join([*out, ""])


SAID = {  # where the code has no docstring
    "sagalog.Action": "Any of the actions.",
    "sagalog.Actions": "What a handler returns: nothing, an action, or some of them; also as a generator.",
    "sagalog.journal.MAX_SEQUENCE_NR": "The highest sequence number that a journal keeps.",
    "sagalog.testing.simulation.FAULTS": "The names of all faults that a simulation injects.",
    "sagalog.testing.simulation.ESSENTIAL": "The faults that every simulation should have met.",
    "attempts": "all tries, with the first one; none: without end",
    "base": "the longest wait before the second try",
    "cap": "the longest wait before any try",
    "no_instance": "what happens to an event that finds no instance and may not start one: `ignore`, `raise` or `wait`",
    "no_instance_wait": "with `wait`: how long such an event waits for a starting event",
    "handler_retry": "how often a saga's handler that raises is tried again, before the instance is parked",
    "dispatch_retry": "how often a command that was not accepted is delivered again, unless its type has its own policy",
}
OF_A_SAGA = {
    "name": "stored with every instance; must not change",
    "messages": "types in stored data that the handlers do not name themselves: types, unions of types, modules",
    "remembered_messages": "how many message ids a live instance remembers, at most",
    "remembered_for": "how long a live instance remembers a message id",
    "phases": "an Enum of the states that the saga goes through: [phases](../phases.md)",
    "initial_phase": "the phase of a new instance; by default the first",
    "unexpected": "what happens to an event that the phase does not expect: `raise`, `ignore` or `keep`",
    "most_kept": "how many events may wait in one record for their moment",
    "index": "fields of the state by which `runner.find` finds live instances: [asking](../asking.md)",
    "keys": "texts besides the correlation id by which events reach instances",
}
IN_URLS = {"SQLite": SQLITE, "PostgreSQL": POSTGRESQL, "NATS": NATS}
JOURNALS = [
    "## In a journal's URL",
    "",
    "[Which journal](../journals.md) says what each of them means. In a URL a duration is a number, with its unit in the",
    "name.",
    "",
    "| journal | settings |",
    "| --- | --- |",
    *(f"| {name} | {', '.join(f'`{one}`' for one in known)} |" for name, known in IN_URLS.items()),
    "",
    "## Environment",
    "",
    "| variable | meaning |",
    "| --- | --- |",
    "| `SAGALOG_JOURNAL` | the journal of a command without `--journal`; keeps a password out of the list of processes |",
    "| `SAGALOG_CODE` | the runner whose code `list`, `show`, `stats` and `doctor` read states and messages with |",
    "| `SAGALOG_TOKEN` | a token of `sagalog serve` that allows everything |",
    "| `SAGALOG_DASHBOARD_TOKEN` | the token of `sagalog dashboard` |",
]


def command_line() -> str:
    """Return the page of all commands."""
    out = [
        "# Command line",
        "",
        "<!-- Written by scripts/reference_pages.py from the code. -->",
        "",
        "The pages about [operating](../operating/README.md) show each command at work.",
        "",
        "```text",
        "Exit codes:",
        *(inspect.getdoc(sagalog.callback) or "").partition("Exit codes:\n")[2].splitlines(),
        "```",
        "",
    ]
    for name in sorted(COMMANDS):
        command = sagalog.get_command(click.Context(sagalog), name)
        assert command is not None
        context = click.Context(
            command, info_name=f"sagalog {name}", terminal_width=WIDTH, help_option_names=["-h", "--help"]
        )
        out += [f"## {name}", "", COMMANDS[name], "", "```text", command.get_help(context).rstrip(), "```", ""]
    return "\n".join(out)


def pages() -> dict[Path, str]:
    """Return every page that this script writes, as it should be."""
    made = {page: with_tables(page.read_text()) for page in sorted(FOLDER.glob("*.md"))}
    made[FOLDER / "settings.md"] = settings()
    made[FOLDER / "command-line.md"] = command_line()
    return made


if __name__ == "__main__":
    stale = [page for page, text in pages().items() if not page.exists() or page.read_text() != text]
    for page in stale:
        print(page.name)
        if "--check" not in sys.argv:
            page.write_text(pages()[page])
    sys.exit("--check" in sys.argv and bool(stale))
