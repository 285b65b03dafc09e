"""Load and save: what an instance knows of its record, and the one compare-and-set write of a turn.

    turn ─► [commit] ─► store          then: turn answers the callers, dispatch releases the commands

A save whose outcome is unknown (no answer, or the task cancelled meanwhile) is never assumed either way: its version
and bytes are kept in `instance.unknown`, and the next load compares.
"""

from __future__ import annotations

import asyncio
import random
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ..decision.draft import Draft
from ..decision.record import SagaRecord, decode_record
from ..errors import CodecError, ConflictError, JournalUnavailableError, OutcomeUnknownError, SagaParkedError
from ..journal.store import SavedState, new_epoch
from ..logs import log

if TYPE_CHECKING:
    from .mailbox import Instance

_NONE: frozenset[str] = frozenset()


async def load(instance: Instance) -> None:
    """Read the stored record, or tombstone. Raises SagaParkedError for one that this code cannot read."""
    hosted = instance.hosted
    engine = hosted.engine
    for _ in range(60):
        try:
            saved = await hosted.load(instance.correlation_id)
            break
        except JournalUnavailableError:
            if instance.unknown is None or engine.stopping.is_set():
                raise
            # A save may have landed, and nobody can be told anything before that is known.
            await asyncio.sleep(random.uniform(0.05, 0.5))  # noqa: S311
    else:
        instance.unknown = None
        raise OutcomeUnknownError(
            f"{instance.persistence_id}: the journal does not answer, so the last step may or may not be stored. Send "
            "the event again under the same message id."
        )
    instance.record = record = decoded(instance, saved)
    instance.version = saved.version if saved is not None else 0
    instance.epoch = saved.epoch if saved is not None else 0
    hosted.weigh(instance, len(saved.payload) if saved is not None else 0)
    outbox = _ids(record)
    unknown, instance.unknown = instance.unknown, None
    for maybe in (*instance.joined, *([unknown] if unknown is not None else ())):
        if saved is not None and (saved.version, saved.payload) == maybe[:2]:
            instance.owned |= maybe[2]  # it had landed
    instance.accepted &= outbox
    instance.owned &= outbox
    instance.loaded = True


def decoded(instance: Instance, saved: SavedState | None) -> SagaRecord | None:
    """Return the record in what a store gave. Raises SagaParkedError for one that this code cannot read."""
    if saved is None or not saved.payload:
        return None
    try:
        return decode_record(saved.payload)
    except CodecError as error:
        raise unreadable(instance, str(error)) from error


def unreadable(instance: Instance, reason: str) -> SagaParkedError:
    """Park an instance whose record this code cannot read: in memory only, what is stored stays as it is."""
    hosted = instance.hosted
    if instance.correlation_id not in hosted.unreadable:
        hosted.engine.counters.parked += 1
        log.error(
            "saga %s, id %s is parked, and left as it is stored: %s",
            hosted.name,
            instance.correlation_id,
            reason,
            extra=instance.about(),
        )
        if hosted.engine.hooks is not None:
            hosted.engine.hooks.parked(instance, reason)
    hosted.unreadable[instance.correlation_id] = reason
    instance.loaded = False
    return SagaParkedError(hosted.name, instance.correlation_id, reason)


async def commit(instance: Instance, draft: Draft, *, claim: bool, renew: bool) -> bool:
    """Save the draft if it changed, or if a claim or a renewal needs a later `due_at`; say whether it was saved.

    Raises ConflictError and JournalUnavailableError (certainly not stored), OutcomeUnknownError, PayloadTooLargeError.
    """
    record = draft.record
    if claim and record is not None and record.outbox and not record.stuck:
        claim = not instance.hosted.engine.dispatcher.leaves(instance, record.outbox[0])
    if claim and record is not None and is_leased(instance, record):
        claim = False  # by a worker that renews its lease: it is alive
    if record is None or not (draft.changed or ((claim or renew) and record.outbox and not record.stuck)):
        return False
    hosted = instance.hosted
    engine = hosted.engine
    draft.frozen()
    now = engine.now()
    if claim:  # whatever was waited for, it is due
        instance.forget()
    lease_end, due_at = due_moments(instance, record, now)
    record.leased_until = _leased_until(instance, record, lease_end, renew=renew, claim=claim)
    payload = hosted.encode(record)
    if claim and not instance.owned.issuperset(_ids(instance.record) & _ids(record)):
        engine.counters.takeovers += 1
    try:
        if instance.version == 0 and not instance.epoch:
            instance.epoch = new_epoch()
        saving = hosted.save(instance.correlation_id, record, payload, instance.version, due_at, instance.epoch)
        version = await (saving if draft.watch is None else draft.watch.saving(saving))
    except (ConflictError, JournalUnavailableError):
        raise
    except BaseException:
        instance.unknown = (instance.version + 1, payload, fresh_entries(None if claim else instance.record, record))
        instance.loaded = False
        raise
    engine.counters.saves += 1
    if hosted.unreadable:
        hosted.unreadable.pop(instance.correlation_id, None)
    instance.owned = _owned(instance, record, all_of_it=claim)
    instance.record, instance.version, instance.loaded = record, version, True
    hosted.weigh(instance, len(payload))
    instance.lease_end = lease_end
    if draft.accepted:  # more may have been accepted since the draft was begun
        instance.accepted -= draft.accepted
    if instance.attempt is not None:
        engine.dispatcher.cut(instance)
    if due_at is not None:
        engine.due_loop.notice(due_at, now)
    return True


def _owned(instance: Instance, record: SagaRecord, *, all_of_it: bool) -> frozenset[str]:
    """Return what of the saved outbox is ours to deliver: all but what was another worker's and is not claimed now."""
    if all_of_it:
        return _ids(record)
    others = _ids(instance.record) - instance.owned
    return _ids(record) - others if others else _ids(record)


def fresh_entries(before: SagaRecord | None, record: SagaRecord) -> frozenset[str]:
    """Return the outbox entries that a save makes ours: those that were not in the record before."""
    return _ids(record) - _ids(before)


def _ids(record: SagaRecord | None) -> frozenset[str]:
    return frozenset([entry.id for entry in record.outbox]) if record is not None and record.outbox else _NONE


def due_moments(instance: Instance, record: SagaRecord, now: datetime) -> tuple[datetime | None, datetime | None]:
    """Return when the lease on the outbox ends, and when the instance next needs attention."""
    lease_end = _lease_end(instance, record, now)
    timer = record.next_timer_at
    return lease_end, timer if lease_end is None else lease_end if timer is None else min(timer, lease_end)


def _lease_end(instance: Instance, record: SagaRecord, now: datetime) -> datetime | None:
    """Return until when the commands in the outbox are ours alone to deliver, or None if there are none."""
    if not record.outbox or record.stuck:
        return None
    if instance.left is not None and instance.left in record.outbox:
        return now  # whoever can deliver it may claim it at once
    start = now if instance.next_attempt_at is None else max(now, instance.next_attempt_at)
    end = start + max(instance.hosted.engine.lease, timedelta(seconds=instance.lease_seconds))
    # A step that comes in between does not shorten a lease, ours or another worker's.
    return end if record.leased_until is None else max(end, record.leased_until)


def is_leased(instance: Instance, record: SagaRecord) -> bool:
    """Say whether another worker holds the first command of the outbox, as far as what is stored tells."""
    until = record.leased_until
    if until is None or not record.outbox or record.outbox[0].id in instance.owned:
        return False
    return until > instance.hosted.engine.now()


def _leased_until(
    instance: Instance, record: SagaRecord, lease_end: datetime | None, *, renew: bool, claim: bool
) -> datetime | None:
    """Return what the record says of a lease that is longer than the usual one: only renewals make such."""
    if lease_end is None:
        return None
    if renew:
        return lease_end
    before = instance.record
    if claim or before is None or not before.outbox or before.outbox[0].id != record.outbox[0].id:
        return None  # it was of a command that is not the first any more
    return record.leased_until
