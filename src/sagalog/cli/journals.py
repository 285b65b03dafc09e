"""Opening the journal that a command was pointed at, for reading: what is not there is not made."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click

from ..journal import Journal, open_journal

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
    if url.startswith("sqlite:///"):
        path = Path(url.removeprefix("sqlite:///").partition("?")[0])
        if not path.exists():
            raise click.ClickException(f"{path} does not exist; nothing was made. Is the journal's URL right?")
    journal = open_journal(url)
    try:
        yield journal
    finally:
        await journal.close()
