"""Looking at sagas without changing them: straight from the journal, streaming, finished ones included."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

import msgspec

from ..decision import ids as saga_ids
from ..decision.record import SagaRecord, Status, decode_record
from ..definition.indexing import Index, matches
from ..errors import CodecError, JournalFormatError, SagalogError
from ..journal import Journal, PersistentRepr
from ..journal.protocol import FindsByTerms, ListsLatest
from .json_diff import ABSENT, Change, changes

OVERDUE_AFTER = timedelta(seconds=15)  # three leases: by then some worker should have taken what is due
_AT_ONCE = 64  # records that are read ahead
_DAMAGED = (JournalFormatError, CodecError, ValueError, OverflowError)  # what a row raises that its journal cannot read


class SagaView(msgspec.Struct, frozen=True):
    """One instance as a journal holds it, or one step of its history.

    `record` is None where this code cannot read it: `unreadable` says why. Where only its state or its messages cannot be
    read, `unreadable` says so, and there is a record. `finished`: it is a tombstone.
    """

    saga: str
    correlation_id: str
    version: int
    record: SagaRecord | None
    finished: bool = False
    unreadable: str = ""
    due_at: datetime | None = None
    writer: str = ""

    @property
    def status(self) -> str:
        """The status to show: parked and unreadable ones are told apart."""
        if self.unreadable:
            return "unreadable"
        if self.record is None:
            return "finished"
        return "parked" if self.record.parked else self.record.status.value

    @property
    def phase(self) -> str:
        """The name of its phase, or nothing."""
        return "" if self.record is None else self.record.phase

    @property
    def why(self) -> str:
        """Why it needs an operator, or nothing."""
        record = self.record
        if record is None or self.unreadable:
            return self.unreadable
        if record.status is Status.COMPENSATION_FAILED and not record.parked and record.undo:
            return f"the undo command {record.undo[-1].command.type} was refused"
        return record.parked

    def overdue(self, now: datetime) -> bool:
        """Say whether it needs attention for longer than workers should take to give it."""
        return not self.finished and self.due_at is not None and self.due_at < now - OVERDUE_AFTER

    @property
    def sent(self) -> list[tuple[str, str]]:
        """The commands of this step: entry id and type. A scheduled one is not among them: it is handled, when due."""
        if self.record is None:
            return []
        return [(c.id, c.title) for c in self.record.outbox if c.id.startswith(f"{self.version}/")]


def view_of(message: PersistentRepr) -> SagaView:
    """Return what a journal's record says about an instance; never raises for what is in it."""
    saga, correlation_id = saga_ids.parts_of(message.persistence_id)
    record, unreadable = None, ""
    if message.payload:
        try:
            record = decode_record(message.payload)
            record.state_bytes()
        except CodecError as error:
            unreadable = str(error)
        except (ValueError, OverflowError, TypeError, RecursionError) as error:  # what no decoder was made for
            unreadable = f"its record is damaged ({type(error).__name__})"
    elif not message.deleted:
        unreadable = "its record is empty"
    return SagaView(
        saga,
        correlation_id,
        message.sequence_nr,
        record,
        message.deleted,
        unreadable,
        message.due_at,
        message.writer_uuid,
    )


async def instances(
    journal: Journal,
    saga: str | None = None,
    *,
    live: bool = True,
    finished: bool = False,
    where: Index = MappingProxyType({}),
    seen: Callable[[SagaView], SagaView] = lambda view: view,
) -> AsyncIterator[SagaView]:
    """Yield the instances of one saga, or of all, in the journal's order: the live ones, the finished ones, or both.

    `where`: only those whose index has these texts; live ones are found by the journal's own index, where it has one.
    `seen` makes of each view what the caller's code sees in it (readable.Code.view).
    """
    prefix = saga_ids.FAMILY if saga is None else saga_ids.prefix_of(saga)
    found: set[tuple[str, str]] = set()
    if where and live and isinstance(journal, FindsByTerms):
        try:
            for name in [saga] if saga is not None else await saga_names(journal):
                async for view in _found(journal, name, where):
                    found.add((view.saga, view.correlation_id))
                    yield seen(view)
            live = False
        except _DAMAGED:  # one of them: look at each by itself
            pass
    for deleted in [False] * live + [True] * finished:
        async for views in _pages(journal, prefix, deleted=deleted):
            for view in views:
                if where and (view.record is None or not matches(view.record.index, where)):
                    continue
                if not found or (view.saga, view.correlation_id) not in found:
                    yield seen(view)


async def _found(journal: FindsByTerms, saga: str, where: Index) -> AsyncIterator[SagaView]:
    terms, after, more = [saga_ids.term_of(saga, *one) for one in where.items()], "", True
    while more:
        page, after = await journal.latest_by_terms(terms, after=after, limit=_AT_ONCE)
        more = bool(after)
        for message in page:
            yield view_of(message)


async def _pages(journal: Journal, prefix: str, *, deleted: bool) -> AsyncIterator[list[SagaView]]:
    after = ""
    while True:
        if isinstance(journal, ListsLatest):
            try:
                page = await journal.latest_by_prefix(prefix, after=after, limit=_AT_ONCE, deleted=deleted)
            except _DAMAGED:  # one of them: look at each by itself
                pass
            else:
                if not page:
                    return
                after = page[-1].persistence_id
                yield [view_of(message) for message in page if saga_ids.instance_of(message.persistence_id)]
                continue
        ids = await journal.ids_by_prefix(prefix, after=after, limit=_AT_ONCE, deleted=deleted)
        if not ids:
            return
        after = ids[-1]
        found = await asyncio.gather(*(_view(journal, one) for one in ids if saga_ids.instance_of(one)))
        yield [view for view in found if view is not None]


async def _view(journal: Journal, persistence_id: str) -> SagaView | None:
    """Return one instance; a row that its journal cannot read is shown as such, and does not hide the others."""
    try:
        message = await journal.latest_message(persistence_id)
    except _DAMAGED as error:
        why = str(error) if isinstance(error, SagalogError) else f"its row is damaged ({type(error).__name__})"
        saga, correlation_id = saga_ids.parts_of(persistence_id)
        return SagaView(saga, correlation_id, 0, None, unreadable=why)
    return view_of(message) if message is not None else None


async def find(journal: Journal, correlation_id: str, saga: str | None = None) -> list[SagaView]:
    """Return the instances of that correlation id: at most one where a saga is named, else one of each saga that has it."""
    names = [saga] if saga is not None else await saga_names(journal)
    found = [await _view(journal, saga_ids.persistence_id(name, correlation_id)) for name in names]
    # A name that holds `::` would be taken apart elsewhere, and then another instance is found than was asked for.
    return [view for view in found if view is not None and view.saga in names and view.correlation_id == correlation_id]


async def saga_names(journal: Journal) -> list[str]:
    """Return the names of the sagas that have instances, sorted.

    Where a journal lists its ids in order (`sorted_ids`), this skips from one saga to the next; else it goes through all.
    """
    skips = getattr(journal, "sorted_ids", False)
    names: set[str] = set()
    for deleted in (False, True):
        after = ""
        while page := await journal.ids_by_prefix(
            saga_ids.FAMILY, after=after, limit=1 if skips else 10_000, deleted=deleted
        ):
            found = [saga_ids.instance_of(persistence_id) for persistence_id in page]
            names.update(one[0] for one in found if one is not None)
            after = saga_ids.behind_saga(found[0][0]) if skips and found[0] is not None else page[-1]
    return sorted(names)


async def history(journal: Journal, saga: str, correlation_id: str) -> AsyncIterator[SagaView]:
    """Yield the steps that are kept of an instance, oldest first."""
    async for message in journal.replay_messages(saga_ids.persistence_id(saga, correlation_id)):
        yield view_of(message)


def state_of(record: SagaRecord | None) -> Any:
    """Return the state as JSON values; ABSENT where there is none. What cannot be shown gives a text that says so."""
    if record is None:
        return ABSENT
    if record.state_is_base64:
        try:
            return f"(not JSON, {len(record.state_bytes()):,} bytes)"
        except CodecError as error:
            return f"({error})"
    try:
        return msgspec.json.decode(record.state)
    except RecursionError:
        return f"(nested too deeply to show, {len(record.state):,} bytes)"


def state_changes(before: SagaRecord | None, after: SagaRecord | None) -> list[Change]:
    """Return what differs between the states of two records; where there is no record, ABSENT stands for all of it."""
    if before is not None and after is not None and bytes(before.state) == bytes(after.state):
        return []
    return changes(state_of(before), state_of(after))


__all__ = [
    "ABSENT",
    "OVERDUE_AFTER",
    "Change",
    "SagaView",
    "changes",
    "find",
    "history",
    "instances",
    "saga_names",
    "state_changes",
    "state_of",
    "view_of",
]
