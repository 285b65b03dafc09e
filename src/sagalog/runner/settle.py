"""Acts on what became of a turn: callers are answered and the cache is updated, or the turn is decided again.

    commit ─► [settle] ─► callers, deliver, queue

Stored                         callers are answered, and only then the commands may leave
another writer was faster      nothing was stored and no caller is answered: it is read and decided again
no answer                      it is read back; the inbox tells what was stored
not stored                     the callers are told
too large                      each message gets its own record; the one that is too large is refused, or parks
a handler raised               it is tried again by policy, with a pause, then the instance is parked with the message
"""

from __future__ import annotations

import random

import msgspec

from ..decision.entries import FINAL
from ..decision.message import Message, Outcome
from ..decision.pages import NO_MESSAGES, StoredMessages
from ..errors import (
    CodecError,
    ConflictError,
    DefinitionError,
    InstanceFullError,
    JournalUnavailableError,
    KeyTakenError,
    OutcomeUnknownError,
    PayloadTooLargeError,
    RunnerStoppedError,
    SagaParkedError,
    UnexpectedEventError,
)
from ..journal.protocol import HeldError
from ..journal.reservations import NotReservedError
from ..logs import log, trace_of
from ..text import plural
from ..waiting import Waiting
from .commit import MAX_LOST, Write
from .context import CircularWaitError
from .counters import count
from .deliveries import NO_IDS
from .envelope import Envelope, Maintenance
from .failures import described, not_handled
from .instance import Instance, Unanswered
from .load import ids_of, unreadable
from .outcome import PASSED_OVER
from .replay import tell_parked_again
from .too_large import as_told
from .turn import Turn

_HANDLED = Outcome.HANDLED
_TAKEN = frozenset({Outcome.HANDLED, Outcome.HELD, Outcome.KEPT})
_LOST = Waiting(first=0.005, most=0.1)  # against other workers; each time, one of them wins
_TOLD = (DefinitionError, CodecError, KeyTakenError, UnexpectedEventError)  # at once: another attempt would not help
_GOES_AWAY = (JournalUnavailableError, OutcomeUnknownError, RunnerStoppedError)  # who brought the event brings it again
_MAX_UNKNOWN = 20  # missing answers in a row; then the callers are told
_CONTRADICTION = (
    "the journal contradicts itself: it says of each write that another was first, but each read still returns "
    "version {}; what "
    "is stored was left as it is. Restore a backup."
)


class Pause(msgspec.Struct, frozen=True):
    """How long an instance waits before its next round. `envelope` is told if the runner stops meanwhile."""

    seconds: float
    envelope: Envelope | None = None


def settle(turn: Turn, write: Write | None, error: BaseException | None) -> Pause | None:
    """Update an instance with what became of its turn. Returns the pause that it needs, if any.

    `write` is None where there was nothing to write.
    """
    instance = turn.instance
    if turn.stale or (write is None and error is None and _refuses(turn) and not _is_current(turn)):
        return _again(turn)
    if error is None:
        if write is not None:
            _stored(write)
        instance.lost, instance.told_held = 0, False
        _answer(turn)
        if turn.replayed.parked:
            tell_parked_again(instance, turn.replayed)
        return _go_on(turn)
    if isinstance(error, ConflictError):
        if turn.unseen:  # the instance was there already: no race was lost
            return _again(turn)
        instance.runtime.engine.counters.conflicts += 1
        instance.lost += 1
        if isinstance(error, HeldError):
            _waits(instance)
        elif _contradicted(instance):
            give_up(turn, unreadable(instance, _CONTRADICTION.format(instance.cached.version)))
            return None
        return _again(turn)
    if isinstance(error, OutcomeUnknownError) and write is not None:
        instance.got_no_answer(_unanswered(write))
        instance.lost += 1
        if instance.lost <= _MAX_UNKNOWN:
            return _again(turn)
        instance.lost = 0
    if isinstance(error, PayloadTooLargeError):
        return _too_large(turn, error)
    give_up(turn, error)
    return None


def _refuses(turn: Turn) -> bool:
    """Say whether the sender of an event is to be told that its step cannot be made."""
    failure = turn.failure
    if failure is None or failure.message.kind != "event" or isinstance(failure.error, CircularWaitError):
        return False
    return isinstance(failure.error, _TOLD)


def _is_current(turn: Turn) -> bool:
    """Say whether the record on which a turn was decided was read for it, so that another worker's steps are in it."""
    if turn.instance.runtime.engine.alone:
        return True
    return turn.fresh and all(one.seen for one in turn.batch[: turn.at + 1] if one.message is not None)


def _unanswered(write: Write) -> Unanswered:
    decided = [(one, one.decided) for one in write.turn.decided if one.message is not None and not one.over]
    passed = [(one, told) for one, told in decided if told in PASSED_OVER or isinstance(told, BaseException)]
    taken = [(one, told) for one, told in decided if isinstance(told, Outcome) and told in _TAKEN]
    return Unanswered(write.version, write.payload, write.new_entries, write.lease_end, tuple(passed), tuple(taken))


def _contradicted(instance: Instance) -> bool:
    """Say whether a write was lost again and again, and what is read each time is what it was built on.

    Whoever was first has left a newer record, so it is none of another worker's: the stored rows do not fit together.
    """
    epoch, version, times = instance.lost_on
    same = (epoch, version) == (instance.cached.epoch, instance.cached.version)
    instance.lost_on = (instance.cached.epoch, instance.cached.version, times + 1 if same else 1)
    if instance.lost_on[2] <= MAX_LOST:
        return False
    instance.lost, instance.lost_on = 0, (0, 0, 0)
    return True


def _waits(instance: Instance) -> None:
    """Keep waiting for the transaction that holds the record, however long that takes."""
    instance.lost = min(instance.lost, MAX_LOST // 2)
    if not instance.told_held:
        instance.told_held = True
        log.warning(
            "saga %s, id %s waits until a transaction that holds its record has ended",
            instance.runtime.name,
            instance.correlation_id,
            extra=instance.about(),
        )
    # When that ends, what is read may be out of date once more: two more writes have to be lost before we ask again.
    instance.lost_on = (instance.cached.epoch, instance.cached.version, MAX_LOST - 2)


def _stored(write: Write) -> None:
    turn = write.turn
    instance, record = turn.instance, write.record
    runtime, counters = instance.runtime, instance.runtime.engine.counters
    if write.version == 1:
        instance.note_lives(record)
    if write.claim and not instance.deliveries.owned.issuperset(ids_of(instance.cached.record) & ids_of(record)):
        counters.takeovers += 1
    counters.saves += 1
    if runtime.unreadable:
        runtime.unreadable.pop(instance.correlation_id, None)
    deliveries, cached = instance.deliveries, instance.cached
    if record.outbox or deliveries.owned:
        deliveries.own_of(ids_of(record) if not record.stuck else NO_IDS, write.new_entries)
    deliveries.leased_until(write.lease_end)
    if turn.draft.accepted:
        deliveries.recorded(turn.draft.accepted)
    cached.was_stored(record, write.version, write.epoch)
    if write.encoded or turn.draft.lookups or cached.stored_messages is not NO_MESSAGES:
        cached.holds(_messages_of(write), turn.draft.lookups if record.held or record.kept else None)
    instance.cache.set_size(instance, len(write.payload) if write.encoded is None else write.encoded.size)
    if runtime.engine.awaited.by_id:
        runtime.engine.awaited.written(instance.persistence_id, record, write.version)
    if write.parked:
        instance.tell_parked(write.parked)
    counters.started += turn.draft.started
    counters.finished += turn.draft.ended


def _messages_of(write: Write) -> StoredMessages:
    """Return how the messages of a record are stored."""
    encoded = write.encoded
    return NO_MESSAGES if encoded is None else StoredMessages(write.version, write.epoch, encoded.held, encoded.kept)


def _answer(turn: Turn) -> None:
    """Count, and wake the callers. Only after that may the commands leave."""
    instance = turn.instance
    counters = instance.runtime.engine.counters
    turn.reporter.settled()
    for envelope in turn.batch if turn.at == len(turn.batch) else turn.decided:
        outcome = envelope.decided
        if isinstance(envelope.content, Message):
            if outcome is _HANDLED:
                counters.handled += 1
            elif isinstance(outcome, Outcome):
                count(counters, outcome)
        if envelope.park is not None:
            reason, message = envelope.park
            envelope.park = None
            instance.tell_parked(reason, message_id=message.id)
        if outcome is not None and envelope.open:  # None: it waits for a starting event, or was withdrawn
            envelope.finish()
    counters.timers += turn.draft.fired
    counters.handled += turn.draft.woken
    record = instance.cached.record
    if record is None or (record.status in FINAL and record.drained):
        instance.cached.drop()  # absence is never remembered


def _go_on(turn: Turn) -> Pause | None:
    """Put what was not decided back into the mailbox, and see to the message whose handler failed."""
    pause = None if turn.failure is None else _after_failure(turn)
    if turn.at < len(turn.batch):
        turn.instance.put_back(turn.batch[turn.at :])
    elif (record := turn.draft.record) is not None and record.owes_turn and not turn.instance.mailbox:
        turn.instance.put(Envelope(Maintenance.WAKE))
    return pause


def _after_failure(turn: Turn) -> Pause | None:
    """Tell the sender, try again later, or park."""
    assert turn.failure is not None
    instance, envelope = turn.instance, turn.batch[turn.at]
    engine = instance.runtime.engine
    message, error = turn.failure.message, turn.failure.error
    event_type = message.event.title if message.kind == "child" else type(message.event).__name__
    if isinstance(error, NotReservedError):  # the message is not to blame: its sender tries again
        tell(instance, turn.batch[turn.at :], error)
        return None
    if isinstance(error, _TOLD):
        if message is envelope.message and message.kind == "event":
            envelope.fail(error)
        else:
            envelope.park = (str(error), message)
        return None
    engine.counters.handler_errors += 1
    envelope.failures += 1
    log.warning(
        "saga %s, id %s: handling %s raised %s (attempt %d)",
        instance.runtime.name,
        instance.correlation_id,
        event_type,
        described(error),
        envelope.failures,
        extra=instance.about(message_id=message.id),
    )
    wait = engine.settings.handler_retry.wait_seconds(envelope.failures)
    if wait is None:
        reason = f"handling {event_type} raised {type(error).__name__}, {plural(envelope.failures, 'time')}"
        envelope.park = (reason, message)
        envelope.failures = 0
        return None
    return Pause(wait, envelope)


def _again(turn: Turn) -> Pause | None:
    """Nothing of the turn was stored, or nobody knows: read what is stored, and decide it again."""
    instance = turn.instance
    take_back(turn)
    instance.cached.read_first()
    instance.put_back(turn.batch)
    if instance.lost <= 2:
        return None
    pause = _LOST.pause_seconds(instance.lost - 2, 0.0, random.random())  # noqa: S311
    return None if pause is None else Pause(pause)


def take_back(turn: Turn) -> None:
    """Undo in memory what the turn decided.

    Parking is decided again, too: the message may be held already and repaired since, its timer may have been cancelled,
    or its instance may have ended.
    """
    turn.reporter.taken_back()
    for envelope in turn.decided:
        envelope.decided = envelope.park = None
        envelope.tried()
        turn.instance.let_wait_no_more(envelope)


def _too_large(turn: Turn, error: PayloadTooLargeError) -> Pause | None:
    """Find the message that makes the record too large; the others go through."""
    instance = turn.instance
    handled = [envelope for envelope in turn.decided if not envelope.over]
    decided = [envelope.decided for envelope in handled]
    fired, parked = turn.draft.fired, [envelope for envelope in handled if envelope.park is not None]
    take_back(turn)
    if len(handled) > 1:
        instance.decide_singly(len(handled))
    elif handled:
        (envelope,) = handled
        culprit = envelope.message
        if culprit is None:
            culprit = turn.woken if envelope.content is Maintenance.WAKE else turn.timer
        if fired > 1:  # of a claim, or before an event
            envelope.most_timers = fired // 2
        elif culprit is not None and culprit.kept and not parked:
            envelope.park = (str(error), culprit)
        elif culprit is None or culprit.kind == "event" or parked or (culprit.kind == "timer" and _owes(instance)):
            told = as_told(turn, envelope.message, decided[0], error)
            if isinstance(told, InstanceFullError) and not _is_current(turn):
                instance.decide_singly(instance.one_by_one + 1)
                return _again(turn)
            tell(instance, [envelope], told)  # a timer comes again with the next claim
        else:
            envelope.park = (str(error), culprit)
    instance.put_back(turn.batch)
    return None


def _owes(instance: Instance) -> bool:
    """Say whether commands are still to be accepted, which will make the record smaller."""
    record = instance.cached.record
    return record is not None and record.owes_delivery


def abandon(turn: Turn) -> None:
    """The task that decided the turn was cancelled: decide again for those that did not withdraw, or tell that we stop."""
    instance = turn.instance
    take_back(turn)
    for envelope in turn.batch:
        envelope.tried()
    if instance.runtime.engine.cancelled:
        tell(instance, turn.batch, not_handled())
    else:
        instance.put_back(turn.batch)


def give_up(turn: Turn, error: BaseException) -> None:
    """Give up a turn and tell everybody in it. As far as we know, nothing of it was stored."""
    turn.reporter.taken_back()
    tell(turn.instance, turn.batch, error)


def tell(instance: Instance, envelopes: list[Envelope], error: BaseException) -> None:
    """Tell all that have no answer yet, except those that wait for a starting event."""
    expected = isinstance(error, (InstanceFullError, JournalUnavailableError, PayloadTooLargeError))
    if not expected:
        instance.cached.unload()
    if instance.runtime.engine.stopping.is_set():
        instance.take_unknown()  # nobody is left to be told; after the lease a worker looks at it
    told = behind = False
    for envelope in envelopes:
        if envelope.open and envelope not in instance.waiting:
            told = told or envelope.message is not None or envelope.future is not None
            envelope.fail(error)
            if envelope.burst is not None and isinstance(error, _GOES_AWAY):
                envelope.burst.failed(instance.persistence_id, error)
                behind = True
    if behind:
        _tell_behind(instance)
    if not told and not expected and not isinstance(error, (SagaParkedError, RunnerStoppedError)):
        log.error(
            "saga %s, id %s: maintenance failed: %s",
            instance.runtime.name,
            instance.correlation_id,
            type(error).__name__,
            exc_info=trace_of(error),
            extra=instance.about(),
        )


def _tell_behind(instance: Instance) -> None:
    """Tell those that wait behind one of their burst that was not stored: the sender tries all of them again, in order."""
    for envelope in instance.mailbox:
        if envelope.open and envelope.burst is not None:
            error = envelope.burst.error_of(instance.persistence_id)
            if error is not None:
                envelope.fail(error)
