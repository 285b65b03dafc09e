"""`sagalog resend`: send a command again that was sent before."""

from __future__ import annotations

import click

from ..decision.repair import Repair
from ..journal import Journal
from ..operating.apply import resending
from ..operating.inspect import SagaView
from .repairing import Wish, repair_all, repair_options
from .selection import Selection


@click.command("resend")
@click.argument("correlation_id", metavar="ID")
@click.argument("command_id", metavar="COMMAND")
@click.option("--saga", help="Which saga, if several have this id.")
@repair_options
def resend_(correlation_id: str, command_id: str, saga: str | None, url: str, wish: Wish) -> None:
    """Send an accepted command again under the same id, so that a receiver that has seen it recognises it.

    COMMAND is its number in `history` (such as 3/0), or its full id. This works for finished instances, too, as long as
    their history is kept.

    \b
    Examples:
      sagalog history 4711
      sagalog resend 4711 3/0 --note "the warehouse lost it"
    """

    async def make(journal: Journal, view: SagaView) -> Repair:
        return await resending(journal, view.saga, view.correlation_id, command_id, note=wish.note, by=wish.by)

    repair_all(url, (correlation_id,), Selection(saga), wish, make, as_shown=False)
