"""Moments at the ends of the calendar come back from PostgreSQL as they were, or are refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from sagalog import InvalidEventError, open_journal
from sagalog.conformance.records import record, write
from sagalog.journal.postgres import PostgresJournal
from sagalog.journal.protocol import FIRST_MOMENT, LAST_MOMENT, MovedDue

from .named import kinds


@pytest.fixture
async def journal(postgres_schema: str) -> AsyncIterator[PostgresJournal]:
    async with open_journal(postgres_schema) as journal:
        assert isinstance(journal, PostgresJournal)
        yield journal


EDGES = [LAST_MOMENT, FIRST_MOMENT]


OUTSIDE = [
    LAST_MOMENT + timedelta(microseconds=1),
    FIRST_MOMENT - timedelta(microseconds=1),
    datetime.max.replace(tzinfo=UTC),
    datetime.min.replace(tzinfo=UTC),
    datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))),
    datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
    datetime(2030, 1, 1),  # noqa: DTZ001  (naive, on purpose)
]


@pytest.mark.parametrize(
    "at", [*EDGES, datetime(9999, 12, 28, 23, 59, 59, 1, UTC), datetime(1969, 12, 31, 23, 59, 59, 7, UTC)]
)
async def test_a_moment_comes_back_as_it_was(journal: PostgresJournal, admin: Any, at: datetime) -> None:
    await journal.write_batch([record("a", 1, due_at=at)])
    await journal.write_batch([record("b", 1, due_at=at), record("c", 1), record("d", 1, due_at=datetime.now(UTC))])
    await journal.move_due([MovedDue("c", 1, at)])
    await journal.claim_due("d", datetime.max.replace(tzinfo=UTC), at)
    assert await journal.due_ids("", datetime.max.replace(tzinfo=UTC)) == [(key, at) for key in "abcd"]
    latest = await journal.latest_message("a")
    assert latest is not None
    assert latest.due_at == at
    assert not await admin.fetchval(
        f"SELECT count(*) FROM {journal.schema}.instance WHERE due_at IN ('infinity', '-infinity')"
    )


@pytest.mark.parametrize("at", OUTSIDE)
async def test_a_moment_that_cannot_be_carried_is_refused_before_anything_is_stored(
    journal: PostgresJournal, at: datetime
) -> None:
    await write(journal, "p", 1)
    assert kinds(await journal.write_batch([record("a", 1, due_at=at), record("b", 1)])) == ["InvalidEventError", None]
    for work in (
        journal.write_messages([record("a", 1, due_at=at)]),
        journal.claim_due("", EDGES[0], at),
        journal.move_due([MovedDue("p", 1, at)]),
    ):
        with pytest.raises(InvalidEventError):
            await work
    assert await journal.latest_message("a") is None
