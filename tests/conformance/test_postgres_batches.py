"""Batches in PostgreSQL: each record is told by itself, also where batches race or a connection breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from sagalog import ConflictError, JournalUnavailableError, OutcomeUnknownError, PersistentRepr, open_journal
from sagalog.conformance.records import record, write
from sagalog.journal.postgres import PostgresJournal
from sagalog.journal.protocol import MovedDue

from ..servers.postgres import Postgres
from ..servers.proxy import Proxy
from .named import kinds


@pytest.fixture
async def journal(postgres_schema: str) -> AsyncIterator[PostgresJournal]:
    async with open_journal(postgres_schema) as journal:
        assert isinstance(journal, PostgresJournal)
        yield journal


async def test_each_record_of_a_batch_is_told_by_itself(journal: PostgresJournal) -> None:
    await write(journal, "there", 1)
    batch = [
        record("new", 1),
        record("there", 1),
        record("there2", 2),
        record("bad", 1, manifest="a\x00b"),
        record("zero", 0),
        record("last", 1),
    ]
    lost = "SequenceOutOfOrder"
    assert kinds(await journal.write_batch(batch)) == [None, lost, lost, "InvalidEventError", lost, None]
    found = await journal.latest_messages(["last", "nowhere", "new", "last"])
    assert [one and one.persistence_id for one in found] == ["last", None, "new", "last"]
    assert await journal.write_batch([]) == []


async def test_a_large_batch_is_stored_as_a_whole(journal: PostgresJournal) -> None:
    batch = [record(f"p{number}", 1) for number in range(1000)]
    assert kinds(await journal.write_batch(batch)) == [None] * 1000
    assert kinds(await journal.write_batch(batch)) == ["SequenceOutOfOrder"] * 1000
    assert all(await journal.latest_messages([one.persistence_id for one in batch]))


@pytest.mark.parametrize("count", [1, 3, 300])
async def test_racing_batches_have_one_winner_for_each_id(journal: PostgresJournal, count: int) -> None:
    for number in (1, 2):
        batch = [record(f"p{one}", number) for one in range(count)]
        answers = await asyncio.gather(*(journal.write_batch(batch) for _ in range(6)))
        for of_one in zip(*answers, strict=True):
            assert sum(one is None for one in of_one) <= 1
        await journal.write_batch(batch)  # what none of them got, as each was in the way of another
        found = await journal.latest_messages([one.persistence_id for one in batch])
        assert [one.sequence_nr for one in found if one] == [number] * count


async def test_the_epoch_is_kept_compared_and_gone_after_a_purge(journal: PostgresJournal) -> None:
    def of(number: int, epoch: int, *, deleted: bool = False, key: str = "p") -> PersistentRepr:
        return PersistentRepr(key, number, b"{}", deleted=deleted, epoch=epoch, tags=("t",))

    others = [of(1, 2**63 - 1, key="q")]
    assert kinds(await journal.write_batch([of(1, 7), *others])) == [None, None]
    assert kinds(await journal.write_batch([of(2, 8)])) == ["SequenceOutOfOrder"]
    assert kinds(await journal.write_batch([of(2, 8), *[of(2, 3, key="q")]])) == ["SequenceOutOfOrder"] * 2
    assert kinds(await journal.write_batch([of(2, 0)])) == [None]
    with pytest.raises(ConflictError):
        await journal.write_messages([of(3, 7), of(4, 8)])
    await journal.write_messages([of(3, 7), of(4, 0, deleted=True)])
    latest = await journal.latest_message("p")
    assert latest is not None
    assert latest.epoch == 7
    assert [one.epoch async for one in journal.replay_messages("p")] == [7] * 4
    assert {one.epoch for _, one in [each async for each in journal.events_by_tag("t")]} == {7, 2**63 - 1}
    assert {one.epoch for one in (await journal.records_after(0))[0]} == {7, 2**63 - 1}
    assert [one.epoch for one in await journal.latest_by_prefix("q")] == [2**63 - 1]
    await journal.purge([("p", 4), ("q", 1), ("nowhere", 1)])
    assert await journal.latest_messages(["p"]) == [None]
    assert await journal.latest_message("q") is not None
    assert kinds(await journal.write_batch([of(5, 7)])) == ["SequenceOutOfOrder"]
    assert kinds(await journal.write_batch([of(1, 9)])) == [None]
    assert kinds(await journal.write_batch([of(2, -1), of(1, 2**63, key="r")])) == ["InvalidEventError"] * 2


async def test_a_lease_moves_without_a_record_only_where_the_number_is_still_that(journal: PostgresJournal) -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    for key in ("a", "b", "c"):
        await journal.write_messages([record(key, 1, due_at=at)])
    later = at + timedelta(days=1)
    moves = [MovedDue("a", 1, later), MovedDue("b", 2, later), MovedDue("c", 1, None), MovedDue("nowhere", 1, later)]
    assert list(await journal.move_due(moves)) == [True, False, True, False]
    assert await journal.due_ids("", later) == [("b", at), ("a", later)]


@pytest.mark.parametrize("lost", ["answer", "request"])
async def test_of_a_batch_in_flight_only_what_is_open_is_unknown(
    postgres_server: Postgres, postgres_proxy: Proxy, lost: str
) -> None:
    url = postgres_server.url.replace(str(postgres_server.port), str(postgres_proxy.port))
    async with open_journal(f"{url}?migrate=true") as journal:
        before = await journal.write_batch([record(f"a{number}", 1) for number in range(3)])
        postgres_proxy.lose(lost)
        answers = await journal.write_batch([record(f"b{number}", 1) for number in range(3)])
        assert kinds(before) == [None] * 3
        assert [type(one) for one in answers] == [OutcomeUnknownError] * 3
        stored = await journal.latest_messages([f"b{number}" for number in range(3)])
        assert [one is not None for one in stored] == [lost == "answer"] * 3
        assert kinds(await journal.write_batch([record("c", 1), record("d", 1)])) == [None, None]


async def test_a_read_that_fails_says_nothing_of_what_is_stored(
    postgres_server: Postgres, postgres_proxy: Proxy
) -> None:
    url = postgres_server.url.replace(str(postgres_server.port), str(postgres_proxy.port))
    async with open_journal(f"{url}?migrate=true&connect_seconds=2") as journal:
        await write(journal, "p", 1)
        postgres_proxy.block()
        with pytest.raises(JournalUnavailableError) as caught:
            await journal.latest_message("p")
        assert "stored" not in str(caught.value)
        postgres_proxy.block(False)
