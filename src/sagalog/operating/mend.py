"""Mending an instance whose record cannot be read: another record takes its place, whole, or it ends.

A repair (decision/repair.py) decides on a record, so it needs one that can be read. Here the newest record is replaced by
compare-and-set on its number; whoever calls keeps the bytes of the old one (`StoredRecord.payload`).
"""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from itertools import count
from time import monotonic

import msgspec

from ..decision import ids
from ..decision.children import tell_parent
from ..decision.entries import FINAL, Audit, Status
from ..decision.inbox import count_of
from ..decision.keys import KeyValue, pairs
from ..decision.record import FORMAT, SagaRecord, decode_record, encode_record
from ..errors import NoInstanceError
from ..journal import Journal
from ..journal.protocol import server_now
from ..journal.reservations import Reservations
from ..journal.store import JournalSagaStateStore
from ..text import plural
from .apply import HAS_ENDED, NOT_THERE, RETENTION, store_record
from .view import SagaView, history, whole_view


class StoredRecord(msgspec.Struct, frozen=True):
    """The newest record of a live instance as it is seen, and as it is stored.

    `payload` has all that it holds, also where that is stored in earlier records, unless some of it is lost.
    """

    view: SagaView
    payload: bytes
    epoch: int


class Replaced(msgspec.Struct, frozen=True):
    """What takes the place of a record. `effects`: plain sentences without payloads, to be printed cleaned."""

    record: SagaRecord
    effects: tuple[str, ...]


async def stored(journal: Journal, saga: str, correlation_id: str) -> StoredRecord:
    """Return the newest record of a live instance. Raises NoInstanceError where there is none."""
    message = await journal.latest_message(ids.persistence_id(saga, correlation_id))
    if message is None or message.deleted:
        raise NoInstanceError(saga, correlation_id, "", NOT_THERE if message is None else HAS_ENDED)
    view = await whole_view(journal, message)
    if view.version != message.sequence_nr:  # it has moved on meanwhile
        return await stored(journal, saga, correlation_id)
    in_pages = view.record is not None and not view.lost and decode_record(message.payload).in_pages
    payload = encode_record(view.record) if in_pages and view.record is not None else message.payload
    return StoredRecord(view, payload, message.epoch)


async def newest_readable(journal: Journal, view: SagaView) -> SagaView | None:
    """Return the newest kept step of an instance that can be read. Reads all of them.

    Where only messages that it holds in earlier records are lost, it is the newest one, with those that are left.
    """
    if view.lost and view.record is not None:
        return view
    found: SagaView | None = None
    async for step in history(journal, view.saga, view.correlation_id):
        if step.record is not None and not step.unreadable:
            found = step
    return found


async def ended(journal: Journal, old: StoredRecord, *, note: str = "", by: str = "") -> Replaced:
    """Return the record that ends an instance whose record cannot be read; nothing is stored.

    It knows the messages that the newest readable step knew.
    """
    at = await server_now(journal)
    kept = await newest_readable(journal, old.view)
    record = SagaRecord(FORMAT, Status.CANCELLED, msgspec.Raw(b"null"), started_at=at, updated_at=at)
    effects = ["ends the instance, whose record cannot be read: what it still had to deliver, or to undo, is not known"]
    if old.view.lost:
        effects.append(f"{old.view.lost:,} of its messages are lost, and with them their ids")
    if kept is not None and kept.record is not None:
        last = kept.record
        record = copy.copy(last)
        record.status, record.parked, record.stuck, record.leased_until = Status.CANCELLED, "", "", None
        record.goes_on = False
        record.inbox = (*last.inbox, *(held.id for held in last.held if held.kind == "event"))
        record.held, record.outbox, record.undo, record.timers, record.handled = (), (), (), {}, ()
        record.kept, record.waking = (), False
        known = count_of(record.inbox)
        effects.append(
            f"remembers the {plural(known, 'message')} of step {kept.version}, the newest that can be "
            "read; a later one may start it anew"
        )
    else:
        effects.append("no step of it can be read: any message that it has handled may start it anew")
    if record.parent:
        record.told, indexes = False, count()  # what was to tell so is dropped; a parent that has heard ignores it
        own = ids.persistence_id(old.view.saga, old.view.correlation_id)
        tell_parent(record, own, lambda: ids.entry_id(old.view.version + 1, next(indexes)))
        effects += [f"delivers {one.title}" for one in record.outbox]
    record.audit = (*record.audit, Audit(at, "drop", note, by))
    record.updated_at = at
    return Replaced(record, tuple(effects))


async def audited(journal: Journal, record: SagaRecord, *, note: str = "", by: str = "") -> Replaced:
    """Return a record that an operator has written, with its audit entry; nothing is stored."""
    at = await server_now(journal)
    after = copy.copy(record)
    after.handled, after.updated_at, after.waking = (), at, bool(after.kept)
    after.audit = (*after.audit, Audit(at, "edit of the record", note, by))
    effects = ["replaces the whole record"]
    if after.parked:
        effects.append("stays parked: retry it once everything is right")
    if after.owes_delivery:
        effects.append("delivers " + ", ".join(f"{one.command.type} ({one.id})" for one in after.outbox[:5]))
    return Replaced(after, tuple(effects))


async def check_keys(journal: Journal, old: StoredRecord, new: Replaced) -> None:
    """Raise KeyTakenError where another live instance holds a unique key of the new record; nothing is reserved."""
    keys = _unique_keys(new.record)
    if keys:
        reservations = _reservations(journal, old, RETENTION)
        await reservations.check(old.view.correlation_id, old.view.version + 1, keys)


async def replace(journal: Journal, old: StoredRecord, new: Replaced, *, retention: timedelta = RETENTION) -> int:
    """Store the new record in the place of the old one, and return its number; durable on return.

    Its unique keys are reserved before. Raises KeyTakenError where another live instance holds one, ConflictError if the
    instance has moved on: nothing was stored of the record; OutcomeUnknownError as every write.
    """
    store = JournalSagaStateStore(journal, old.view.saga)
    key, version, after = old.view.correlation_id, old.view.version, new.record
    if keys := _unique_keys(after):
        await _reservations(journal, old, retention).reserve(key, version + 1, old.epoch, keys)
    return await store_record(store, key, version, after, _due(after), retention, epoch=old.epoch)


def _unique_keys(record: SagaRecord) -> list[KeyValue]:
    return [] if record.status in FINAL else sorted(pairs(record.unique_keys))


def _reservations(journal: Journal, old: StoredRecord, retention: timedelta) -> Reservations:
    return Reservations(journal, old.view.saga, lambda: datetime.now(UTC), monotonic, retention)


def _due(record: SagaRecord) -> datetime | None:
    """Return now, where there is something to do; else when the next timer is due."""
    return record.updated_at if record.owes else record.next_timer_at
