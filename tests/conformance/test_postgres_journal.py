from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from sagalog import open_journal
from sagalog.journal.postgres import PostgresJournal

from .journal_contract import JournalContract


class TestPostgresJournal(JournalContract):
    @pytest.fixture
    async def journal(self, postgres_schema: str) -> AsyncIterator[PostgresJournal]:
        journal = open_journal(postgres_schema)
        assert isinstance(journal, PostgresJournal)
        async with journal:
            yield journal


class TestPostgresJournalThroughAPooler(JournalContract):
    """What changes for a pooler: no statement stays prepared, and each call is one transaction."""

    @pytest.fixture
    async def journal(self, postgres_schema: str) -> AsyncIterator[PostgresJournal]:
        journal = open_journal(f"{postgres_schema}&pooler=true")
        assert isinstance(journal, PostgresJournal)
        async with journal:
            yield journal
