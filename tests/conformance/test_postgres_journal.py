from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from sagalog import open_journal
from sagalog.conformance import JournalConformance
from sagalog.conformance.breaking import Lose
from sagalog.journal import Journal

from ..servers.pgbouncer import FOUND, PgBouncer
from ..servers.proxy import Proxy


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

    @asynccontextmanager
    async def breakable(self, place: str) -> AsyncIterator[tuple[Journal, Lose]]:
        port = urlsplit(place).port
        assert port is not None
        proxy = Proxy(port)
        async with self.make(place.replace(f":{port}/", f":{proxy.port}/")) as journal:
            yield journal, proxy.lose
        proxy.close()


@pytest.fixture(scope="module")
def bouncer(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PgBouncer]:
    bouncer = PgBouncer(tmp_path_factory.mktemp("pgbouncer"), postgres_url)
    yield bouncer
    bouncer.stop()


@pytest.mark.skipif(FOUND is None, reason="there is no pgbouncer on this machine; Debian has it as a package")
class TestPostgresJournalThroughPgBouncer(TestPostgresJournal):
    """In transaction mode, with two server connections for all: no statement stays prepared."""

    @pytest.fixture
    def place(self, postgres_schema: str, postgres_url: str, bouncer: PgBouncer) -> str:  # type: ignore[override]
        return postgres_schema.replace(postgres_url, bouncer.url) + "&pooler=true"

    @asynccontextmanager
    async def connection(self, place: str) -> AsyncIterator[Any]:
        connection = await asyncpg.connect(place.partition("?")[0], statement_cache_size=0)
        yield connection
        await connection.close()
