"""A runner of orders and the parcels that are their children, for tests: what is stored, and what reached the outside."""

from __future__ import annotations

from typing import Any

import msgspec

from sagalog import (
    InMemoryJournal,
    JournalSagaStateStore,
    SagaRecord,
    SagaRunner,
)
from sagalog.decision.record import decode_record, encode_record

from ..families import (
    OrderSaga,
    ParcelSaga,
)
from .conftest import Bench


class Family:
    """A runner of orders and parcels, and what reached the outside."""

    def __init__(self, journal: Any = None, sagas: Any = (OrderSaga, ParcelSaga), **settings: Any) -> None:
        self.bench = Bench(journal or InMemoryJournal())
        self.done: list[str] = []
        self.runner: SagaRunner = self.bench.runner(sagas=list(sagas), dispatch=self._accept, **settings)

    def _accept(self, command: Any) -> None:
        self.done.append(f"{type(command).__name__} {getattr(command, 'id', getattr(command, 'parcel', ''))}")

    async def __aenter__(self) -> Family:
        await self.runner.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.runner.stop()

    async def happen(self, *events: Any) -> None:
        for event in events:
            await self.runner.handle(event)
            await self.runner.settle()

    async def record(self, saga: str, correlation_id: str) -> SagaRecord:
        assert self.bench.journal is not None
        saved = await JournalSagaStateStore(self.bench.journal, saga).load_with_tombstone(correlation_id)
        assert saved is not None
        return decode_record(saved.payload)

    async def forget(self, saga: str, correlation_id: str) -> None:
        """Purge an instance that has ended."""
        journal, own = self.bench.journal, f"saga::{saga}::{correlation_id}"
        assert isinstance(journal, InMemoryJournal)
        newest = await journal.latest_message(own)
        assert newest is not None
        assert newest.deleted
        await journal.purge([(own, newest.sequence_nr)])

    async def first(self, saga: str, correlation_id: str) -> SagaRecord:
        assert self.bench.journal is not None
        async for message in self.bench.journal.replay_messages(f"saga::{saga}::{correlation_id}"):
            return decode_record(message.payload)
        raise AssertionError("nothing is stored")

    async def store(self, saga: str, correlation_id: str, record: SagaRecord) -> None:
        """Store a record as the next step."""
        assert self.bench.journal is not None
        newest = await self.bench.journal.latest_message(f"saga::{saga}::{correlation_id}")
        assert newest is not None
        one = msgspec.structs.replace(newest, sequence_nr=newest.sequence_nr + 1, payload=encode_record(record))
        await self.bench.journal.write_messages([one])

    async def ended(self, correlation_id: str = "a") -> list[str]:
        return OrderSaga().decode_state((await self.record("order", correlation_id)).state_bytes()).ended
