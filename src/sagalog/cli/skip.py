"""`sagalog skip`: drop what parks an instance."""

from __future__ import annotations

import click

from ..decision.repair import Repair, skip
from ..journal import Journal
from ..operating.inspect import SagaView
from .repairing import Wish, repair_all, repair_options
from .selection import Selection, selecting


@click.command("skip")
@click.argument("ids", metavar="[ID]...", nargs=-1)
@selecting
@repair_options
def skip_(ids: tuple[str, ...], url: str, selection: Selection, wish: Wish) -> None:
    """Drop what failed, then continue as `retry` does.

    It drops the stuck command, the refused undo, or otherwise the first held event, whose id then counts as consumed.

    \b
    Examples:
      sagalog skip 4711 --note "paid by hand, see ticket 12"
      sagalog skip --status parked --why "handling PaymentReceived" --dry-run
    """

    async def make(journal: Journal, view: SagaView) -> Repair:
        return skip(note=wish.note, by=wish.by)

    repair_all(url, ids, selection, wish, make)
