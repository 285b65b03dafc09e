"""`sagalog cancel`: end instances, with their undo commands sent or as they stand."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import click

from ..decision.repair import Repair, cancel
from ..journal import Journal
from ..operating.apply import RETENTION
from ..operating.inspect import SagaView
from .durations import Duration
from .repairing import Wish, repair_all, repair_options
from .selection import Selection, selecting


@click.command("cancel")
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option(
    "--compensate/--no-compensate", default=True, show_default=True, help="Undo what was done, or end as it stands."
)
@click.option(
    "--retention",
    type=Duration(),
    default=RETENTION,
    show_default="7d, as for runners",
    help="How long the message ids of one that ends at once stay known.",
)
@selecting
@repair_options
def cancel_(
    ids: tuple[str, ...], compensate: bool, retention: timedelta, url: str, selection: Selection, wish: Wish
) -> None:
    """End instances. By default, their undo commands are sent, last in first out.

    Held messages are dropped, and their ids count as consumed.

    \b
    Examples:
      sagalog cancel 4711 --note "the customer called"
      sagalog cancel 4711 --no-compensate
      sagalog cancel --saga order --status parked --older-than 30d --dry-run
    """

    async def make(journal: Journal, view: SagaView) -> Repair:
        return cancel(compensate=compensate, note=wish.note, by=wish.by)

    repair_all(url, ids, selection, replace(wish, retention=retention), make)
