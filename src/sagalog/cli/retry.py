"""`sagalog retry`: let parked instances try again."""

from __future__ import annotations

import click

from ..decision.repair import Repair, retry
from ..journal import Journal
from ..operating.inspect import SagaView
from .repairing import Wish, repair_all, repair_options
from .selection import Selection, selecting


@click.command("retry")
@click.argument("ids", metavar="[ID]...", nargs=-1)
@selecting
@repair_options
def retry_(ids: tuple[str, ...], url: str, selection: Selection, wish: Wish) -> None:
    """Retry what parked an instance, then handle what was held since, in the order in which it came.

    It also delivers a stuck command again, and resumes a failed compensation. A running worker does the rest.

    \b
    Examples:
      sagalog retry 4711 --note "the bank is back"
      sagalog retry --status parked --why ConnectionError --dry-run
      sagalog retry --saga order --status parked --older-than 2h --yes
    """

    async def make(journal: Journal, view: SagaView) -> Repair:
        return retry(note=wish.note, by=wish.by)

    repair_all(url, ids, selection, wish, make, as_shown=False)
