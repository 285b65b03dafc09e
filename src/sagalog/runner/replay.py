"""The held messages of a repaired instance are replayed before anything else of it is handled.

    repair (here, or another process's) ─► record not parked, messages held ─► [replay] ─► the rest of the turn

A repair from outside saves the record as due at once, so that a worker claims it and replays. If an event arrives first,
its worker replays as well, and the event comes after what was held. Nothing has happened until the turn is saved, so if a
worker dies before that, the next one replays everything.
"""

from __future__ import annotations

import asyncio
from collections import deque

import msgspec

from ..decision.draft import Draft
from ..decision.entries import FINAL, Audit, Held
from ..decision.kept import next_kept, park_kept
from ..decision.message import Message, Outcome, kept_message, unhold
from ..decision.pages import size_of
from ..decision.parking import park_again
from ..decision.record import SagaRecord
from ..decision.state import UnreadableStateError
from ..errors import CodecError, PayloadTooLargeError, SagalogError
from ..journal.reservations import NotReservedError
from ..logs import log
from .context import EventHandler
from .engine import STRETCH_SECONDS
from .failures import cancellations, described, passes_through
from .instance import Instance
from .load import unreadable
from .reporter import Reporter


class Replayed(msgspec.Struct, frozen=True):
    """How many held messages were replayed, and why the instance is parked again with the others; empty if it is not.

    `goes_on`: it needs no operator, but room in its record.
    """

    count: int = 0
    parked: str = ""
    goes_on: bool = False


NOT_REPLAYED = Replayed()


async def replay_held(instance: Instance, draft: Draft, reporter: Reporter) -> Replayed:
    """Replay the held messages in the order they came. The first that fails parks the instance again, with the rest.

    Raises SagaParkedError for a state, or a held message of a newer version, that this code cannot read; what is stored
    stays as it is.
    """
    if draft.record is None or not draft.record.owes_replay:
        return NOT_REPLAYED
    before = draft.copied()
    try:
        replayed = await _replay(instance, draft, reporter, checked=False)
        instance.runtime.check_size(draft.frozen() or draft.record)
    except PayloadTooLargeError:
        # One of them is to blame, and only that one may park the instance: check the size after each.
        reporter.taken_back()
        draft.go_back(before)
        replayed = await _replay(instance, draft, reporter, checked=True)
    draft.replaying = ()
    return replayed


async def _replay(instance: Instance, draft: Draft, reporter: Reporter, *, checked: bool) -> Replayed:
    record = draft.touch()
    record.parked, record.goes_on = "", False
    held = deque(record.held)
    record.held = ()  # so that each is looked up among the consumed ids, not among the held
    draft.replaying = tuple(held)
    record.waking = bool(record.kept)
    cancelled = cancellations()
    time, replayed = instance.runtime.engine.loop.time, 0
    give_way_at = time() + STRETCH_SECONDS
    while True:
        before = draft.copied() if checked else None
        if time() > give_way_at:
            await asyncio.sleep(0)
            give_way_at = time() + STRETCH_SECONDS
        kept = first = None
        try:
            kept = next_kept(draft)  # it was accepted before what is held
            if kept is not None:
                message = Message(kept.id, None, kept.kind, kept.name, kept=True)  # if it cannot be read
                message = kept_message(kept, draft.registry)
            elif held:
                first = held.popleft()
                message = unhold(first, draft.registry)
            else:
                return Replayed(replayed, record.parked)
            outcome = reporter.advance(draft, message)
            if not isinstance(outcome, Outcome):
                with EventHandler(instance):
                    outcome = await outcome
                draft.now = instance.runtime.engine.timing.moved_on(draft.now)  # what follows is not dated back
            record = draft.touch()
            if kept is not None:
                tell_let_go(instance, kept, outcome)
            elif first is not None:
                live = record.status not in FINAL
                if live and outcome is Outcome.NO_INSTANCE and draft.saga.may_start(message.event):
                    # It begins the next incarnation, and this one has not ended yet. It was accepted, so it waits.
                    record.held = (msgspec.structs.replace(first, waits=True), *held)
                    return Replayed(replayed)
                _note_passed_over(instance, draft, first, outcome)
            if checked:
                instance.runtime.check_size(draft.frozen() or record)
            replayed += first is not None
        except UnreadableStateError as error:
            raise unreadable(instance, str(error)) from error
        except BaseException as error:
            if passes_through(error, cancelled) and not instance.runtime.engine.cancelled_by_handler(error):
                raise
            if isinstance(error, NotReservedError):  # parking it again would undo the repair
                raise
            culprit = kept if kept is not None else first
            assert culprit is not None
            if isinstance(error, CodecError) and draft.registry.is_newer(culprit.event):
                # Parking it again would undo the repair, and a worker with newer code can replay it. An unknown type may
                # be gone for good, and needs an operator.
                raise unreadable(instance, f"held event: {error}") from error
            if before is not None:
                draft.go_back(before)
            reporter.taken_back(culprit.id)
            no_room = _no_room(culprit, error, draft.record)
            reason = no_room or f"replaying {culprit.event.type} failed: {_told(error)}"
            _park_again(draft, reason, message if first is None else first, tuple(held), goes_on=bool(no_room))
            return Replayed(replayed, reason, bool(no_room))


def _park_again(draft: Draft, reason: str, culprit: Message | Held, behind: tuple[Held, ...], *, goes_on: bool) -> None:
    """Park the instance with what was to be replayed next, which was kept (a Message) or held, and the rest behind it."""
    assert draft.record is not None
    if isinstance(culprit, Held):
        park_again(draft, reason, (culprit, *behind))
    else:
        draft.record.held = behind
        park_kept(draft, reason, culprit)
    draft.record.goes_on = goes_on


def _no_room(culprit: Held, error: BaseException, record: SagaRecord | None) -> str:
    """Say that a message has to wait until commands are accepted; empty if it is to blame. `record`: before the message."""
    if not isinstance(error, PayloadTooLargeError) or record is None or not record.owes_delivery:
        return ""
    size, limit = error.size_bytes, error.limit_bytes
    if size - size_of(record.outbox) > limit:
        return ""
    return (
        f"replaying {culprit.event.type} waits: with the commands that are not yet accepted, the record would take "
        f"{size:,} bytes, over the limit of {limit:,}; it continues when they are accepted"
    )


def _told(error: BaseException) -> str:
    return str(error) if isinstance(error, SagalogError) else described(error)  # those of others may quote payloads


def _note_passed_over(instance: Instance, draft: Draft, held: Held, outcome: Outcome) -> None:
    """Remember a held event that was not handled after all, and tell of it, unless it was known or came late."""
    record = draft.touch()
    if outcome in (Outcome.HANDLED, Outcome.KEPT) or held.kind != "event" or _ignored_late(record, held):
        return
    draft.remember(record, held.id)
    if outcome is not Outcome.DUPLICATE:
        _tell_ignored(instance, draft, held, outcome)


def _ignored_late(record: SagaRecord, held: Held) -> bool:
    """Say whether a held answer came after its deadline, and was consumed as its request says."""
    last = record.handled[-1] if record.handled else None
    return last is not None and last.late and last.id == held.id


def _tell_ignored(instance: Instance, draft: Draft, held: Held, outcome: Outcome) -> None:
    """Log that a held message is not handled: one that was replayed before it has ended the saga, or its phase."""
    record = draft.touch()
    why = (
        "its phase ignores it, or its number came too late" if outcome is Outcome.IGNORED else "found no live instance"
    )
    note = f"{held.event.type} ({held.id}) was held, and {why}"
    draft.append(record, "audit", Audit(draft.now, "replay", note))
    log.warning(
        "saga %s, id %s: %s was held, and is now ignored: %s",
        instance.runtime.name,
        instance.correlation_id,
        held.event.type,
        outcome.value,
        extra=instance.about(message_id=held.id),
    )


def tell_let_go(instance: Instance, kept: Held, outcome: Outcome) -> None:
    """Log that a kept message will never be handled: the saga has ended. Its record says so, too."""
    if outcome is Outcome.NO_INSTANCE and kept.kind == "event":
        log.warning(
            "saga %s, id %s: %s was kept, and is now ignored: the saga has ended",
            instance.runtime.name,
            instance.correlation_id,
            kept.event.type,
            extra=instance.about(message_id=kept.id),
        )


def tell_parked_again(instance: Instance, replayed: Replayed) -> None:
    """Count and log that the instance is parked again, once that is saved."""
    if replayed.parked and not replayed.goes_on:
        instance.tell_parked(replayed.parked, "is parked again")
