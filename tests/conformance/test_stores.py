from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

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
from sagalog.journal.state_store import DueStore, TombstoneStore

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
    with pytest.raises(DefinitionError, match="a saga's name may have"):
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


async def test_of_many_creators_at_once_one_wins_and_nothing_is_overwritten(journal: Journal) -> None:
    stores = [JournalSagaStateStore(journal, "order") for _ in range(3)]

    async def create(store: JournalSagaStateStore, key: str, payload: bytes) -> bool:
        try:
            return await store.save(key, payload, expected_version=0) > 0
        except ConflictError:
            return False

    for key in map(str, range(40)):
        won = await asyncio.gather(*(create(store, key, b"%d" % n) for n, store in enumerate(stores)))
        assert sum(won) == 1
        saved = await stores[0].load(key)
        assert saved is not None
        assert (saved.payload, saved.version) == (b"%d" % won.index(True), 1)
        assert saved.epoch > 0


async def test_a_creator_between_two_looks_is_never_written_over(journal: Journal) -> None:
    store = JournalSagaStateStore(journal, "order")
    for name in ("latest_message", "highest_sequence_nr"):
        for gone in (False, True):  # nothing there yet, or a tombstone
            key = f"{name} {gone}"
            if gone:
                await store.save(key, b"before")
                await store.delete(key)
            late = JournalSagaStateStore(_WithCreator(journal, name, store, key), "order")
            if not gone:  # so that it has to look
                late._write_next = _losing_first(late._write_next)  # type: ignore[method-assign]
            with pytest.raises(ConflictError):
                await late.save(key, b"late", expected_version=0)
            saved = await store.load(key)
            assert saved is not None
            assert saved.payload == b"creator"


def _losing_first(write: Any) -> Any:
    attempts = iter([True])

    async def lose_first(key: str, version: int, *arguments: Any, **settings: Any) -> int:
        if next(attempts, False):
            raise ConflictError(key, version)
        return await write(key, version, *arguments, **settings)  # type: ignore[no-any-return]

    return lose_first


class _WithCreator:
    """A journal where somebody else creates the instance as soon as the first look at it is over."""

    def __init__(self, journal: Journal, after: str, store: JournalSagaStateStore, key: str) -> None:
        self._journal, self._after, self._store, self._key = journal, after, store, key
        self._created = False

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._journal, name)
        if name != self._after:
            return real

        async def look(*arguments: Any) -> Any:
            found = await real(*arguments)
            if not self._created:
                self._created = True
                await self._store.save(self._key, b"creator", expected_version=0)
            return found

        return look


async def test_deleters_at_once_leave_one_tombstone(journal: Journal) -> None:
    store = JournalSagaStateStore(journal, "order")
    for key in map(str, range(10)):
        await store.save(key, b"1")
        await asyncio.gather(*(store.delete(key, tombstone=b"%d" % n) for n in range(4)))
        saved = await store.load_with_tombstone(key)
        assert saved is not None
        assert (saved.tombstone, saved.version) == (True, 2)
        await store.purge(key, 2)
        await asyncio.gather(store.delete(key), store.delete(key, expected_version=0))
        assert await store.load_with_tombstone(key) is None


async def test_unconditional_saves_and_deletions_at_once_are_all_in_the_history(journal: Journal) -> None:
    store = JournalSagaStateStore(journal, "order")
    versions = await asyncio.gather(*(store.save("a", b"%d" % n) for n in range(6)), store.delete("a"))
    saved = [one async for one in store.history("a")]
    assert sorted(one for one in versions if one) == [one.version for one in saved if not one.tombstone]
    assert len({one.epoch for one in saved}) == 1


async def test_the_next_of_a_purged_id_has_another_epoch(journal: Journal) -> None:
    store = JournalSagaStateStore(journal, "order")
    epochs = set()
    for _ in range(3):
        version = await store.save("a", b"1")
        saved = await store.load("a")
        assert saved is not None
        epochs.add(saved.epoch)
        await store.delete("a")
        await store.purge("a", version + 1)
    assert len(epochs) == 3
