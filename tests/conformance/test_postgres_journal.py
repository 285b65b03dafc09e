from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from sagalog import open_journal
from sagalog.conformance import JournalConformance
from sagalog.journal import Journal


class TestPostgresJournal(JournalConformance):
    @pytest.fixture
    def place(self, postgres_schema: str) -> str:
        return postgres_schema

    @classmethod
    def make(cls, place: str) -> Journal:
        return open_journal(place)

    @asynccontextmanager
    async def connection(self, place: str) -> AsyncIterator[Any]:
        connection = await asyncpg.connect(place.partition("?")[0])
        yield connection
        await connection.close()


class TestPostgresJournalThroughAPooler(TestPostgresJournal):
    """What changes for a pooler: no statement stays prepared, and each call is one transaction."""

    @classmethod
    def make(cls, place: str) -> Journal:
        return open_journal(f"{place}&pooler=true")
