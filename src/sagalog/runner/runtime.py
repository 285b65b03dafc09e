"""What a runner keeps of one saga while it runs: its code, its store, and what both can and cannot do.

Where the runner made the store from a journal, load.py and commit.py use that journal in batches. A store that was given
is read here, one instance at a time.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from ..decision.ids import prefix_of
from ..decision.pages import Encoded, StoredMessages, encode_in_pages
from ..decision.record import SagaRecord, encode_record
from ..definition.codec import TypeRegistry
from ..definition.saga import Saga
from ..errors import DefinitionError, PayloadTooLargeError
from ..journal import Journal
from ..journal.pages import Paging, named_by, paging_of, records_at
from ..journal.protocol import LAST_MOMENT
from ..journal.reservations import Reservations
from ..journal.state_store import DueStore, SagaStateStore, SavedState, TombstoneStore
from ..journal.store import JournalSagaStateStore
from .declined import Declined
from .ended import RecordReader
from .engine import Engine
from .passed_over import PassedOver
from .scanned import ScannedStore


class SagaRuntime:
    """One saga in a started runner. `journal`: the one that its store was made from; None if the store was given."""

    def __init__(self, saga: Saga[Any], store: SagaStateStore, engine: Engine, journal: Journal | None = None) -> None:
        self.journal = journal
        self.saga = saga
        self.name: str = saga.name
        self.prefix: str = prefix_of(saga.name)
        self.reservations: Reservations | None = None  # of its unique keys, where it has some
        if any(key.unique for key in saga.keys) and isinstance(store, JournalSagaStateStore):
            self.reservations = Reservations(store.journal, saga.name, engine.now, engine.loop.time, engine.retention)
        self.registry: TypeRegistry = type(saga).registry(saga)
        self.reader: RecordReader = RecordReader(saga, self.registry)
        self.engine = engine
        self.half_retention: timedelta = engine.retention / 2
        self.most_bytes: int = engine.settings.max_payload_bytes
        paging = paging_of(store.journal) if isinstance(store, JournalSagaStateStore) else Paging(0, 0)
        self.page_bytes: int = paging.page_bytes
        self._history = paging.history
        scanned = None if isinstance(store, DueStore) else ScannedStore(store)
        self.store: SagaStateStore = scanned or store
        self.scanned = scanned
        self.due: DueStore = scanned or store  # type: ignore[assignment]
        self.tombstones: TombstoneStore | None = store if isinstance(store, TombstoneStore) else None
        # Instances whose record this code cannot read, and why. The store keeps them as they are.
        self.unreadable: dict[str, str] = {}
        # Instances that could not be parked, because the record would have been too large: the command, and the size then.
        self.unrecorded: dict[str, tuple[str, int]] = {}
        self.passed_over: PassedOver = PassedOver()
        self.declined: Declined = Declined(engine.lease)

    @property
    def starts_unseen(self) -> bool:
        """A starting event may be tried without a load, because the save fails if anything is stored."""
        return self.tombstones is not None

    async def load(self, correlation_id: str) -> SavedState | None:
        """Return what is stored, the tombstone of a finished instance included."""
        if self.tombstones is not None:
            return await self.tombstones.load_with_tombstone(correlation_id)
        return await self.store.load(correlation_id)

    def encode_in_pages(self, record: SagaRecord, before: StoredMessages) -> Encoded:
        """Return what to save of a record with messages, behind the one that `before` tells of."""
        return encode_in_pages(record, before, self.page_bytes, self._history)

    def check_size(self, record: SagaRecord) -> None:
        """Raise PayloadTooLargeError for a record over the limit."""
        size = len(encode_record(record))
        if size > self.most_bytes:
            raise self.too_large(size)

    def too_large(self, size: int) -> PayloadTooLargeError:
        """Return the error for a record of that size."""
        return PayloadTooLargeError(f"the record of an instance of saga {self.name!r}", size, self.most_bytes)

    def purge_at(self, record: SagaRecord) -> datetime:
        """Return when the tombstone of a finished record may be forgotten."""
        retention = self.engine.retention
        return min(record.updated_at, LAST_MOMENT - retention) + retention

    async def named_by(
        self, correlation_id: str, saved: SavedState, record: SagaRecord, connection: Any = None
    ) -> dict[int, SagaRecord]:
        """Return the records that one names, by their numbers; with `connection`, as that transaction sees them."""
        store = self.store
        if not isinstance(store, JournalSagaStateStore):
            return {}
        replay, key = store.replaying(connection), self.prefix + correlation_id
        return await records_at(replay, key, saved.epoch, named_by(record))

    async def load_in_transaction(self, connection: Any, correlation_id: str) -> SavedState | None:
        """Return what is stored as a transaction of the caller sees it."""
        return await self.transactional().load_in_transaction(connection, correlation_id)

    def transactional(self) -> JournalSagaStateStore:
        """Return the store. Raises DefinitionError if it cannot write within a transaction of the caller."""
        if not isinstance(self.store, JournalSagaStateStore) or not self.store.writes_in_transactions:
            raise DefinitionError(
                "connection= is for a journal in the same database as your own tables: open the runner on "
                "postgresql://... or sqlite:///...; nothing was stored"
            )
        return self.store

    async def purge(self, correlation_id: str, saved: SavedState) -> None:
        """Forget a finished instance whose retention has ended."""
        if self.tombstones is not None:
            await self.tombstones.purge(correlation_id, saved.version)
        else:
            await self.store.delete(correlation_id, expected_version=saved.version)

    def retention_ended(self, record: SagaRecord, now: datetime) -> bool:
        """Say whether a finished, drained record may be forgotten."""
        retention: timedelta = self.engine.retention
        return record.finished and record.updated_at + retention <= now
