"""What every saga state store promises: four methods, one key at a time, compare-and-set by version."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import Any

import pytest
import pytest_asyncio

from ..errors import ConflictError
from ..journal.state_store import SagaStateStore
from .capability import Capability, Capable, may

KEYS = ["1", "a::b", "a/b", "\u00e9", "e\u0301", "\U0001f6a2", "A", "a", "%", " ", "a\x00b"]


@pytest.mark.asyncio
class StoreConformance(Capable):
    """Subclass it with `make`, and name the capabilities that the store has. `place` is as for `JournalConformance`."""

    capabilities: Collection[Capability] = frozenset({Capability.REOPEN})

    @classmethod
    def make(cls, place: Any, saga_name: str) -> SagaStateStore:
        """Return the store of a saga's instances at `place`. Called for two sagas at one place, and to reopen them."""
        raise NotImplementedError(f"{cls.__name__}.make(place, saga_name) must return the store to be tested")

    @pytest_asyncio.fixture
    async def store(self, place: Any) -> AsyncIterator[SagaStateStore]:
        yield self.make(place, "one")

    @pytest_asyncio.fixture
    async def other(self, place: Any) -> AsyncIterator[SagaStateStore]:
        yield self.make(place, "one.two")

    async def test_what_was_saved_is_loaded_with_its_version(self, store: SagaStateStore) -> None:
        assert await store.load("a") is None
        assert await store.save("a", b"1", expected_version=0) == 1
        assert await store.save("a", b"2", expected_version=1) == 2
        saved = await store.load("a")
        assert saved is not None
        assert (saved.payload, saved.version) == (b"2", 2)

    async def test_creating_twice_is_a_conflict_and_stores_nothing(self, store: SagaStateStore) -> None:
        await store.save("a", b"1", expected_version=0)
        with pytest.raises(ConflictError):
            await store.save("a", b"2", expected_version=0)
        assert (await store.load("a")).payload == b"1"  # type: ignore[union-attr]

    @pytest.mark.parametrize("expected", [1, 3, 99])
    async def test_saving_on_another_version_is_a_conflict_and_stores_nothing(
        self, store: SagaStateStore, expected: int
    ) -> None:
        await store.save("a", b"1", expected_version=0)
        await store.save("a", b"2", expected_version=1)
        with pytest.raises(ConflictError):
            await store.save("a", b"3", expected_version=expected)
        assert (await store.load("a")).payload == b"2"  # type: ignore[union-attr]

    async def test_saving_without_a_version_is_unconditional(self, store: SagaStateStore) -> None:
        assert await store.save("a", b"1") == 1
        assert await store.save("a", b"2") == 2

    async def test_what_is_deleted_is_gone_and_listed_no_more(self, store: SagaStateStore) -> None:
        await store.save("a", b"1")
        await store.save("b", b"1")
        await store.delete("a", expected_version=1)
        assert await store.load("a") is None
        assert [key async for key in store.keys()] == ["b"]
        await store.delete("never there")

    async def test_deleting_on_another_version_is_a_conflict_and_deletes_nothing(self, store: SagaStateStore) -> None:
        await store.save("a", b"1")
        await store.save("a", b"2")
        with pytest.raises(ConflictError):
            await store.delete("a", expected_version=1)
        assert (await store.load("a")).payload == b"2"  # type: ignore[union-attr]

    async def test_a_late_save_does_not_raise_the_dead(self, store: SagaStateStore) -> None:
        version = await store.save("a", b"1")
        await store.delete("a")
        with pytest.raises(ConflictError):
            await store.save("a", b"2", expected_version=version)
        assert await store.load("a") is None

    async def test_after_a_deletion_the_next_life_begins(self, store: SagaStateStore) -> None:
        await store.save("a", b"1")
        await store.delete("a")
        await store.save("a", b"2", expected_version=0)
        assert (await store.load("a")).payload == b"2"  # type: ignore[union-attr]
        assert [key async for key in store.keys()] == ["a"]

    async def test_one_key_under_two_sagas_is_two_instances(self, store: SagaStateStore, other: SagaStateStore) -> None:
        await store.save("a", b"1", expected_version=0)
        await other.save("a", b"2", expected_version=0)
        await other.delete("a")
        assert (await store.load("a")).payload == b"1"  # type: ignore[union-attr]
        assert [key async for key in other.keys()] == []

    async def test_what_was_passed_or_loaded_can_be_changed_without_changing_the_store(
        self, store: SagaStateStore
    ) -> None:
        payload = bytearray(b"before")
        await store.save("a", payload)  # type: ignore[arg-type]
        payload[:] = b"after!"
        saved = await store.load("a")
        assert saved is not None
        assert saved.payload == b"before"
        assert isinstance(saved.payload, bytes)

    async def test_keys_of_any_text_stay_apart(self, store: SagaStateStore) -> None:
        for n, key in enumerate(KEYS):
            await store.save(key, f"{n}".encode(), expected_version=0)
        for n, key in enumerate(KEYS):
            assert (await store.load(key)).payload == f"{n}".encode()  # type: ignore[union-attr]
        assert sorted([key async for key in store.keys()]) == sorted(KEYS)

    async def test_every_live_key_is_listed_once_while_others_write(self, store: SagaStateStore) -> None:
        stable = {f"stable-{n:04}" for n in range(2500)}
        for key in stable:
            await store.save(key, b"x")
        for n in range(1200, 2300):  # more than a page of keys goes away
            await store.save(f"stable-{n:04}-gone", b"x")
        listed = []
        async for key in store.keys():
            listed.append(key)
            if len(listed) == 1000:
                await asyncio.gather(*(store.delete(f"stable-{n:04}-gone") for n in range(1200, 2300)))
                for n in range(50):
                    await store.save(f"new-{n}", b"x")
                    await store.save(f"stable-{n:04}", b"changed")
        assert len(listed) == len(set(listed))
        assert stable <= set(listed)

    async def test_of_many_writers_of_one_version_one_wins(self, store: SagaStateStore) -> None:
        await store.save("a", b"0")
        results = await asyncio.gather(
            *(store.save("a", f"{n}".encode(), expected_version=1) for n in range(20)), return_exceptions=True
        )
        assert sorted(type(result).__name__ for result in results) == ["ConflictError"] * 19 + ["int"]
        assert (await store.load("a")).version == 2  # type: ignore[union-attr]

    @may(Capability.REOPEN)
    async def test_a_store_made_anew_at_the_same_place_has_everything(self, store: SagaStateStore, place: Any) -> None:
        await store.save("a", b"1")
        await store.save("a", b"2")
        await store.save("b", b"1")
        await store.delete("b")
        again = self.make(place, "one")
        saved = await again.load("a")
        assert saved is not None
        assert (saved.payload, saved.version) == (b"2", 2)
        assert [key async for key in again.keys()] == ["a"]
        with pytest.raises(ConflictError):
            await again.save("a", b"3", expected_version=1)
        assert await again.save("a", b"3", expected_version=2) == 3
