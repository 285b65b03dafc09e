"""Reading what is new, and the newest of many: what the dashboard needs of a journal beyond the contract of all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from sagalog import PersistentRepr, open_journal
from sagalog.journal import Journal
from sagalog.journal.protocol import Followable, ListsLatest, latest_page


@pytest.fixture(params=["memory", "sqlite", "postgres", "nats"])
async def journal(request: pytest.FixtureRequest) -> AsyncIterator[Journal]:
    fixtures = {"postgres": "postgres_schema", "nats": "nats_stream"}
    url = {"memory": "memory://", "sqlite": "sqlite:///{}"}.get(request.param, "")
    if request.param in fixtures:
        url = request.getfixturevalue(fixtures[request.param])
    elif request.param == "sqlite":
        url = url.format(request.getfixturevalue("tmp_path") / "followed.db")
    async with open_journal(url) as opened:
        yield opened


def record(persistence_id: str, number: int, *, deleted: bool = False) -> PersistentRepr:
    return PersistentRepr(persistence_id, number, f"{persistence_id}-{number}".encode(), "m", "w", deleted, ("t",))


def names(records: list[PersistentRepr]) -> list[tuple[str, int]]:
    return [(one.persistence_id, one.sequence_nr) for one in records]


async def test_what_is_written_after_the_newest_offset_is_read_once_in_write_order(journal: Journal) -> None:
    assert isinstance(journal, Followable)
    await journal.write_messages([record("before", 1)])
    offset = await journal.newest_offset()
    assert await journal.records_after(offset) == ([], offset)
    written = [record("a", 1), record("b", 1), record("a", 2), record("c", 1), record("b", 2, deleted=True)]
    for one in written:
        await journal.write_messages([one])
    found: list[PersistentRepr] = []
    async with asyncio.timeout(30):
        while len(found) < len(written):  # a replica that is behind gives the rest another time
            page, offset = await journal.records_after(offset, limit=2)
            assert len(page) <= 2
            found += page
    assert found == written
    assert (await journal.records_after(offset))[0] == []


async def test_a_record_that_takes_the_place_of_a_purged_one_is_still_followed(journal: Journal) -> None:
    assert isinstance(journal, Followable)
    await journal.write_messages([record("stays", 1)])
    await journal.write_messages([record("gone", 1, deleted=True)])
    found: list[PersistentRepr] = []
    offset = 0
    async with asyncio.timeout(40):
        while ("gone", 1) not in names(found):  # a follower sees it in a while
            found, offset = await journal.records_after(offset)
    await journal.purge([("gone", 1)])
    _, offset = await journal.records_after(offset)
    await journal.write_messages([record("new", 1)])
    found = []
    async with asyncio.timeout(40):
        while not found:  # a follower sees it in a while
            found, offset = await journal.records_after(offset)
    assert names(found) == [("new", 1)]


async def test_the_newest_records_of_a_page_of_ids_come_together(journal: Journal) -> None:
    assert isinstance(journal, ListsLatest) or type(journal).__name__ == "NatsJournal"
    for number in (1, 2):
        await journal.write_messages([record(f"saga::a::{n}", number) for n in range(5)])
    await journal.write_messages([record("saga::a::1", 3, deleted=True), record("saga::b::0", 1)])
    for deleted in (False, True):
        found, after = [], ""
        while page := await latest_page(journal, "saga::a::", after=after, limit=2, deleted=deleted):
            assert len(page) <= 2
            found += page
            after = page[-1].persistence_id
        ids = [one async for one in _ids(journal, deleted)]
        assert [one.persistence_id for one in found] == ids
        assert {one.sequence_nr for one in found} == ({3} if deleted else {2})
        assert all(one.payload == f"{one.persistence_id}-{one.sequence_nr}".encode() for one in found)


async def _ids(journal: Journal, deleted: bool) -> AsyncIterator[str]:
    for one in await journal.ids_by_prefix("saga::a::", deleted=deleted):
        yield one
