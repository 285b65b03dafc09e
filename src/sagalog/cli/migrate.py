"""`sagalog migrate`: make or migrate what a journal needs in its server."""

from __future__ import annotations

import asyncio

import click

from ..journal import migrate_journal
from .journals import journal_option


@click.command("migrate")
@journal_option
def migrate_(url: str) -> None:
    """Make the tables of a journal, or bring them to this version. Doing it twice is nothing.

    Needs a user that may create tables; the workers need only to read and write them.

    \b
    Examples:
      sagalog migrate --journal postgresql://admin@db/shop
      sagalog migrate --journal 'postgresql://admin@db/shop?schema=sagas'
    """
    click.echo(asyncio.run(migrate_journal(url)))
