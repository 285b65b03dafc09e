"""`sagalog purge`: forget finished instances, and keys that nobody holds, before their retention ends."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import click

from ..decision import ids
from ..journal import Journal
from ..journal.protocol import server_now
from ..operating.inspect import SagaView, instances
from ..operating.unheld import unheld
from ..text import plural
from .durations import Duration, spoken
from .journals import journal_option, reading
from .progress import Counting
from .selection import not_empty
from .text import json_line

_AT_ONCE = 64


@click.command("purge")
@journal_option
@click.option(
    "--older-than", type=Duration(), required=True, help="Only those that ended longer ago than this, e.g. 30d."
)
@click.option("--saga", callback=not_empty, help="Only this saga.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def purge_(url: str, older_than: timedelta, saga: str | None, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Remove finished instances with their history and their message ids, and keys that nobody holds.

    Workers do the same when the retention ends. An old message that is sent again afterwards starts the saga again, so keep
    instances for as long as that can happen. Live instances are never touched, not even one that starts meanwhile.

    \b
    Examples:
      sagalog purge --older-than 30d --dry-run
      sagalog purge --older-than 90d --saga order --yes
    """
    asyncio.run(_purge(url, older_than, saga, dry_run, yes, as_json))


async def _purge(url: str, older_than: timedelta, saga: str | None, dry_run: bool, yes: bool, as_json: bool) -> None:
    purged = keys_purged = 0
    async with reading(url) as journal:
        now = await server_now(journal)
        found = keys_found = 0
        with Counting("finished instances found") as counting:
            async for _ in _old(journal, saga, now - older_than):
                found += 1
                counting.update(found)
        async for _ in unheld(journal, saga, now=now, older_than=older_than):
            keys_found += 1
        if (found or keys_found) and not dry_run:
            _ask(found, keys_found, older_than, yes)
            # The keys first: that an instance has ended is what says that nobody holds them.
            async for reservations, reservation in unheld(journal, saga, now=now, older_than=older_than):
                keys_purged += await reservations.forget(reservation)
            purged = await _forget(journal, saga, now - older_than)
    if as_json:
        counts = {"reservations_found": keys_found, "reservations_purged": keys_purged}
        click.echo(json_line({"found": found, "purged": purged, **counts}))
    elif dry_run:
        click.echo(
            f"dry run: {plural(found, 'finished instance')} would be forgotten{_and_keys(keys_found)}; nothing was changed"
        )
    else:
        click.echo(f"{plural(purged, 'finished instance')} forgotten{_and_keys(keys_purged)}")


def _and_keys(reservations: int) -> str:
    if not reservations:
        return ""
    return f", and {plural(reservations, 'reservation')} of keys that nobody holds"


async def _old(journal: Journal, saga: str | None, before: datetime) -> AsyncIterator[SagaView]:
    async for view in instances(journal, saga, live=False, finished=True):
        if view.record is not None and view.record.updated_at < before:
            yield view


def _ask(found: int, keys_found: int, older_than: timedelta, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(
            "there is no terminal to ask for confirmation: add --yes to purge, or --dry-run to count"
        )
    click.confirm(
        f"Forget {found:,} instances that ended more than {spoken(older_than)} ago, their history, and the ids of "
        f"the messages they handled{_and_keys(keys_found)}?",
        abort=True,
        err=True,
    )


async def _forget(journal: Journal, saga: str | None, before: datetime) -> int:
    purged = 0
    with Counting("instances forgotten") as counting:
        batch: list[SagaView] = []
        async for view in _old(journal, saga, before):
            batch.append(view)
            if len(batch) == _AT_ONCE:
                purged += await _forget_batch(journal, batch)
                counting.update(purged)
                batch = []
        return purged + await _forget_batch(journal, batch)


async def _forget_batch(journal: Journal, batch: list[SagaView]) -> int:
    return sum(await asyncio.gather(*(_forget_one(journal, view) for view in batch)))


async def _forget_one(journal: Journal, view: SagaView) -> bool:
    persistence_id = ids.persistence_id(view.saga, view.correlation_id)
    await journal.purge([(persistence_id, view.version)])
    # A starting event may have come since: then the newest record is another, and nothing was purged.
    return await journal.highest_sequence_nr(persistence_id) == 0
