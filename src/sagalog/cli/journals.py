"""Opening the journal that a command was pointed at, for reading: what is not there is not made."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import click

from ..journal import Journal, open_existing

journal_option: Callable[[Any], Any] = click.option(
    "--journal",
    "url",
    required=True,
    envvar="SAGALOG_JOURNAL",
    help="The journal, e.g. sqlite:///orders.db. Also from SAGALOG_JOURNAL.",
)


@asynccontextmanager
async def reading(url: str) -> AsyncIterator[Journal]:
    """Open an existing journal, and close it."""
    journal = open_existing(url)
    try:
        yield journal
    finally:
        await journal.close()
