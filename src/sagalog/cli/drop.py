"""`sagalog drop`: take one command out of an outbox, or cancel one timer."""

from __future__ import annotations

import click

from ..decision.repair import Repair, drop
from ..journal import Journal
from ..operating.apply import entry_named
from ..operating.inspect import SagaView
from .repairing import Wish, repair_all, repair_options
from .selection import Selection


@click.command("drop")
@click.argument("correlation_id", metavar="ID")
@click.argument("command_id", metavar="COMMAND")
@click.option("--saga", help="Which saga, where several have this id.")
@repair_options
def drop_(correlation_id: str, command_id: str, saga: str | None, url: str, wish: Wish) -> None:
    """Do not deliver one command that waits, and go on with what is behind it: for one whose handler hangs, say.

    COMMAND is its number as `show` tells it (such as 3/0), or its full id; a timer can be named so, too. The command may
    have been carried out all the same: how to undo it stays known, and `cancel` undoes it.

    \b
    Examples:
      sagalog show 4711
      sagalog drop 4711 3/0 --note "the warehouse has closed"
    """

    async def make(journal: Journal, view: SagaView) -> Repair:
        return drop(entry_named(view.saga, view.correlation_id, command_id), note=wish.note, by=wish.by)

    repair_all(url, (correlation_id,), Selection(saga), wish, make, as_shown=False)
