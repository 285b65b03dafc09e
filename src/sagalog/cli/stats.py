"""`sagalog stats`: how all is going, saga by saga."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

import click

from ..journal.protocol import server_now
from ..operating.inspect import SagaView
from ..operating.stats import SagaStats, stats
from .durations import spoken
from .journals import journal_option, reading
from .progress import Counting
from .selection import not_empty
from .targets import code_option, seen_by
from .text import json_line, line


@click.command("stats")
@journal_option
@click.option("--saga", callback=not_empty, help="Only this saga.")
@code_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a saga.")
def stats_(url: str, saga: str | None, code: str | None, as_json: bool) -> None:
    """Count what is live, parked, overdue and undelivered, saga by saga, and what happened in the last hour.

    Every record is read once. The figures of the last hour come from the records: an instance that took many steps
    counts once, and a purged one does not count.

    \b
    Examples:
      sagalog stats --journal postgresql://reader@db/shop
      sagalog stats --saga order --json
    """
    asyncio.run(_stats(url, saga, seen_by(code), as_json))


async def _stats(url: str, saga: str | None, seen: Callable[[SagaView], SagaView], as_json: bool) -> None:
    async with reading(url) as journal:
        now = await server_now(journal)
        with Counting("instances read") as counting:
            found = await stats(journal, saga, now=now, count=counting.update, seen=seen)
    if as_json:
        for figures in found:
            click.echo(json_line(figures))
        return
    if not found:
        click.echo("no instances")
    for figures in found:
        click.echo("\n".join(_lines(figures, now)))


def _lines(figures: SagaStats, now: datetime) -> list[str]:
    undelivered, oldest = figures.oldest_undelivered_at, figures.oldest_undelivered
    which = f", {line(oldest.type)} ({line(oldest.command)}) of {line(oldest.id)}" if oldest is not None else ""
    timer = figures.oldest_overdue_timer_at
    phases = ", ".join(f"{line(name)} {count:,}" for name, count in sorted(figures.phases.items()))
    return [
        line(figures.saga),
        f"  live         {figures.live:>9,}   finished and remembered {figures.remembered:,}",
        f"  parked       {figures.parked:>9,}   holding {figures.held:,} messages",
        f"  unreadable   {figures.unreadable:>9,}   compensation failed {figures.compensation_failed:,}",
        f"  overdue      {figures.overdue:>9,}   oldest overdue timer: {_age(timer, now)}",
        f"  undelivered  {figures.undelivered:>9,}   oldest command: {_age(undelivered, now)}{which}",
        f"  timers       {figures.timers:>9,}",
        f"  last hour    {figures.changed:>9,}   changed; {figures.started:,} started, {figures.ended:,} ended",
        *([f"  kept         {figures.kept:>9,}   messages that wait for their moment"] if figures.kept else []),
        *([f"  by phase     {phases}"] if phases else []),
    ]


def _age(at: datetime | None, now: datetime) -> str:
    return "none" if at is None else f"{spoken(now - at)} old"
