"""All drafts of a round in one write: what is written for each, and what the journal answers for each.

    decide ─► [commit] ─► journal ─► settle

One compare-and-set write for an instance. A store that was given instead of a journal is written one instance at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime, timedelta
from typing import Any

from ..decision.entries import Command
from ..decision.pages import NO_MESSAGES, Encoded, StoredMessages
from ..decision.parking import take_over
from ..decision.record import SagaRecord, encode_record
from ..errors import (
    ConflictError,
    JournalUnavailableError,
    OutcomeUnknownError,
    SagalogError,
)
from ..journal import Journal, PersistentRepr
from ..journal.callers import CallersConnection
from ..journal.protocol import HeldError, TellsHeld
from ..journal.store import JournalSagaStateStore, Terms, new_epoch
from .deliveries import NO_IDS
from .envelope import Maintenance, takes_over
from .failures import cancellations, certain, passes_through
from .instance import Instance
from .load import ids_of
from .too_large import check_room, may_exceed
from .turn import Turn

MAX_LOST = 20  # writes in a row on one version; from then on it is asked why
CommandTest = Callable[[Instance, Command], bool]


class Write:
    """A record on its way to the journal, and what becomes of its instance when it is stored.

    `claim`: all of the outbox becomes ours to deliver. `new_entries`: the outbox entries that this record makes ours.
    `parked`: why this record parks it.
    """

    __slots__ = (
        "claim",
        "due_at",
        "encoded",
        "epoch",
        "lease_end",
        "new_entries",
        "parked",
        "payload",
        "record",
        "terms",
        "turn",
        "version",
    )

    def __init__(
        self,
        turn: Turn,
        record: SagaRecord,
        payload: bytes,
        epoch: int,
        lease_end: datetime | None,
        due_at: datetime | None,
        *,
        claim: bool,
        parked: str,
    ) -> None:
        instance = turn.instance
        self.turn: Turn = turn
        self.record: SagaRecord = record
        self.payload: bytes = payload
        self.version: int = instance.cached.version + 1
        self.epoch: int = epoch
        self.lease_end: datetime | None = lease_end
        self.due_at: datetime | None = due_at
        self.claim: bool = claim
        self.parked: str = parked
        self.terms: Terms = _terms(instance, record)
        self.new_entries: frozenset[str] = new_entries_of(None if claim else instance.cached.record, record)
        if self.new_entries and instance.runtime.engine.client:
            self.new_entries = NO_IDS
        self.encoded: Encoded | None = None  # where it has messages, and some of them may stay in earlier records


def write_of(turn: Turn, declines: CommandTest, waits: CommandTest, now: datetime) -> Write | None:
    """Return what is to be written of a turn; None where nothing changed and no claim or renewal needs a later lease.

    `declines` says whether this worker cannot deliver a command, `waits` whether none may leave just now. Raises
    PayloadTooLargeError, which stores nothing.
    """
    instance, draft = turn.instance, turn.draft
    record, runtime = draft.record, instance.runtime
    if record is None:
        return None
    claim, renew = _maintained(turn, record, declines) if turn.asked else (False, False)
    if not (draft.changed or claim or renew):
        return None
    parked = ""
    if claim and record.outbox[0].id not in instance.deliveries.owned and not waits(instance, record.outbox[0]):
        parked = take_over(draft, runtime.engine.settings.max_takeovers)
    elif record.taken and (not record.outbox or record.outbox[0].id != record.taken):
        record.taken, record.takeovers, record.begun = "", 0, False
    if (
        (record.gap or (record.held and record.held[0].gather))
        and record.parked
        and (instance.cached.record is None or not instance.cached.record.parked)
    ):
        parked = parked or record.parked
    draft.frozen()
    if claim:  # it is due, so nothing is waited for any more
        instance.deliveries.stop_pausing()
    lease_end, due_at = due_moments(instance, record, now)
    record.leased_until = _leased_until(instance, record, lease_end, renew=renew, claim=claim)
    epoch = instance.cached.epoch or (new_epoch() if instance.cached.version == 0 else 0)
    payload, encoded = _encoded(turn, record)
    write = Write(turn, record, payload, epoch, lease_end, due_at, claim=claim, parked=parked)
    write.encoded = encoded
    return write


def _maintained(turn: Turn, record: SagaRecord, declines: CommandTest) -> tuple[bool, bool]:
    """Return whether a turn that was asked for maintenance claims the outbox, and whether it renews its lease."""
    instance, draft, asked = turn.instance, turn.draft, turn.asked
    draft.changed = draft.changed or turn.to_record  # acceptances: not because of a duplicate
    owes = record.owes_delivery
    claim = owes and any(takes_over(one) for one in asked)
    if instance.runtime.engine.alone and owes and record.outbox[0].id in instance.deliveries.owned:
        claim = False  # it is under way, and no lease of it can end
    claim = claim and not declines(instance, record.outbox[0]) and not is_leased(instance, record)
    if Maintenance.BEGIN in asked and record.outbox and record.outbox[0].id == record.taken:
        record.begun = draft.changed = True
    return claim, owes and Maintenance.RENEW in asked


def _encoded(turn: Turn, record: SagaRecord) -> tuple[bytes, Encoded | None]:
    """Return what is to be stored, and where its messages are. Raises PayloadTooLargeError."""
    runtime, encoded = turn.instance.runtime, None
    if (record.held or record.kept) and runtime.page_bytes:
        encoded = runtime.encode_in_pages(record, _stored_messages(turn.instance))
        payload, size = encoded.payload, encoded.size
    else:
        payload = encode_record(record)
        size = len(payload)
        if record.held or record.kept:
            check_room(turn, record)
    if size > runtime.most_bytes and not may_exceed(turn, record, size):
        raise runtime.too_large(size)
    return payload, encoded


def _stored_messages(instance: Instance) -> StoredMessages:
    """Return how the messages are stored of the record on which a write is based."""
    stored = instance.cached.stored_messages
    return stored if (stored.version, stored.epoch) == (instance.cached.version, instance.cached.epoch) else NO_MESSAGES


def _terms(instance: Instance, record: SagaRecord) -> Terms:
    """Return what the instance is to be found by; None where that is as it was with the record before."""
    before = instance.cached.record
    if not (record.index or record.keys) and (before is None or not (before.index or before.keys)):
        return None
    if before is None or before.finished:  # a tombstone has none
        return record.terms(instance.runtime.name) or None
    if before.index == record.index and before.keys == record.keys:
        return None
    return record.terms(instance.runtime.name)


async def write_all(journal: Journal, writes: Sequence[Write]) -> Sequence[SagalogError | None]:
    """Write the records into the journal; return what became of each, in the order given. None: it is stored."""
    records = [_repr_of(write) for write in writes]
    before = cancellations()  # of the caller, if its own task runs the round
    try:
        answers = await journal.write_batch(records)
    except JournalUnavailableError as error:
        return [error] * len(writes)
    except BaseException as error:
        if passes_through(error, before):
            raise
        return [_unknown(write, error) for write in writes]
    if not isinstance(answers, Sequence) or len(answers) != len(writes):
        wrong = JournalUnavailableError(
            f"what {type(journal).__name__}.write_batch returned is not one answer for each record"
        )
        return [_unknown(write, wrong) for write in writes]
    found = [
        answer if answer is None or isinstance(answer, SagalogError) else _unknown(write, TypeError("no SagalogError"))
        for write, answer in zip(writes, answers, strict=True)
    ]
    if any(answer is not None for answer in found):
        await _tell_held(journal, writes, records, found)
    return found


async def _tell_held(
    journal: Journal, writes: Sequence[Write], records: Sequence[PersistentRepr], found: list[SagalogError | None]
) -> None:
    """Replace a conflict by a HeldError if it was met so often that it would otherwise count as a contradiction."""
    places = [
        place
        for place, (write, answer) in enumerate(zip(writes, found, strict=True))
        if isinstance(answer, ConflictError) and write.turn.instance.lost_on[2] >= MAX_LOST - 1
    ]
    if not places or not isinstance(journal, TellsHeld):
        return
    before = cancellations()
    try:
        held = await journal.held([records[place] for place in places])
    except BaseException as error:  # nothing is known of them; they were not stored
        if passes_through(error, before):
            raise
        held = [True] * len(places)
    for place, one in zip(places, held, strict=True):
        if one:
            found[place] = HeldError((records[place].persistence_id,))


async def write_one(write: Write) -> SagalogError | None:
    """Write into a store that was given; return what became of it. None: it is stored."""
    before = cancellations()
    try:
        await _save(write)
    except (ConflictError, JournalUnavailableError, OutcomeUnknownError) as error:
        return error
    except BaseException as error:
        if passes_through(error, before):
            raise
        if isinstance(error, SagalogError) and certain(error):
            return error
        return _unknown(write, error)
    return None


def _repr_of(write: Write) -> PersistentRepr:
    """Return the record to write into the journal; a finished one is written as a tombstone."""
    instance, record = write.turn.instance, write.record
    runtime, finished = instance.runtime, record.finished
    assert isinstance(runtime.store, JournalSagaStateStore)
    return runtime.store.repr_of(
        instance.correlation_id,
        write.version,
        write.payload,
        runtime.purge_at(record) if finished else write.due_at,
        deleted=finished,
        epoch=write.epoch,
        terms=write.terms,
    )


def _save(write: Write) -> Coroutine[Any, Any, int]:
    """Save a record. A finished one becomes a tombstone, which is kept until its retention ends."""
    record, runtime, key = write.record, write.turn.instance.runtime, write.turn.instance.correlation_id
    due_at = runtime.purge_at(record) if record.finished else write.due_at
    tombstones, before = runtime.tombstones, write.version - 1
    if tombstones is None:  # then a finished one stays, as its own tombstone
        return runtime.store.save(key, write.payload, expected_version=before, due_at=due_at)
    if record.finished:
        assert due_at is not None
        return tombstones.delete_until(
            key, expected_version=before, tombstone=write.payload, purge_at=due_at, epoch=write.epoch
        )
    # What a TombstoneStore takes beyond the four methods' arguments, and ours beyond that.
    more: dict[str, Any] = {"epoch": write.epoch}
    if write.terms is not None and isinstance(runtime.store, JournalSagaStateStore):
        more["terms"] = write.terms
    if before == 0:
        return tombstones.create(key, write.payload, due_at=due_at, **more)
    save: Any = runtime.store.save
    saving: Coroutine[Any, Any, int] = save(key, write.payload, expected_version=before, due_at=due_at, **more)
    return saving


async def save_in_transaction(write: Write, connection: CallersConnection) -> None:
    """Save a record within a transaction of the caller. Raises what the store raises."""
    record, runtime = write.record, write.turn.instance.runtime
    await runtime.transactional().save_in_transaction(
        connection,
        write.turn.instance.correlation_id,
        write.payload,
        expected_version=write.version - 1,
        due_at=runtime.purge_at(record) if record.finished else write.due_at,
        deleted=record.finished,
        epoch=write.epoch,
        terms=write.terms,
    )


def _unknown(write: Write, error: BaseException) -> OutcomeUnknownError:
    if isinstance(error, OutcomeUnknownError):
        return error
    unknown = OutcomeUnknownError(
        f"{write.turn.instance.persistence_id}: the store raised {type(error).__name__}, so the step may or may not be "
        "stored. Send the event again under the same message id."
    )
    unknown.__cause__ = error
    return unknown


def new_entries_of(before: SagaRecord | None, record: SagaRecord) -> frozenset[str]:
    """Return the outbox entries that a write makes ours: those that were not in the record before.

    While it waits for a repair nobody delivers it, so the worker that repairs it owns the whole outbox.
    """
    if record.stuck:
        return NO_IDS
    return ids_of(record) if before is None or before.stuck else ids_of(record) - ids_of(before)


def due_moments(instance: Instance, record: SagaRecord, now: datetime) -> tuple[datetime | None, datetime | None]:
    """Return when the lease on the outbox ends, and when the instance next needs attention."""
    lease_end = _lease_end(instance, record, now)
    due = record.next_timer_at
    if (record.waking or record.goes_on) and record.owes_turn:  # ours goes on with it, or another worker if we die
        waking = now + instance.runtime.engine.lease
        due = waking if due is None else min(due, waking)
    return lease_end, due if lease_end is None else lease_end if due is None else min(due, lease_end)


def _lease_end(instance: Instance, record: SagaRecord, now: datetime) -> datetime | None:
    """Return until when the commands in the outbox are ours alone to deliver, or None if there are none."""
    if not record.owes_delivery:
        return None
    if instance.runtime.engine.alone:  # the next run may stop at the same moment, and has to find it
        return now + instance.runtime.engine.lease
    if instance.deliveries.declined is not None and instance.deliveries.declined in record.outbox:
        return now  # whoever can deliver it may claim it at once
    if instance.runtime.engine.client and _is_free(instance, now):
        return now
    start = now if instance.deliveries.next_attempt_at is None else max(now, instance.deliveries.next_attempt_at)
    end = start + max(instance.runtime.engine.lease, timedelta(seconds=instance.deliveries.lease_seconds))
    # A step that comes in between does not shorten a lease, ours or another worker's.
    return end if record.leased_until is None else max(end, record.leased_until)


def _is_free(instance: Instance, now: datetime) -> bool:
    """Say whether no worker can be delivering what is in the outbox before this write: none holds a lease on it."""
    before = instance.cached.record
    if before is None or not before.outbox or before.stuck:
        return True
    ours = (
        instance.cached.version == instance.cached.written
    )  # and no worker has claimed it, or this write will be lost
    return ours and instance.deliveries.lease_end is not None and instance.deliveries.lease_end <= now


def is_leased(instance: Instance, record: SagaRecord) -> bool:
    """Say whether, by what is stored, another worker holds a lease on the first command of the outbox."""
    until = record.leased_until
    if instance.runtime.engine.alone:  # it was of an earlier run
        return False
    if until is None or not record.outbox or record.outbox[0].id in instance.deliveries.owned:
        return False
    return until > instance.runtime.engine.now()


def _leased_until(
    instance: Instance, record: SagaRecord, lease_end: datetime | None, *, renew: bool, claim: bool
) -> datetime | None:
    """Return what the record says of a lease that is longer than usual. Only renewals make such leases."""
    if lease_end is None:
        return None
    if renew:
        return lease_end
    before = instance.cached.record
    if claim or before is None or not before.outbox or before.outbox[0].id != record.outbox[0].id:
        return None  # it was the lease of a command that is not the first any more
    return record.leased_until
