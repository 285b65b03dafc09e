"""Looking at sagas without changing them: straight from the journal, streaming, finished ones included."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import MappingProxyType
from typing import Any

import msgspec

from ..decision import ids as saga_ids
from ..decision.record import SagaRecord
from ..definition.indexing import Index
from ..errors import CodecError, DefinitionError, JournalFormatError, SagalogError
from ..journal import Journal
from ..journal.protocol import FindsByTerms, ListsLatest, all_ids, in_groups
from .found_by import found_by
from .json_diff import ABSENT, Change, changes
from .view import OVERDUE_AFTER, SagaView, history, view_of, whole_view

_AT_ONCE = 64  # records that are read ahead
_DAMAGED = (JournalFormatError, CodecError, ValueError, OverflowError)  # what a row raises that its journal cannot read


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

    `where`: only those with such fields of their index, or keys (SagaRecord.found_by); live ones are found by the journal's
    own index, where it has one.
    `seen` makes of each view what the caller's code sees in it (readable.Code.view).
    """
    prefix = saga_ids.FAMILY if saga is None else saga_ids.prefix_of(saga)
    found: set[tuple[str, str]] = set()
    if where and live and isinstance(journal, FindsByTerms):
        try:
            for name in [saga] if saga is not None else await saga_names(journal):
                async for view in _found(journal, name, where):
                    if (view.saga, view.correlation_id) not in found:
                        found.add((view.saga, view.correlation_id))
                        yield seen(view)
            live = False
        except DefinitionError:  # a mistake of the caller's, which no row can be blamed for
            raise
        except _DAMAGED:  # one of them: look at each by itself
            pass
    for deleted in [False] * live + [True] * finished:
        async for views in _pages(journal, prefix, deleted=deleted):
            for view in views:
                if where and (view.record is None or not view.record.found_by(where)):
                    continue
                if not found or (view.saga, view.correlation_id) not in found:
                    yield seen(view)


async def _found(journal: Journal, saga: str, where: Index) -> AsyncIterator[SagaView]:
    place, more = "", True
    while more:
        views, place, _ = await found_by(journal, saga, where, place=place, limit=_AT_ONCE)
        more = bool(place)
        for view in views:
            yield view


async def _pages(journal: Journal, prefix: str, *, deleted: bool) -> AsyncIterator[list[SagaView]]:
    if not isinstance(journal, ListsLatest):
        async for ids in in_groups(all_ids(journal, prefix, deleted=deleted), _AT_ONCE):
            yield await _views(journal, ids)
        return
    after = ""
    while True:
        try:
            page = await journal.latest_by_prefix(prefix, after=after, limit=_AT_ONCE, deleted=deleted)
        except DefinitionError:  # a mistake of the caller's, which no row can be blamed for
            raise
        except _DAMAGED:  # one of them: look at each by itself
            ids = await journal.ids_by_prefix(prefix, after=after, limit=_AT_ONCE, deleted=deleted)
            if not ids:
                return
            after = ids[-1]
            yield await _views(journal, ids)
        else:
            if not page:
                return
            after = page[-1].persistence_id
            ours = [message for message in page if saga_ids.instance_of(message.persistence_id)]
            yield [await whole_view(journal, message) for message in ours]


async def _views(journal: Journal, persistence_ids: list[str]) -> list[SagaView]:
    found = await asyncio.gather(*(_view(journal, one) for one in persistence_ids if saga_ids.instance_of(one)))
    return [view for view in found if view is not None]


async def _view(journal: Journal, persistence_id: str) -> SagaView | None:
    """Return one instance; a row that its journal cannot read is shown as such, and does not hide the others."""
    try:
        message = await journal.latest_message(persistence_id)
    except DefinitionError:  # a mistake of the caller's, which no row can be blamed for
        raise
    except _DAMAGED as error:
        why = str(error) if isinstance(error, SagalogError) else f"its row is damaged ({type(error).__name__})"
        saga, correlation_id = saga_ids.parts_of(persistence_id)
        return SagaView(saga, correlation_id, 0, None, unreadable=why)
    return await whole_view(journal, message) if message is not None else None


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
    "whole_view",
]
