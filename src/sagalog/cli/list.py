"""`sagalog list`: which instances there are, and how they stand."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from ..operating.inspect import SagaView, instances
from ..operating.stats import server_now
from .journals import journal_option, reading
from .selection import Selection, selecting
from .text import json_line, line, moment


@click.command("list")
@journal_option
@selecting
@click.option("--all", "everything", is_flag=True, help="Finished ones too, as long as they are remembered.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(url: str, selection: Selection, everything: bool, limit: int | None, as_json: bool) -> None:
    """List the instances in a journal, streaming: live ones, or all.

    \b
    Examples:
      sagalog list --journal sqlite:///orders.db
      sagalog list --status parked --why ConnectionError --json
      sagalog list --saga order --older-than 2h --id-has EU-
      sagalog list --overdue
    """
    asyncio.run(_list(url, selection, everything, limit, as_json))


async def _list(url: str, selection: Selection, everything: bool, limit: int | None, as_json: bool) -> None:
    finished = everything or selection.finished
    shown = 0
    async with reading(url) as journal:
        now = await server_now(journal)
        async for view in instances(journal, selection.saga, finished=finished):
            if not selection.takes(view, now):
                continue
            if as_json:
                click.echo(json_line(summary(view)))
            else:
                if shown == 0:
                    click.echo(f"{'SAGA':<16} {'ID':<28} {'STATUS':<19} {'STEPS':>5}  {'UPDATED (UTC)':<19}  WHY")
                updated = moment(view.record.updated_at) if view.record is not None else ""
                click.echo(
                    f"{line(view.saga):<16} {line(view.correlation_id):<28} {view.status:<19} {view.version:>5}  "
                    f"{updated:<19}  {_first_line(view.why)}".rstrip()
                )
            shown += 1
            if limit is not None and shown >= limit:
                break
    if not as_json:
        click.echo(
            f"{shown:,} instance{'' if shown == 1 else 's'}" + ("" if finished else " (--all: finished ones too)")
        )


def _first_line(why: str) -> str:
    """Return how a reason begins; `show` has all of it."""
    first, _, more = why.strip().partition("\n")
    return line(first) + (" ..." if more else "")


def summary(view: SagaView) -> dict[str, Any]:
    """Return the fields of one line of `--json`."""
    record = view.record
    return {
        "saga": view.saga,
        "id": view.correlation_id,
        "status": view.status,
        "version": view.version,
        "started_at": record.started_at if record is not None else None,
        "updated_at": record.updated_at if record is not None else None,
        "due_at": view.due_at,
        "why": view.why,
    }
