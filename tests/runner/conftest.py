from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sagalog import (
    ConflictError,
    InMemoryJournal,
    Journal,
    JournalSagaStateStore,
    ManualClock,
    RetryPolicy,
    RunnerSettings,
    SagaRecord,
    SagaRunner,
    SavedState,
    SqliteJournal,
    open_journal,
)
from sagalog.decision.record import decode_record

from ..orders import OrderSaga, World

QUICK = RetryPolicy(attempts=3, base=timedelta(milliseconds=1), cap=timedelta(milliseconds=2))


class FourMethodStore:
    """What a user might write: four methods over a dict, nothing else."""

    def __init__(self) -> None:
        self.saved: dict[str, tuple[bytes, int]] = {}

    async def load(self, correlation_id: str) -> SavedState | None:
        await asyncio.sleep(0)
        found = self.saved.get(correlation_id)
        return SavedState(*found) if found else None

    async def save(
        self,
        correlation_id: str,
        payload: bytes,
        *,
        expected_version: int | None = None,
        due_at: datetime | None = None,
    ) -> int:
        await asyncio.sleep(0)
        version = self.saved.get(correlation_id, (b"", 0))[1]
        if expected_version is not None and expected_version != version:
            raise ConflictError(correlation_id, expected_version)
        self.saved[correlation_id] = (bytes(payload), version + 1)
        return version + 1

    async def delete(
        self, correlation_id: str, *, expected_version: int | None = None, tombstone: bytes | None = None
    ) -> None:
        await asyncio.sleep(0)
        if expected_version is not None and self.saved.get(correlation_id, (b"", 0))[1] != expected_version:
            raise ConflictError(correlation_id, expected_version)
        self.saved.pop(correlation_id, None)

    async def keys(self) -> AsyncIterator[str]:
        for key in list(self.saved):
            yield key


LONG = timedelta(minutes=10)  # a lease that a worker does not prolong while a test runs


class Gate:
    """A store in front of another: counts, blocks, fails or loses answers where a test says so."""

    def __init__(self, inner: JournalSagaStateStore) -> None:
        self.inner = inner
        self.before: Callable[[str, bytes], Any] | None = None
        self.after: Callable[[str, bytes], Any] | None = None
        self.loads = 0
        # As if its worker were frozen: it hears of nothing that is due. Give it a LONG lease, for it would prolong another
        # one after a quarter of it, which a busy machine reaches.
        self.deaf = False

    async def _around(self, call: Any, key: str, payload: bytes) -> int:
        if self.before is not None:
            result = self.before(key, payload)
            if asyncio.iscoroutine(result):
                await result
        version: int = await call
        if self.after is not None:
            result = self.after(key, payload)
            if asyncio.iscoroutine(result):
                await result
        return version

    async def load(self, correlation_id: str) -> SavedState | None:
        self.loads += 1
        return await self.inner.load(correlation_id)

    async def load_with_tombstone(self, correlation_id: str) -> SavedState | None:
        self.loads += 1
        return await self.inner.load_with_tombstone(correlation_id)

    async def save(self, correlation_id: str, payload: bytes, **keywords: Any) -> int:
        return await self._around(_Later(self.inner.save, correlation_id, payload, **keywords), correlation_id, payload)

    async def create(self, correlation_id: str, payload: bytes, **keywords: Any) -> int:
        return await self._around(
            _Later(self.inner.create, correlation_id, payload, **keywords), correlation_id, payload
        )

    async def delete_until(self, correlation_id: str, **keywords: Any) -> int:
        payload = keywords["tombstone"]
        return await self._around(_Later(self.inner.delete_until, correlation_id, **keywords), correlation_id, payload)

    async def delete(self, correlation_id: str, **keywords: Any) -> None:
        await self.inner.delete(correlation_id, **keywords)

    async def purge(self, correlation_id: str, version: int) -> None:
        await self.inner.purge(correlation_id, version)

    async def due(self, before: datetime, *, limit: int = 1000) -> list[tuple[str, datetime]]:
        return [] if self.deaf else await self.inner.due(before, limit=limit)

    async def claim(self, before: datetime, until: datetime, *, limit: int = 1000) -> list[tuple[str, datetime]]:
        return [] if self.deaf else await self.inner.claim(before, until, limit=limit)

    def keys(self) -> AsyncIterator[str]:
        return self.inner.keys()


class _Later:
    """The call itself is made when awaited: after `before`."""

    def __init__(self, function: Any, *arguments: Any, **keywords: Any) -> None:
        self._call = lambda: function(*arguments, **keywords)

    def __await__(self) -> Any:
        return self._call().__await__()


class Bench:
    """A journal (or a four-method store), a clock, a world, and runners over them."""

    def __init__(self, journal: Journal | None) -> None:
        self.journal = journal
        self.plain = FourMethodStore()
        self.clock = ManualClock()
        self.world = World()

    @property
    def source(self) -> Any:
        return self.plain if self.journal is None else self.journal

    def runner(
        self, source: Any = None, *, dispatch: Any = None, sagas: Any = (OrderSaga,), **settings: Any
    ) -> SagaRunner:
        settings.setdefault("handler_retry", QUICK)
        settings.setdefault(
            "dispatch_retry", RetryPolicy(base=timedelta(milliseconds=1), cap=timedelta(milliseconds=2))
        )
        settings.setdefault("due_poll", timedelta(milliseconds=50))
        return SagaRunner(
            source if source is not None else self.source,
            sagas=sagas,
            dispatch=dispatch if dispatch is not None else self.world,
            clock=self.clock,
            settings=RunnerSettings(**settings),
        )

    async def stored(self, key: str) -> SavedState | None:
        if self.journal is None:
            return await self.plain.load(key)
        return await JournalSagaStateStore(self.journal, "order").load_with_tombstone(key)

    async def record(self, key: str) -> SagaRecord:
        saved = await self.stored(key)
        assert saved is not None, f"nothing is stored of {key}"
        return decode_record(saved.payload)

    async def log(self, key: str) -> list[str]:
        state = OrderSaga().decode_state((await self.record(key)).state_bytes())
        return state.log

    def advance(self, **by: float) -> None:
        self.clock.advance(timedelta(**by))


@pytest.fixture(params=["memory", "sqlite", "postgres", "nats", "four methods"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    OrderSaga.fail_times = 0
    OrderSaga.calls = []
    journal = {
        "memory": InMemoryJournal,
        "sqlite": lambda: SqliteJournal(tmp_path / "orders.db"),
        "postgres": lambda: open_journal(request.getfixturevalue("postgres_schema")),
        "nats": lambda: open_journal(request.getfixturevalue("nats_stream")),
        "four methods": lambda: None,
    }[request.param]()
    yield Bench(journal)
    if journal is not None:
        await journal.close()


@pytest.fixture(params=["memory", "sqlite", "postgres", "nats"])
async def shared(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    """Like `bench`, on journals that several runners may share."""
    OrderSaga.fail_times = 0
    OrderSaga.calls = []
    journal = {
        "memory": InMemoryJournal,
        "sqlite": lambda: SqliteJournal(tmp_path / "orders.db"),
        "postgres": lambda: open_journal(request.getfixturevalue("postgres_schema")),
        "nats": lambda: open_journal(request.getfixturevalue("nats_stream")),
    }[request.param]()
    yield Bench(journal)
    await journal.close()


@pytest.fixture(params=["memory", "sqlite"])
async def quick(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    """Like `bench`, on the journals without a server."""
    journal = InMemoryJournal() if request.param == "memory" else SqliteJournal(tmp_path / "sagas.db")
    yield Bench(journal)
    await journal.close()


@pytest.fixture(autouse=True)
async def _no_hanging() -> AsyncIterator[None]:
    """An upper bound for a test that waits for a signal which never comes."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    alarm = loop.call_later(20, task.cancel)
    yield
    alarm.cancel()
