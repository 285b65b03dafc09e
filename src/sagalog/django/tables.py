"""The journal's tables in an SQLite file of Django's, made when that is migrated.

A journal makes its tables when it is opened first. That may be within a request whose transaction holds the file already,
as with ATOMIC_REQUESTS all of them do: then it cannot make them, however often it is tried.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from django.db import connections

from ..errors import DefinitionError, SagalogError
from ..journal import open_journal
from ..logs import about, log
from ..runner.inside import journal_url_of
from .settings import runner


def make_tables(using: str, **_: Any) -> None:
    """Make the journal's tables if the file that was migrated is the journal's, and not one of the tests."""
    try:
        url = journal_url_of(runner())
    except DefinitionError:  # which the checks tell
        return
    migrated = connections[using].settings_dict
    if url is None or not url.startswith("sqlite:///") or not migrated["ENGINE"].endswith("sqlite3"):
        return
    path, name = url.removeprefix("sqlite:///").partition("?")[0], str(migrated["NAME"])
    if not (os.path.exists(path) and os.path.exists(name) and os.path.samefile(path, name)):
        return
    try:
        asyncio.run(_open(url))
    except SagalogError as error:  # of a migration that was made all the same
        log.warning("the journal's tables were not created: %s", error, extra=about())


async def _open(url: str) -> None:
    await open_journal(url).close()
