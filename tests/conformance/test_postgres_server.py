"""A PostgreSQL journal in use: connections that are lost, servers that come back, history, readable records."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sagalog import (
    InvalidEventError,
    Journal,
    JournalUnavailableError,
    OutcomeUnknownError,
    PersistentRepr,
    open_journal,
)
from sagalog.conformance.records import record, replay, write
from sagalog.journal.postgres import PostgresJournal, connections
from sagalog.journal.postgres.statements import microseconds

from ..servers.postgres import Postgres
from ..servers.processes import eventually
from ..servers.proxy import Proxy
from .named import schema_of


@pytest.fixture
async def through(postgres_server: Postgres, postgres_proxy: Proxy) -> AsyncIterator[Journal]:
    url = postgres_server.url.replace(str(postgres_server.port), str(postgres_proxy.port))
    async with open_journal(f"{url}?migrate=true") as journal:
        for number in (1, 2):  # so that the statements are prepared, and what is lost is a write
            await journal.write_messages([record("q", number)])
        await write(journal, "p", 1)
        yield journal


@pytest.mark.parametrize(("lost", "stored"), [("answer", 2), ("request", 1)])
async def test_a_connection_lost_in_a_write_is_an_unknown_outcome_and_reading_resolves_it(
    through: Journal, postgres_proxy: Proxy, lost: str, stored: int
) -> None:
    postgres_proxy.lose(lost)
    with pytest.raises(OutcomeUnknownError, match="it may be stored"):
        await through.write_messages([record("p", 2)])
    assert await through.highest_sequence_nr("p") == stored
    assert await replay(through, "p") == list(range(1, stored + 1))
    await write(through, "p", stored + 1)


async def test_reads_and_writes_wait_for_a_server_that_comes_back(through: Journal, postgres_server: Postgres) -> None:
    postgres_server.kill()
    reading = asyncio.ensure_future(through.highest_sequence_nr("p"))
    claiming = asyncio.ensure_future(through.due_ids("", asyncio.get_running_loop() and _now()))
    await asyncio.sleep(0.05)
    assert not reading.done()
    await asyncio.to_thread(postgres_server.start)
    assert await reading == 1
    assert await claiming == []
    try:
        await write(through, "p", 2)
    except OutcomeUnknownError:  # the writer's connection was the old one
        assert await through.highest_sequence_nr("p") == 1
        await write(through, "p", 2)
    assert await replay(through, "p") == [1, 2]


async def test_a_connection_that_breaks_off_while_the_schema_is_checked_is_made_again(
    through: Journal, postgres_server: Postgres, postgres_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, cuts = connections.check, iter([True, True])

    async def cut_twice(*arguments: Any) -> None:
        if next(cuts, False):
            postgres_proxy.cut()
        await real(*arguments)

    monkeypatch.setattr(connections, "check", cut_twice)
    url = postgres_server.url.replace(str(postgres_server.port), str(postgres_proxy.port))
    async with open_journal(url) as journal:
        await journal.open()
        assert next(cuts, None) is None
        assert await journal.highest_sequence_nr("p") == 1


async def test_a_server_that_stays_away_is_told_in_time(
    through: Journal, postgres_server: Postgres, postgres_proxy: Proxy
) -> None:
    del postgres_server
    postgres_proxy.block()
    url = f"postgresql://tester@127.0.0.1:{postgres_proxy.port}/postgres?connect_seconds=0.3"
    journal = open_journal(url)
    with pytest.raises(JournalUnavailableError, match="cannot be reached"):
        await journal.write_messages([record("p", 2)])
    postgres_proxy.block(False)

    async def goes_through() -> bool:
        with contextlib.suppress(JournalUnavailableError):  # a busy machine may need longer to connect, too
            await write(journal, "p", 2)
            return True
        return False

    await eventually(goes_through)
    await journal.close()


def _now() -> Any:
    from datetime import UTC, datetime

    return datetime.now(UTC)


async def test_a_claim_reads_what_is_due_and_not_all_ids_where_statistics_are_missing(
    postgres_schema: str, admin: Any
) -> None:
    async with PostgresJournal.from_url(postgres_schema.partition("://")[2]) as journal:
        await admin.execute(
            f"""INSERT INTO {journal.schema}.instance (persistence_id, sequence_nr, deleted, due_at)
                SELECT ('saga::order::' || n)::bytea, 1, false, now() + interval '1 day'
                FROM generate_series(1, 20000) n"""
        )
        now = microseconds(_now())
        rows = await admin.fetch(f"EXPLAIN {journal._due.claim_statement}", b"saga::order::", now, now, 500)
    reads = "\n".join(row[0] for row in rows).partition("CTE Scan")[0]
    assert "Index Scan using instance_due" in reads
    assert "instance_pkey" not in reads


@pytest.mark.parametrize(("history", "kept"), [("all", [1, 2, 3, 4, 5]), ("0", [5]), ("2", [3, 4, 5])])
async def test_history_is_kept_as_long_as_the_setting_says(postgres_schema: str, history: str, kept: list[int]) -> None:
    async with open_journal(f"{postgres_schema}&history={history}") as journal:
        await write(journal, "p", 1, 2, 3, 4, 5)
        assert await replay(journal, "p") == kept
        assert await journal.highest_sequence_nr("p") == 5


async def test_a_person_can_read_the_records_with_psql(postgres_schema: str, admin: Any) -> None:
    async with open_journal(postgres_schema) as journal:
        await journal.write_messages(
            [PersistentRepr("saga::order::1", 1, b'{"status":"running"}'), PersistentRepr("nul\x00", 1, b"{}")]
        )
    rows = await admin.fetch(
        f"SELECT persistence_id, record->>'status' FROM {schema_of(postgres_schema)}.saga ORDER BY 1"
    )
    assert [tuple(row) for row in rows] == [("nul\\000", None), ("saga::order::1", "running")]


async def test_text_with_nul_beside_the_id_is_refused_and_harms_no_neighbour(postgres_schema: str) -> None:
    async with open_journal(postgres_schema) as journal:
        results = await asyncio.gather(
            write(journal, "good", 1),
            journal.write_messages([record("bad", 1, manifest="a\x00b")]),
            return_exceptions=True,
        )
        assert [type(one) for one in results] == [type(None), InvalidEventError]
        assert await journal.ids_by_prefix("") == ["good"]


async def test_the_server_tells_the_time(postgres_schema: str) -> None:
    async with open_journal(postgres_schema) as journal:
        assert isinstance(journal, PostgresJournal)
        assert abs((await journal.server_time() - _now()).total_seconds()) < 5
