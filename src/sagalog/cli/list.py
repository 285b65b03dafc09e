"""`sagalog list`: which instances there are, and how they stand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

import click

from ..decision.entries import FINAL
from ..journal.protocol import server_now
from ..operating.inspect import SagaView, instances
from ..operating.outbox import LONG, Pending, oldest_pending
from ..text import plural
from .durations import spoken
from .journals import journal_option, reading
from .selection import Selection, selecting
from .targets import code_option, seen_by
from .text import json_line, line, moment


@click.command("list")
@journal_option
@selecting
@code_option
@click.option("--all", "everything", is_flag=True, help="Include finished ones, as long as they are remembered.")
@click.option("--limit", type=click.IntRange(min=1), help="List at most this many.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def list_(url: str, selection: Selection, code: str | None, everything: bool, limit: int | None, as_json: bool) -> None:
    """List the live instances in a journal, or all of them, as they are read.

    \b
    Examples:
      sagalog list --journal sqlite:///orders.db
      sagalog list --status parked --why ConnectionError --json
      sagalog list --saga order --older-than 2h --id-has EU-
      sagalog list --saga order --phase PAID
      sagalog list --saga order --where customer_id=c-7
      sagalog list --overdue
      sagalog list --code shop.sagas:runner --status unreadable
    """
    asyncio.run(_list(url, selection, seen_by(code), everything, limit, as_json))


async def _list(
    url: str,
    selection: Selection,
    seen: Callable[[SagaView], SagaView],
    everything: bool,
    limit: int | None,
    as_json: bool,
) -> None:
    finished = everything or selection.finished
    shown = 0
    async with reading(url) as journal:
        now = await server_now(journal)
        async for view in instances(journal, selection.saga, finished=finished, where=dict(selection.where), seen=seen):
            if not selection.takes(view, now):
                continue
            waiting = await oldest_pending(journal, view)
            if as_json:
                click.echo(json_line(summary(view, waiting)))
            else:
                if shown == 0:
                    click.echo(f"{'SAGA':<16} {'ID':<28} {'STATUS':<19} {'STEPS':>5}  {'UPDATED (UTC)':<19}  WHY")
                updated = moment(view.record.updated_at) if view.record is not None else ""
                click.echo(
                    f"{line(view.saga):<16} {line(view.correlation_id):<28} {_stands(view):<19} {view.version:>5}  "
                    f"{updated:<19}  {_first_line(view.why or _waits(waiting, now))}".rstrip()
                )
            shown += 1
            if limit is not None and shown >= limit:
                break
    if not as_json:
        click.echo(plural(shown, "instance") + ("" if finished else " (--all: finished ones too)"))


def _stands(view: SagaView) -> str:
    """Return how an instance stands, and in which phase if it has one and has not ended."""
    if view.record is None or not view.phase or view.record.status in FINAL:
        return view.status
    return f"{view.status} {line(view.phase)}"


def _first_line(why: str) -> str:
    """Return how a reason begins; `show` has all of it."""
    first, _, more = why.strip().partition("\n")
    return line(first) + (" ..." if more else "")


def _waits(waiting: Pending | None, now: datetime) -> str:
    """Say what an instance waits for that no receiver accepts, if it does so for long."""
    if waiting is None or now - waiting.since < LONG:
        return ""
    return f"{waiting.name} has not been accepted for {spoken(now - waiting.since)}"


def summary(view: SagaView, waiting: Pending | None) -> dict[str, Any]:
    """Return the fields of one line of `--json`; `waiting`: its oldest command that is not accepted."""
    record = view.record
    return {
        "saga": view.saga,
        "id": view.correlation_id,
        "status": view.status,
        **({"phase": view.phase} if view.phase else {}),
        "version": view.version,
        "started_at": record.started_at if record is not None else None,
        "updated_at": record.updated_at if record is not None else None,
        "due_at": view.due_at,
        "why": view.why,
        "waits_for": waiting.command.id if waiting is not None else None,
        "waits_since": waiting.since if waiting is not None else None,
    }
