"""What a repaired instance still holds is replayed first: before any event, timer, refusal or further repair of it.

    repair (here, or another process's) ─► record not parked, messages held ─► [replay] ─► the rest of the turn

A repair from outside saves the record due at once, so that a worker claims it and comes here; one that comes with an
event first does the same, and the event goes behind what was held. Until a turn is saved nothing has happened, so a
worker that dies in between leaves all of it to the next.
"""

from __future__ import annotations

import asyncio

import msgspec

from ..decision.advance import UnreadableStateError
from ..decision.draft import Draft
from ..decision.message import Outcome, unhold
from ..decision.record import FINAL, Audit, Held, SagaRecord
from ..errors import CodecError, PayloadTooLargeError
from ..logs import log
from .context import EventHandler
from .failures import cancellations, described, passes_through
from .instance import Instance
from .load import unreadable
from .reporter import Reporter

_GIVE_WAY = 64  # so many are replayed in one go


class Replayed(msgspec.Struct, frozen=True):
    """How many held messages were replayed, and why the instance is parked again with the others, if it is."""

    count: int = 0
    parked: str = ""


NOTHING = Replayed()


async def replay_held(instance: Instance, draft: Draft, reporter: Reporter) -> Replayed:
    """Replay what the draft's record holds, in the order it came; the first that fails parks it again, with the rest.

    Raises SagaParkedError for a state, or a held message of a newer version, that this code cannot read; what is stored
    stays as it is.
    """
    if draft.record is None or not draft.record.owes_replay:
        return NOTHING
    before = draft.copied()
    fired, started = draft.fired, draft.started
    try:
        replayed = await _replay(instance, draft, reporter, checked=False)
        instance.runtime.encode(draft.frozen() or draft.record)
    except PayloadTooLargeError:
        # One of them is to blame, and only that one may park the instance: look after each.
        reporter.taken_back()
        draft.record, draft.fired, draft.started = before, fired, started
        replayed = await _replay(instance, draft, reporter, checked=True)
    draft.replaying = ()
    return replayed


async def _replay(instance: Instance, draft: Draft, reporter: Reporter, *, checked: bool) -> Replayed:
    record = draft.touch()
    held = record.held
    record.held, draft.replaying = (), held  # each is asked for among the consumed ones, not among the held
    cancelled = cancellations()
    for number, first in enumerate(held):
        before = draft.copied() if checked else None
        counted = draft.fired, draft.started
        if number % _GIVE_WAY == _GIVE_WAY - 1:
            await asyncio.sleep(0)
        try:
            message = unhold(first, draft.registry)
            outcome = reporter.advance(draft, message)
            if not isinstance(outcome, Outcome):
                with EventHandler(instance):
                    outcome = await outcome
            record = draft.touch()
            if outcome is Outcome.NO_INSTANCE and record.status not in FINAL and draft.saga.may_start(message.event):
                # It begins the next incarnation, and this one has not ended yet: it was accepted, so it waits.
                record.held = (msgspec.structs.replace(first, waits=True), *held[number + 1 :])
                return Replayed(number)
            if outcome is not Outcome.HANDLED and first.kind == "event" and not _ignored_late(record, first):
                draft.remember(record, first.id)
                if outcome is not Outcome.DUPLICATE:
                    _tell_ignored(instance, draft, first, outcome)
            if checked:
                instance.runtime.encode(draft.frozen() or record)
        except UnreadableStateError as error:
            raise unreadable(instance, str(error)) from error
        except BaseException as error:
            if passes_through(error, cancelled) and not instance.runtime.engine.cancelled_by_handler(error):
                raise
            if isinstance(error, CodecError) and draft.registry.is_newer(first.event):
                # Parking it again would undo the repair, and a worker with newer code can replay it. A type that is
                # unknown may be gone for good: that takes an operator.
                raise unreadable(instance, f"held event: {error}") from error
            if before is not None:
                draft.record = before
                draft.fired, draft.started = counted
            reporter.taken_back(first.id)
            told = isinstance(error, (CodecError, PayloadTooLargeError))  # others may quote payloads
            reason = f"replaying {first.event.type} failed: {error if told else described(error)}"
            draft.park_again(reason, held[number:])
            return Replayed(number, reason)
    return Replayed(len(held))


def _ignored_late(record: SagaRecord, held: Held) -> bool:
    """Say whether a held answer came after its deadline, and was consumed as its request says."""
    last = record.handled[-1] if record.handled else None
    return last is not None and last.late and last.id == held.id


def _tell_ignored(instance: Instance, draft: Draft, held: Held, outcome: Outcome) -> None:
    """Say that a message which was held could not be handled any more: what was replayed before it has ended the saga."""
    record = draft.touch()
    note = f"{held.event.type} ({held.id}) was held, and found no live instance"
    draft.append(record, "audit", Audit(draft.now, "replay", note))
    log.warning(
        "saga %s, id %s: %s was held, and is ignored now: %s",
        instance.runtime.name,
        instance.correlation_id,
        held.event.type,
        outcome.value,
        extra=instance.about(message_id=held.id),
    )


def tell_parked(instance: Instance, replayed: Replayed) -> None:
    """Count and log that the instance is parked again, once that is saved."""
    if replayed.parked:
        instance.tell_parked(replayed.parked, "is parked again")
