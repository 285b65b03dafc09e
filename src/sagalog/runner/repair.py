"""What an operator does about a parked instance: try again, skip, or cancel. Every repair is on record.

Held messages are replayed in the order they came; the first that fails again leaves the rest held.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import CodecError, NoInstanceError
from ..record import FINAL, Audit, Command, SagaRecord, Status
from ..step import Draft, Outcome, UnreadableStateError, advance, unhold
from .envelope import Envelope
from .hosted import Hosted

if TYPE_CHECKING:
    from .mailbox import Instance


@dataclass(frozen=True, slots=True)
class Repaired:
    """The outcome of a repair: how many held messages were replayed, and why the instance is parked again, if it is."""

    replayed: int
    parked: str
    held: int
    status: Status


Repair = Callable[[Draft], Awaitable[Repaired]]


def _needs_repair(record: SagaRecord | None) -> bool:
    return record is not None and bool(record.parked or record.status is Status.COMPENSATION_FAILED)


async def apply(hosted: Hosted, correlation_id: str, repair: Repair) -> Repaired:
    """Run a repair as a step of its instance: one record, against the newest version.

    Raises NoInstanceError where nothing is stored under that id, and SagaParkedError for a record that this code
    cannot read: only code that can read it helps.
    """
    instance: Instance = hosted.instance(correlation_id)
    if not instance.busy:
        instance.loaded = False
    envelope = Envelope(repair=repair)
    await instance.submit(envelope)
    result: Repaired | None = envelope.result
    if result is None:
        raise NoInstanceError(hosted.name, correlation_id, "the repair")
    return result


def retry(note: str = "") -> Repair:
    """Replay the held messages, deliver the stuck command again, take up a failed compensation again."""

    async def repair(draft: Draft) -> Repaired:
        record = _audited(draft, "retry", note)
        if record.status is Status.COMPENSATION_FAILED:
            _resume_compensation(draft, record)
        return await _replay(draft, record)

    return _for_live(repair)


def skip(note: str = "") -> Repair:
    """Drop what failed (the first held message, the stuck command, or the refused undo) and go on as `retry` does."""

    async def repair(draft: Draft) -> Repaired:
        record = _audited(draft, "skip", note)
        if record.stuck:
            _drop_stuck(record)
        elif record.status is Status.COMPENSATION_FAILED:
            record.undo = record.undo[:-1]
            _resume_compensation(draft, record)
        elif record.held:
            record.inbox = (*record.inbox, record.held[0].id)
            record.held = record.held[1:]
        return await _replay(draft, record)

    return _for_live(repair)


def cancel(*, compensate: bool, note: str = "") -> Repair:
    """End the instance: with its undo commands sent, or as it stands. Held messages are dropped, their ids kept."""

    async def repair(draft: Draft) -> Repaired:
        record = _audited(draft, "cancel with compensation" if compensate else "cancel", note)
        held = len(record.held)
        record.inbox = (*record.inbox, *(held.id for held in record.held))
        record.held = ()
        if record.stuck:
            _drop_stuck(record)
        record.parked = record.stuck = ""
        if compensate:
            if record.status is Status.COMPENSATION_FAILED:
                _resume_compensation(draft, record)
            elif record.status in (Status.RUNNING, Status.COMPLETED):
                draft.compensate()
            # One that compensates already goes on: its undo commands are in the outbox, and done when accepted.
        elif record.status not in FINAL:
            record.status = Status.CANCELLED
            record.timers = {}
            record.undo = ()
        return Repaired(held, "", 0, record.status)

    return _for_live(repair, any_status=True)


def _for_live(repair: Repair, *, any_status: bool = False) -> Repair:
    async def checked(draft: Draft) -> Repaired:
        record = draft.record
        # One that has ended may be parked all the same: for a last command that nobody accepts.
        if record is None or (record.status in FINAL and not record.parked):
            raise NoInstanceError(
                draft.saga.name, draft.persistence_id.partition("::")[2].partition("::")[2], "a repair"
            )
        if not any_status and not _needs_repair(record):
            return Repaired(0, "", 0, record.status)
        return await repair(draft)

    return checked


def _audited(draft: Draft, action: str, note: str) -> SagaRecord:
    record = draft.touch()
    record.audit = (*record.audit, Audit(draft.now, action, note))
    return record


def _drop_stuck(record: SagaRecord) -> None:
    record.outbox = tuple(entry for entry in record.outbox if entry.id != record.stuck)
    if record.status is Status.COMPENSATING and not any(entry.undo for entry in record.outbox):
        record.status = Status.COMPENSATED


def _resume_compensation(draft: Draft, record: SagaRecord) -> None:
    undo = list(reversed(record.undo))
    record.undo = ()
    record.outbox = (*record.outbox, *(Command(draft.next_id(), entry.command, True, entry.of) for entry in undo))
    record.status = Status.COMPENSATING if undo else Status.COMPENSATED


async def _replay(draft: Draft, record: SagaRecord) -> Repaired:
    record.parked = record.stuck = ""
    held, replayed = record.held, 0
    record.held = ()
    while held:
        first = held[0]
        try:
            outcome = advance(draft, unhold(first, draft.registry))
            if not isinstance(outcome, Outcome):
                outcome = await outcome
        except UnreadableStateError:
            raise
        except Exception as error:
            known = isinstance(error, CodecError)
            reason = f"replaying {first.event.type} failed: {error if known else type(error).__name__}"
            parked = draft.touch()
            parked.parked = reason
            parked.held = held
            return Repaired(replayed, reason, len(held), parked.status)
        if outcome is not Outcome.HANDLED and draft.record is not None:
            draft.record.inbox = (*draft.record.inbox, first.id)
        held = held[1:]
        replayed += 1
    current = draft.touch()
    return Repaired(replayed, "", 0, current.status)
