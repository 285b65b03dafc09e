"""`sagalog list`: which instances there are, and how they stand."""

from __future__ import annotations

import asyncio
from typing import Any

import click
import msgspec

from ..inspect import SagaView, instances
from ..record import Status
from .journals import journal_option, reading
from .text import line, moment

_STATUSES = [*(status.value for status in Status), "parked", "unreadable"]


@click.command("list")
@journal_option
@click.option("--saga", help="Only this saga.")
@click.option("--status", type=click.Choice(_STATUSES), help="Only these.")
@click.option("--all", "everything", is_flag=True, help="Finished ones too, as long as they are remembered.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(url: str, saga: str | None, status: str | None, everything: bool, limit: int | None, as_json: bool) -> None:
    """List the instances in a journal, streaming: live ones, or all.

    \b
    Examples:
      sagalog list --journal sqlite:///orders.db
      sagalog list --journal sqlite:///orders.db --status parked --json
    """
    asyncio.run(_list(url, saga, status, everything, limit, as_json))


async def _list(
    url: str, saga: str | None, status: str | None, everything: bool, limit: int | None, as_json: bool
) -> None:
    finished = everything or status in ("completed", "compensated", "cancelled")
    shown = 0
    async with reading(url) as journal:
        async for view in instances(journal, saga, finished=finished):
            if status is not None and view.status != status:
                continue
            if as_json:
                click.echo(msgspec.json.encode(summary(view)))
            else:
                if shown == 0:
                    click.echo(f"{'SAGA':<16} {'ID':<28} {'STATUS':<19} {'STEPS':>5}  {'UPDATED (UTC)':<19}  WHY")
                record = view.record
                why = view.unreadable or (record.parked if record is not None else "")
                updated = moment(record.updated_at) if record is not None else ""
                click.echo(
                    f"{line(view.saga):<16} {line(view.correlation_id):<28} {view.status:<19} {view.version:>5}  "
                    f"{updated:<19}  {line(why)}".rstrip()
                )
            shown += 1
            if limit is not None and shown >= limit:
                break
    if not as_json:
        click.echo(
            f"{shown:,} instance{'' if shown == 1 else 's'}" + ("" if everything else " (--all: finished ones too)")
        )


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
        "why": view.unreadable or (record.parked if record is not None else ""),
    }
