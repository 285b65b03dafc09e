"""Live instances by the fields that their saga is indexed by, and by their keys: through the journal's own index, the
reservation of a unique key, or by looking at all.

runner.find ─► [finding] ─► journal (by terms), or every live instance
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec

from ..decision.entries import Status
from ..decision.ids import key_term, parts_of, term_of
from ..decision.keys import KeyValue
from ..decision.record import SagaRecord, decode_record
from ..definition.indexing import Index, matches
from ..definition.keys import key_text, no_key
from ..errors import CodecError, DefinitionError, InvalidEventError, NoInstanceError
from ..journal.protocol import FindsByTerms, FindsInTransactions, all_latest, in_groups
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
        why = "there is no such instance, or it ended so long ago that it is forgotten"
        raise NoInstanceError(runtime.name, correlation_id, "", why)
    return _instance(runtime, correlation_id, saved.version, record, "")


class Wanted(msgspec.Struct, frozen=True):
    """What instances are looked for by: fields of the index, and keys; of these one that is unique, if there is one."""

    fields: Index
    keys: tuple[KeyValue, ...]
    unique: KeyValue | None

    def terms(self, saga: str) -> list[str]:
        """Return the terms under which a journal with an index has them."""
        return [*(term_of(saga, *one) for one in self.fields.items()), *(key_term(saga, *one) for one in self.keys)]

    def takes(self, record: SagaRecord) -> bool:
        """Say whether an instance is one of them."""
        return matches(record.index, self.fields) and all(map(record.holds, self.keys))


def wanted_of(runtime: SagaRuntime, fields: Mapping[str, Any]) -> Wanted:
    """Return what to look for. Raises DefinitionError for neither a field of the index nor a key, or for such a value."""
    saga = type(runtime.saga)
    if not fields:
        raise DefinitionError(f"find needs at least one field or key: find({saga.__name__}, customer_id=...)")
    table, declared = saga.index_table(), saga.key_table
    indexed: dict[str, str | None] = {}
    keys: list[KeyValue] = []
    unique: KeyValue | None = None
    for name, value in fields.items():
        if name in table.names:  # also where a key has the same name
            indexed[name] = table.text(runtime.name, name, value)
        elif name not in declared:
            raise DefinitionError(_unknown(runtime.name, name, table.names, tuple(declared)))
        elif (text := key_text(value)) is None:
            raise DefinitionError(
                f"saga {runtime.name!r} is found by its key {name!r} as a str that is not empty, an int or a UUID, not as "
                f"{no_key(value)}"
            )
        else:
            keys.append((name, text))
            if declared[name].unique and runtime.reservations is not None:
                unique = name, text
    return Wanted(indexed, tuple(keys), unique)


def _unknown(saga: str, name: str, fields: tuple[str, ...], keys: tuple[str, ...]) -> str:
    index = f"its index has {', '.join(fields)}" if fields else "it has no index"
    held = f"its keys are {', '.join(keys)}" if keys else "it has no keys"
    return (
        f"saga {saga!r} has no index on {name!r} and no key of that name; {index}, {held}. Write in its class "
        f"index = ({name!r}, ...) for a field of its state, or keys = (Key({name!r}), ...) and yield AddKey"
    )


async def find(runtime: SagaRuntime, wanted: Wanted) -> AsyncIterator[SagaInstance[Any]]:
    """Yield the live instances that are wanted."""
    if wanted.unique is not None:
        found = _holder(runtime, wanted.unique)
    else:
        found = candidates(runtime, wanted.terms(runtime.name))
    narrowed = wanted.unique is not None or by_index(runtime) is not None
    async for correlation_id, version, payload in found:
        record, unreadable = None, ""
        try:
            record = runtime.reader.record(correlation_id, payload)
        except CodecError as error:
            unreadable = str(error)
        if record is not None and not wanted.takes(record):
            continue
        if record is not None and record.finished:  # in a store that knows no tombstones
            continue
        if record is not None or (unreadable and narrowed):
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


def by_index(runtime: SagaRuntime) -> FindsByTerms | None:
    """Return the journal, where it finds by terms."""
    store = runtime.store
    if isinstance(store, JournalSagaStateStore) and isinstance(store.journal, FindsByTerms):
        return store.journal
    return None


async def holders(runtime: SagaRuntime, name: str, text: str) -> AsyncIterator[list[str]]:
    """Yield the ids of live instances that hold that value of a key, some at a time.

    Each that holds it all the while comes once. One that has just taken it, or given it up, may be among them or not.
    """
    page: list[str] = []
    async for correlation_id, _, payload in candidates(runtime, [key_term(runtime.name, name, text)]):
        if by_index(runtime) is None and not _holds(payload, (name, text)):
            continue
        page.append(correlation_id)
        if len(page) == _PAGE:
            yield page
            page = []
    if page:
        yield page


async def in_pages(correlation_ids: list[str]) -> AsyncIterator[list[str]]:
    """Yield ids some at a time, as `holders` does."""
    for start in range(0, len(correlation_ids), _PAGE):
        yield correlation_ids[start : start + _PAGE]


async def holders_in_transaction(
    runtime: SagaRuntime, name: str, text: str, connection: Any
) -> AsyncIterator[list[str]]:
    """Yield the same as a transaction of the caller sees it, with what its own steps have taken and given up."""
    journal = runtime.journal
    if not isinstance(journal, FindsInTransactions):
        async for page in holders(runtime, name, text):
            yield page
        return
    term, after = key_term(runtime.name, name, text), ""
    while True:
        found, after = await journal.ids_in_transaction(connection, term, after=after, limit=_PAGE)
        if found:
            yield [one[len(runtime.prefix) :] for one in found]
        if not after:
            return


def _holds(payload: bytes, by: tuple[str, str]) -> bool:
    try:
        return decode_record(payload).holds(by)
    except CodecError:  # which keys it holds is not known to this code
        return False


async def _holder(runtime: SagaRuntime, unique: KeyValue) -> AsyncIterator[tuple[str, int, bytes]]:
    """Yield the instance that may hold a unique key, if there is one: id, version, record."""
    assert runtime.reservations is not None
    holder = await runtime.reservations.holder_of(unique)
    saved = None if holder is None else await runtime.load(holder)
    if holder is not None and saved is not None and not saved.tombstone:
        yield holder, saved.version, saved.payload


async def candidates(runtime: SagaRuntime, terms: list[str]) -> AsyncIterator[tuple[str, int, bytes]]:
    """Yield the instances that may be meant: id, version, record. Without an index, these are all live ones of the saga."""
    indexed, store = by_index(runtime), runtime.store
    if indexed is not None:
        after, more = "", True
        while more:
            page, after = await indexed.latest_by_terms(terms, after=after, limit=_PAGE)
            more = bool(after)
            for message in page:
                yield parts_of(message.persistence_id)[1], message.sequence_nr, message.payload
    elif isinstance(store, JournalSagaStateStore):
        async for message in all_latest(store.journal, runtime.prefix, limit=_PAGE):
            yield parts_of(message.persistence_id)[1], message.sequence_nr, message.payload
    else:
        async for some in in_groups(store.keys(), _AT_ONCE):
            for key, saved in zip(some, await asyncio.gather(*map(runtime.load, some)), strict=True):
                if saved is not None and not saved.tombstone:
                    yield key, saved.version, saved.payload
