"""The journal that is looked at: opened when it is first needed, and again after it could not be opened."""

from __future__ import annotations

import asyncio

from ..errors import JournalUnavailableError
from ..journal import Journal, open_existing


class ShownJournal:
    """Gives the journal: one that the caller owns, or one named by a URL, which is then opened and closed here."""

    def __init__(self, journal: Journal | str) -> None:
        self._url = journal if isinstance(journal, str) else None
        self._journal = None if isinstance(journal, str) else journal
        self._opening = asyncio.Lock()
        self._closed = False

    def __repr__(self) -> str:  # of a URL only its scheme: it may hold a password
        return self._url.partition(":")[0] if self._url is not None else repr(self._journal)

    async def journal(self) -> Journal:
        """Return the journal, open. Raises JournalError where it cannot be opened; the next call tries again."""
        if self._closed:
            raise JournalUnavailableError("the dashboard is stopping")
        async with self._opening:
            if self._journal is None:
                assert self._url is not None
                journal = open_existing(self._url)
                try:
                    await journal.open()
                except BaseException:
                    await journal.close()
                    raise
                self._journal = journal
        return self._journal

    async def close(self) -> None:
        """Close what was opened here."""
        self._closed = True
        if self._url is not None and self._journal is not None:
            await self._journal.close()
