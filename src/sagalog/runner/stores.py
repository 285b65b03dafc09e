"""Where a runner keeps its sagas: in a journal that it opens and closes itself, in one that was given, or in stores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..definition.saga import Saga
from ..journal import Journal, open_journal
from ..journal.memory import InMemoryJournal
from ..journal.protocol import TellsTime
from ..journal.state_store import SagaStateStore
from ..journal.store import JournalSagaStateStore
from .clock import Clock, ServerClock, SystemClock

JournalSource = str | Journal | SagaStateStore | Mapping[str, SagaStateStore]


def is_in_memory(source: JournalSource) -> bool:
    """Say whether it is all in this process's memory."""
    return isinstance(source, InMemoryJournal) or source == "memory://"


class Stores:
    """The journal or stores of one started runner. `journal` is None where stores were given."""

    def __init__(self, source: JournalSource) -> None:
        self._source = source
        self.journal: Journal | None = None

    async def open(self) -> None:
        """Open the journal. Raises what it raises, after closing it again."""
        if isinstance(self._source, str):
            self.journal = open_journal(self._source)
        elif not isinstance(self._source, (SagaStateStore, Mapping)):
            self.journal = self._source
        if self.journal is not None:
            try:
                await self.journal.open()
            except BaseException:
                await self.close()
                raise

    async def agreed_clock(self, clock: Clock) -> Clock:
        """Return the clock to use: the server's, where there is one and nothing else was asked for."""
        if type(clock) is not SystemClock or not isinstance(self.journal, TellsTime):
            return clock
        agreed = ServerClock(self.journal)
        try:
            await agreed.synchronize()
        except BaseException:
            await self.close()
            raise
        return agreed

    def store_of(self, saga: Saga[Any]) -> SagaStateStore:
        """Return the store of one saga."""
        if self.journal is not None:
            return JournalSagaStateStore(self.journal, saga.name)
        if isinstance(self._source, Mapping):
            return self._source[saga.name]
        assert isinstance(self._source, SagaStateStore)
        return self._source

    async def close(self) -> None:
        """Close what was opened here; a journal that was given stays open."""
        if isinstance(self._source, str) and self.journal is not None:
            await self.journal.close()
        self.journal = None
