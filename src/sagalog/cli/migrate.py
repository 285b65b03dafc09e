"""`sagalog migrate`: make or migrate what a journal needs in its server."""

from __future__ import annotations

import asyncio

import click

from ..journal import migrate_journal
from .journals import journal_option


@click.command("migrate")
@journal_option
def migrate_(url: str) -> None:
    """Create the tables or the stream of a journal, or migrate them to this version.

    Calling it again has no effect. It needs a user that may create tables; workers only read and write them.

    \b
    Examples:
      sagalog migrate --journal postgresql://admin@db/shop
      sagalog migrate --journal 'postgresql://admin@db/shop?schema=sagas'
    """
    click.echo(asyncio.run(migrate_journal(url)))
