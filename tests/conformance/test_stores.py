from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sagalog import (
    ConflictError,
    DefinitionError,
    InMemoryJournal,
    InMemorySagaStateStore,
    Journal,
    JournalSagaStateStore,
    JournalUnavailableError,
    SagaStateStore,
    open_journal,
)
from sagalog.conformance import StoreConformance
from sagalog.journal.store import DueStore, TombstoneStore

from ..runner.conftest import FourMethodStore


class TestInMemorySagaStateStore(StoreConformance):
    capabilities = frozenset()

    @classmethod
    def make(cls, place: Path, saga_name: str) -> InMemorySagaStateStore:
        return InMemorySagaStateStore(saga_name)


class TestAUsersOwnStore(StoreConformance):
    capabilities = frozenset()

    @classmethod
    def make(cls, place: Path, saga_name: str) -> FourMethodStore:
        return FourMethodStore()


class TestJournalSagaStateStore(StoreConformance):
    @pytest.fixture
    async def place(self, journal: Journal) -> Journal:
        return journal

    @classmethod
    def make(cls, place: Journal, saga_name: str) -> JournalSagaStateStore:
        return JournalSagaStateStore(place, saga_name)


@pytest.fixture(params=["memory", "sqlite", "postgres", "nats"])
async def journal(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Journal]:
    url = {
        "memory": lambda: "memory://",
        "sqlite": lambda: f"sqlite:///{tmp_path / 'journal.db'}",
        "postgres": lambda: request.getfixturevalue("postgres_schema"),
        "nats": lambda: request.getfixturevalue("nats_stream"),
    }[request.param]()
    async with open_journal(url) as journal:
        yield journal


async def test_records_in_the_journal_have_the_names_of_the_reference(journal: Journal) -> None:
    store = JournalSagaStateStore(journal, "order")
    await store.save("a::b", b"x")
    latest = await journal.latest_message("saga::order::a::b")
    assert latest is not None
    assert (latest.manifest, latest.tags, latest.sequence_nr) == ("saga-state", ("saga::order",), 1)
    assert latest.writer_uuid.startswith("saga-")
    assert latest.writer_uuid != JournalSagaStateStore(journal, "order").writer_uuid


@pytest.mark.parametrize("name", ["", "a::b", "a b", "é", "a\n"])
def test_a_saga_name_that_could_mix_up_ids_is_refused(name: str) -> None:
    with pytest.raises(DefinitionError, match="a saga name is"):
        JournalSagaStateStore(InMemoryJournal(), name)


async def test_a_tombstone_is_read_by_those_who_ask_and_fences_those_who_are_late(journal: Journal) -> None:
    store = JournalSagaStateStore(journal, "order")
    assert isinstance(store, TombstoneStore)
    assert isinstance(store, DueStore)
    now = datetime(2030, 1, 1, tzinfo=UTC)
    await store.create("a", b"1")
    with pytest.raises(ConflictError):
        await store.create("a", b"1")
    assert await store.delete_until("a", expected_version=1, tombstone=b"end", purge_at=now) == 2
    assert await store.load("a") is None
    saved = await store.load_with_tombstone("a")
    assert saved is not None
    assert (saved.payload, saved.version, saved.tombstone) == (b"end", 2, True)
    with pytest.raises(ConflictError):
        await store.create("a", b"again")
    with pytest.raises(ConflictError):
        await store.save("a", b"late", expected_version=1)
    assert [key async for key in store.tombstones()] == ["a"]
    assert await store.due(now) == [("a", now)]
    assert await store.save("a", b"next life", expected_version=2) == 3
    assert [record.payload async for record in store.history("a")] == [b"1", b"end", b"next life"]
    await store.purge("a", 2)
    assert await store.load("a") is not None


async def test_due_instances_are_those_of_the_own_saga(journal: Journal) -> None:
    one, two = JournalSagaStateStore(journal, "one"), JournalSagaStateStore(journal, "two")
    now = datetime(2030, 1, 1, tzinfo=UTC)
    await one.save("a", b"", due_at=now + timedelta(seconds=1))
    await two.save("a", b"", due_at=now)
    assert await one.due(now + timedelta(seconds=2)) == [("a", now + timedelta(seconds=1))]


async def test_a_failing_journal_is_told_and_never_looks_like_nothing_stored(journal: Journal) -> None:
    store: SagaStateStore = JournalSagaStateStore(journal, "order")
    await store.save("a", b"1")
    await journal.close()
    with pytest.raises(JournalUnavailableError):
        await store.load("a")
    with pytest.raises(JournalUnavailableError):
        await store.save("a", b"2", expected_version=1)
    with pytest.raises(JournalUnavailableError):
        await store.delete("a")
    with pytest.raises(JournalUnavailableError):
        [key async for key in store.keys()]
