"""`sagalog drop`: take one command out of an outbox, cancel one timer, or end what cannot be read."""

from __future__ import annotations

import asyncio

import click

from ..decision.repair import Repair, drop
from ..journal import Journal
from ..operating.apply import entry_named
from ..operating.inspect import SagaView
from ..operating.mend import ended, stored
from .edit_record import confirm_and_replace
from .journals import reading
from .repairing import Wish, repair_all, repair_options
from .selection import Selection
from .show import the_one


@click.command("drop")
@click.argument("correlation_id", metavar="ID")
@click.argument("command_id", metavar="[COMMAND]", required=False)
@click.option("--saga", help="Which saga, if several have this id.")
@repair_options
def drop_(correlation_id: str, command_id: str | None, saga: str | None, url: str, wish: Wish) -> None:
    """Remove one waiting command, for example because its handler hangs, and continue with those behind it.

    COMMAND is its number in `show` (such as 3/0), or its full id. A timer is named in the same way, and a kept message by
    its id. The command may have been carried out: its undo command stays on the stack, and `cancel` sends it.

    Without COMMAND: end an instance whose record cannot be read. The record is saved to a file in this folder.

    \b
    Examples:
      sagalog show 4711
      sagalog drop 4711 3/0 --note "the warehouse has closed"
      sagalog drop 4711 --note "lost with the disk, see ticket 12"
    """
    if command_id is None:
        asyncio.run(_drop_instance(correlation_id, saga, url, wish))
        return
    name = command_id

    async def make(journal: Journal, view: SagaView) -> Repair:
        return drop(entry_named(view.saga, view.correlation_id, name), note=wish.note, by=wish.by)

    repair_all(url, (correlation_id,), Selection(saga), wish, make, as_shown=False)


async def _drop_instance(correlation_id: str, saga: str | None, url: str, wish: Wish) -> None:
    async with reading(url) as journal:
        view = await the_one(journal, correlation_id, saga)
        if view.record is not None and not view.lost:
            raise click.UsageError("which command? `show` lists their numbers. To end the instance, `cancel` it")
        old = await stored(journal, view.saga, view.correlation_id)
        new = await ended(journal, old, note=wish.note, by=wish.by)
        await confirm_and_replace(journal, old, new, wish, "End it?")
