"""Live instances by the fields that their saga is indexed by: through the journal's own index, or by looking at all.

runner.find ─► [finding] ─► journal (by terms), or every live instance
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec

from ..decision.ids import key_term, parts_of, term_of
from ..decision.record import SagaRecord, Status, decode_record
from ..definition.indexing import Index, matches
from ..errors import CodecError, DefinitionError, InvalidEventError, NoInstanceError
from ..journal.protocol import FindsByTerms, latest_page
from ..journal.store import JournalSagaStateStore
from .arguments import check_text
from .ended import RecordReader, SagaOutcome
from .runtime import SagaRuntime

S = TypeVar("S")
_PAGE = 100
_AT_ONCE = 64  # loads from a store of four methods


class SagaInstance(msgspec.Struct, Generic[S], frozen=True):
    """An instance, as it was stored when it was found or asked for.

    `parked`: why an operator is needed; empty where none is. `unreadable`: why this code cannot read its record, of which
    nothing else is known then. `version` counts its steps.
    """

    saga: str
    correlation_id: str
    version: int
    status: Status | None
    incarnation: int
    started_at: datetime | None
    updated_at: datetime | None
    parked: str
    unreadable: str
    reader: RecordReader
    record: SagaRecord | None

    def __repr__(self) -> str:
        status = self.status.value if self.status is not None else "unreadable"
        return f"<SagaInstance {self.saga} {self.correlation_id!r}: {status}>"

    @property
    def state(self) -> S:
        """Its state, decoded anew. Raises CodecError for one that this code cannot read."""
        if self.record is None:
            raise CodecError(self.unreadable)
        state: S = self.reader.state(self.correlation_id, self.record)
        return state

    @property
    def outcome(self) -> SagaOutcome[S] | None:
        """How it ended; None while it has not. Raises CodecError for what this code cannot read."""
        if self.record is None:
            raise CodecError(self.unreadable)
        return self.reader.outcome(self.correlation_id, self.record)


async def instance_of(runtime: SagaRuntime, correlation_id: str) -> SagaInstance[Any]:
    """Return an instance as it is stored, live or not. See `SagaRunner.instance`."""
    check_text("correlation_id", correlation_id, error=InvalidEventError)
    saved = await runtime.load(correlation_id)
    record = None if saved is None else runtime.reader.record(correlation_id, saved.payload, deleted=saved.tombstone)
    if saved is None or record is None:
        why = "there is no such instance, or it ended longer ago than it is remembered"
        raise NoInstanceError(runtime.name, correlation_id, "", why)
    return _instance(runtime, correlation_id, saved.version, record, "")


def wanted_of(runtime: SagaRuntime, fields: Mapping[str, Any]) -> dict[str, str | None]:
    """Return what to look for. Raises DefinitionError for a field that is not indexed, or a value of another type."""
    if not fields:
        raise DefinitionError(f"find needs at least one field: find({type(runtime.saga).__name__}, customer_id=...)")
    table = type(runtime.saga).index_table()
    return {name: table.text(runtime.name, name, value) for name, value in fields.items()}


async def find(runtime: SagaRuntime, wanted: Index) -> AsyncIterator[SagaInstance[Any]]:
    """Yield the live instances whose index has these texts."""
    async for correlation_id, version, payload in _candidates(
        runtime, [term_of(runtime.name, *one) for one in wanted.items()]
    ):
        record, unreadable = None, ""
        try:
            record = runtime.reader.record(correlation_id, payload)
        except CodecError as error:
            unreadable = str(error)
        if record is not None and not matches(record.index, wanted):
            continue
        if record is not None and record.finished:  # in a store that knows no tombstones
            continue
        if record is not None or (unreadable and _by_index(runtime) is not None):
            yield _instance(runtime, correlation_id, version, record, unreadable)


def _instance(
    runtime: SagaRuntime, correlation_id: str, version: int, record: SagaRecord | None, unreadable: str
) -> SagaInstance[Any]:
    return SagaInstance(
        runtime.name,
        correlation_id,
        version,
        None if record is None else record.status,
        0 if record is None else record.incarnation,
        None if record is None else record.started_at,
        None if record is None else record.updated_at,
        "" if record is None else record.parked,
        unreadable,
        runtime.reader,
        record,
    )


def _by_index(runtime: SagaRuntime) -> FindsByTerms | None:
    store = runtime.store
    if isinstance(store, JournalSagaStateStore) and isinstance(store.journal, FindsByTerms):
        return store.journal
    return None


async def holders(runtime: SagaRuntime, name: str, text: str) -> AsyncIterator[list[str]]:
    """Yield the ids of live instances that hold that value of a key, some at a time.

    Each that holds it all the while comes once. One that has just taken it, or given it up, may be among them or not.
    """
    page: list[str] = []
    async for correlation_id, _, payload in _candidates(runtime, [key_term(runtime.name, name, text)]):
        if _by_index(runtime) is None and not _holds(payload, (name, text)):
            continue
        page.append(correlation_id)
        if len(page) == _PAGE:
            yield page
            page = []
    if page:
        yield page


def _holds(payload: bytes, by: tuple[str, str]) -> bool:
    try:
        return decode_record(payload).holds(by)
    except CodecError:  # which keys it holds is not known to this code
        return False


async def _candidates(runtime: SagaRuntime, terms: list[str]) -> AsyncIterator[tuple[str, int, bytes]]:
    """Yield the instances that may be meant: id, version, record."""
    indexed, store = _by_index(runtime), runtime.store
    if indexed is not None:
        after, more = "", True
        while more:
            page, after = await indexed.latest_by_terms(terms, after=after, limit=_PAGE)
            more = bool(after)
            for message in page:
                yield parts_of(message.persistence_id)[1], message.sequence_nr, message.payload
    elif isinstance(store, JournalSagaStateStore):
        after = ""
        while page := await latest_page(store.journal, runtime.prefix, after=after, limit=_PAGE):
            for message in page:
                yield parts_of(message.persistence_id)[1], message.sequence_nr, message.payload
            after = page[-1].persistence_id
    else:
        async for some in _in_groups(store.keys()):
            for key, saved in zip(some, await asyncio.gather(*map(runtime.load, some)), strict=True):
                if saved is not None and not saved.tombstone:
                    yield key, saved.version, saved.payload


async def _in_groups(keys: AsyncIterator[str]) -> AsyncIterator[list[str]]:
    group: list[str] = []
    async for key in keys:
        group.append(key)
        if len(group) == _AT_ONCE:
            yield group
            group = []
    if group:
        yield group
