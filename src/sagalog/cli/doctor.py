"""`sagalog doctor URL`: is this journal well, and is everything in it taken care of?"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import click

from ..decision.controls import by_whom
from ..decision.ids import FAMILY
from ..errors import CodecError, SagalogError
from ..journal import Journal
from ..journal.circuits import open_circuits
from ..journal.controls import read_controls
from ..journal.protocol import ExaminesItself, Finding, TellsTime
from ..operating.inspect import OVERDUE_AFTER, SagaView
from ..operating.outbox import LONG
from ..operating.stats import stats
from .durations import spoken
from .journals import reading
from .progress import Counting
from .targets import code_option, seen_by
from .text import json_line, line

_MAX_DUE = 1000
_SKEW = timedelta(seconds=1)


@click.command("doctor")
@click.argument("url", metavar="URL", envvar="SAGALOG_JOURNAL")
@click.option("--quick", is_flag=True, help="Do not read every record; parked instances are not counted.")
@click.option("--strict", is_flag=True, help="Warnings count as failures.")
@code_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def doctor_(url: str, quick: bool, strict: bool, code: str | None, as_json: bool) -> None:
    """Check a journal: can it be reached, is it durable, do the clocks agree, is due work taken, is anything parked?

    Prints ok, warn or fail for each, and what to do. Changes nothing. Exit code 1 if a line says fail (with --strict: or
    warn). The URL may come from SAGALOG_JOURNAL.

    \b
    Examples:
      sagalog doctor sqlite:///orders.db
      sagalog doctor postgresql://reader@db/shop --quick --strict
    """
    worst = asyncio.run(_doctor(url, quick, seen_by(code), as_json))
    sys.exit(1 if worst == "fail" or (strict and worst == "warn") else 0)


async def _doctor(url: str, quick: bool, seen: Callable[[SagaView], SagaView], as_json: bool) -> str:
    levels = set()
    for finding in await _findings(url, quick, seen):
        levels.add(finding.level)
        if as_json:
            click.echo(json_line(finding))
        else:
            click.echo(f"{finding.level:<4}  {finding.name:<14} {line(finding.text)}")
            if finding.remedy:
                click.echo(f"{'':<21}-> {line(finding.remedy)}")
    return next((level for level in ("fail", "warn") if level in levels), "ok")


async def _findings(url: str, quick: bool, seen: Callable[[SagaView], SagaView]) -> list[Finding]:
    found: list[Finding] = []
    try:
        async with reading(url) as journal:
            await journal.open()
            found.append(Finding("reachable", "ok", "it answers"))
            found += await journal.examine() if isinstance(journal, ExaminesItself) else [_unexamined()]
            now, skew = await _clock(journal)
            found.append(skew)
            found.append(await _due(journal, now))
            found.append(await _paused(journal, now))
            found.append(await _away(journal, now))
            found += [] if quick else await _instances(journal, now, seen)
    except click.ClickException as error:
        found.append(Finding("reachable", "fail", error.message))
    except SagalogError as error:
        name = "reachable" if not found else "answering"
        found.append(Finding(name, "fail", f"{type(error).__name__}: {error}"))
    return found


def _unexamined() -> Finding:
    return Finding("durable", "warn", "this journal cannot examine itself", "ask its author how far it is durable")


async def _clock(journal: Journal) -> tuple[datetime, Finding]:
    before = datetime.now(UTC)
    if not isinstance(journal, TellsTime):
        return before, Finding("clock", "ok", "this machine's clock; there is no server to compare with")
    told = await journal.server_time()
    after = datetime.now(UTC)
    skew = told - (before + (after - before) / 2)
    text = (
        f"this machine is {abs(skew).total_seconds():.1f} s {'behind' if skew > timedelta() else 'ahead of'} the server"
    )
    if abs(skew) <= _SKEW + (after - before):
        return told, Finding("clock", "ok", "this machine and the server agree")
    return told, Finding(
        "clock", "warn", text, "workers use the server's time; synchronize this clock all the same (NTP)"
    )


async def _due(journal: Journal, now: datetime) -> Finding:
    due = await journal.due_ids(FAMILY, now - OVERDUE_AFTER, limit=_MAX_DUE)
    if not due:
        return Finding("due work", "ok", f"nothing waits for more than {spoken(OVERDUE_AFTER)}")
    count = f"{len(due):,}{' or more' if len(due) == _MAX_DUE else ''}"
    return Finding(
        "due work",
        "fail",
        f"{count} waiting since up to {spoken(now - due[0][1])}",
        "is a worker for these sagas running? `sagalog list --overdue` shows which",
    )


async def _paused(journal: Journal, now: datetime) -> Finding:
    try:
        controls, _ = await read_controls(journal)
    except CodecError as error:
        return Finding("commands", "fail", str(error), "workers go by what they could read last")
    if not controls.paused:
        return Finding("commands", "ok", "none is paused")
    told = [f"{name} for {spoken(now - pause.at)}{by_whom(pause)}" for name, pause in sorted(controls.paused.items())]
    return Finding("commands", "warn", f"paused: {'; '.join(told)}", f"`sagalog resume {min(controls.paused)}` ends it")


async def _away(journal: Journal, now: datetime) -> Finding:
    try:
        opened = await open_circuits(journal, now)
    except CodecError as error:
        return Finding("receivers", "warn", str(error))
    if not opened:
        return Finding("receivers", "ok", "no worker reports one as away")
    told = []
    for command in dict.fromkeys(one.command for one in opened):
        of = [one for one in opened if one.command == command]
        oldest = min(of, key=lambda one: one.since)
        workers = "1 worker" if len(of) == 1 else f"{len(of)} workers"
        last = f", last with {oldest.error}" if oldest.error else ""
        told.append(f"{command} for {spoken(now - oldest.since)} ({workers}{last})")
    text = f"away: {'; '.join(told)}"
    return Finding("receivers", "warn", text, "their commands wait and leave when the receiver answers; see the log")


async def _instances(journal: Journal, now: datetime, seen: Callable[[SagaView], SagaView]) -> list[Finding]:
    with Counting("instances read") as counting:
        figures = await stats(journal, now=now, count=counting.update, seen=seen)
    live = sum(one.live for one in figures)
    found = [Finding("instances", "ok", f"{live:,} live of {', '.join(one.saga for one in figures) or 'no saga'}")]
    for name, count, level, remedy in (
        ("parked", sum(one.parked for one in figures), "warn", "`sagalog list --status parked` shows which, and why"),
        (
            "unreadable",
            sum(one.unreadable for one in figures),
            "fail",
            "`sagalog list --status unreadable` shows which, `show` what you can do",
        ),
        (
            "uncompensated",
            sum(one.compensation_failed for one in figures),
            "warn",
            "`sagalog list --status compensation_failed`, then retry or skip",
        ),
    ):
        if count:
            found.append(
                Finding(name, "warn" if level == "warn" else "fail", f"{count:,} wait for an operator", remedy)
            )
        else:
            found.append(Finding(name, "ok", "none"))
    waits = [(one.oldest_undelivered_at, one) for one in figures if one.oldest_undelivered_at is not None]
    oldest, of = min(waits, key=lambda one: one[0], default=(None, None))
    if oldest is not None and of is not None and now - oldest > LONG:
        command = of.oldest_undelivered
        name = f"{command.type} ({command.command}) of {of.saga} {command.id}" if command is not None else "a command"
        found.append(
            Finding(
                "outbox",
                "warn",
                f"{name} has not been accepted for {spoken(now - oldest)}",
                "its receiver does not accept it, its handler hangs, or no worker can read it: see the log of the "
                "workers and `sagalog show`; `sagalog drop` skips it",
            )
        )
    else:
        found.append(Finding("outbox", "ok", "no command waits long"))
    return found
