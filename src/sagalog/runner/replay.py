"""What a repaired instance still holds is replayed first: before any event, timer, refusal or further repair of it.

    repair (here, or another process's) ─► record not parked, messages held ─► [replay] ─► the rest of the turn

A repair from outside saves the record due at once, so that a worker claims it and comes here; one that comes with an
event first does the same, and the event goes behind what was held. Until a turn is saved nothing has happened, so a
worker that dies in between leaves all of it to the next.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import msgspec

from ..decision.advance import UnreadableStateError, advance
from ..decision.draft import Draft
from ..decision.message import Outcome, unhold
from ..errors import CodecError, PayloadTooLargeError
from ..logs import log
from .commit import unreadable
from .context import EventHandler
from .failures import cancellations, passes_through

if TYPE_CHECKING:
    from .mailbox import Instance


class Replayed(msgspec.Struct, frozen=True):
    """How many held messages were replayed, and why the instance is parked again with the others, if it is."""

    count: int = 0
    parked: str = ""


NOTHING = Replayed()


async def replay_held(instance: Instance, draft: Draft) -> Replayed:
    """Replay what the draft's record holds, in the order it came; the first that fails parks it again, with the rest.

    Raises SagaParkedError for a state, or a held message of a newer version, that this code cannot read; what is stored
    stays as it is.
    """
    if draft.record is None or not draft.record.owes_replay:
        return NOTHING
    before = copy.copy(draft.record)
    fired, started = draft.fired, draft.started
    try:
        replayed = await _replay(instance, draft, checked=False)
        instance.hosted.encode(draft.record)
    except PayloadTooLargeError:
        # One of them is to blame, and only that one may park the instance: look after each.
        if draft.watch is not None:
            draft.watch.taken_back()
        draft.record, draft.fired, draft.started = before, fired, started
        replayed = await _replay(instance, draft, checked=True)
    return replayed


async def _replay(instance: Instance, draft: Draft, *, checked: bool) -> Replayed:
    record = draft.touch()
    held = record.held
    cancelled = cancellations()
    for number, first in enumerate(held):
        before = copy.copy(draft.record)
        counted = draft.fired, draft.started
        record.held = held[number + 1 :]
        try:
            message = unhold(first, draft.registry)
            outcome = advance(draft, message) if draft.watch is None else draft.watch.advance(message)
            if not isinstance(outcome, Outcome):
                with EventHandler(instance):
                    outcome = await outcome
            record = draft.touch()
            record.held = held[number + 1 :]  # the message may have begun the next incarnation
            if outcome is not Outcome.HANDLED and first.kind == "event":
                draft.remember(record, first.id)
            if checked:
                instance.hosted.encode(record)
        except UnreadableStateError as error:
            raise unreadable(instance, str(error)) from error
        except BaseException as error:
            if passes_through(error, cancelled) and not instance.cancelled_by_its_handler(error):
                raise
            if isinstance(error, CodecError) and draft.registry.is_newer(first.event):
                # Parking it again would undo the repair, and a worker with newer code can replay it. A type that is
                # unknown may be gone for good: that takes an operator.
                raise unreadable(instance, f"held event: {error}") from error
            draft.record = before
            draft.fired, draft.started = counted
            if draft.watch is not None:
                draft.watch.taken_back(first.id)
            told = isinstance(error, (CodecError, PayloadTooLargeError))  # others may quote payloads
            reason = f"replaying {first.event.type} failed: {error if told else type(error).__name__}"
            draft.park_again(reason, held[number:])
            return Replayed(number, reason)
    return Replayed(len(held))


def tell_parked(instance: Instance, replayed: Replayed) -> None:
    """Count and log that the instance is parked again, once that is saved."""
    if replayed.parked:
        instance.hosted.engine.counters.parked += 1
        name, key, engine = instance.hosted.name, instance.correlation_id, instance.hosted.engine
        log.error("saga %s, id %s is parked again: %s", name, key, replayed.parked, extra=instance.about())
        if engine.hooks is not None:
            engine.hooks.parked(instance, replayed.parked)
