"""Messages that wait in the record for their moment: accepted, not handled yet, and never forgotten.

    advance ─► [waits] ─► kept in the record, in the order they came
    what a step has changed ─► [next_kept] ─► advance, in the same turn, before anything else of that instance

A message waits for a phase that expects it. Whatever changes an instance that keeps some marks its record (`waking`):
then they are looked through, oldest first, until the moment of none has come. A record that is stored with the mark (for a
handler failed, or a repair changed the phase) is due, so whichever worker takes it goes on here. Once the saga has ended,
each of them is told to have waited in vain, unless it begins the next incarnation.
"""

from __future__ import annotations

from enum import Enum

from ..errors import TooManyKeptError, UnexpectedEventError
from .draft import Draft
from .ids import parts_of
from .message import Message, Outcome
from .phases import phase_of
from .record import FINAL, Held, SagaRecord, Status


def waits(draft: Draft, record: SagaRecord, message: Message) -> Outcome | None:
    """Return what becomes of a message that the instance does not expect now; None if it is to be handled.

    A message that was accepted before, by a parked instance, cannot be refused any more: it is kept instead. Raises
    UnexpectedEventError or TooManyKeptError for a timer, which has no sender: that parks the instance.
    """
    saga, event = draft.saga, type(message.event)
    table, phase = saga.phase_table, phase_of(saga, record)
    if table is None or phase is None or table.expects(event, phase):
        return None
    accepted = message.replayed or message.kept
    policy = "keep" if message.kept or message.was_kept else table.policy(event, phase)
    if not policy:  # a timer has no sender who could be told
        policy = "ignore" if message.kind == "timer" else saga.unexpected
    if policy == "raise" and accepted:
        policy = "keep"
    if policy == "ignore":
        if message.kind == "timer":
            draft.ignore_timer(record, message)
        return Outcome.IGNORED
    if policy == "keep" and (accepted or len(record.kept) < saga.most_kept):
        draft.keep(record, message)
        return Outcome.KEPT
    if message.kind == "timer":
        raise unexpected(draft, message)
    return Outcome.UNEXPECTED


def unexpected(draft: Draft, message: Message) -> UnexpectedEventError | TooManyKeptError:
    """Return what to tell the sender of a message that was Outcome.UNEXPECTED."""
    saga, record, event = draft.saga, draft.record, type(message.event)
    table = saga.phase_table
    assert record is not None
    assert table is not None
    phase = phase_of(saga, record)
    assert phase is not None
    correlation_id = parts_of(draft.persistence_id)[1]
    if (table.policy(event, phase) or saga.unexpected) == "keep":
        return TooManyKeptError(saga.name, correlation_id, event.__name__, saga.most_kept)
    expected = tuple(member.name for member in table.phases_of(event))
    return UnexpectedEventError(saga.name, correlation_id, event.__name__, phase.name, expected)


def next_kept(draft: Draft) -> Held | None:
    """Return the oldest kept message whose moment has come, or is over for good. None: the others go on waiting.

    Raises UnreadableStateError for a phase that this code does not know.
    """
    record = draft.record
    if record is None or not record.waking or record.parked:
        return None
    if record.kept:
        phase = phase_of(draft.saga, record)
        for one in record.kept:
            over = record.status in FINAL or one.life not in (0, record.incarnation)
            if over or _expected(draft, record, one, phase):
                return one
    record.waking = False
    draft.changed = True
    return None


def _expected(draft: Draft, record: SagaRecord, one: Held, phase: Enum | None) -> bool:
    event = draft.registry.get(one.event.type)
    if event is None:  # other code knows it, or knew it
        return False
    if record.status is not Status.RUNNING and (
        one.kind == "timer" or not draft.saga.accepts_type_while_compensating(event)
    ):
        return False
    table = draft.saga.phase_table
    return table is None or phase is None or table.expects(event, phase)
