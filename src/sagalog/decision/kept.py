"""Messages that wait in the record for their moment: accepted, not handled yet, and never forgotten.

    advance ─► [waits] ─► kept in the record, in the order they came
    what a step has changed ─► [next_kept] ─► advance, in the same turn, before anything else of that instance

A message waits for a phase that expects it. Every change of an instance that keeps some marks its record (`waking`): then
they are looked through, oldest first, until none is left whose moment has come. A record that is stored with the mark
(because a handler failed, or a repair changed the phase) is due, so whichever worker takes it goes on here. Once the saga
has ended, each of them is let go, unless it begins the next incarnation.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any

from ..definition.saga import Saga
from ..errors import TooManyKeptError, UnexpectedEventError
from .draft import Draft
from .entries import FINAL, Audit, Handled, Held, Status, Timer
from .ids import ACTIVITY, GAP, parts_of
from .keeping import all_kept, held_of
from .message import Message, Outcome
from .moments import LAST_MOMENT
from .phases import phase_of
from .record import SagaRecord, embed_state, well_formed
from .requests import settle_request
from .sequences import DEADLINE, gap_in, leave_hole, next_number, place_of, sequence_of, skip_missing


def waits(draft: Draft, record: SagaRecord, message: Message) -> Outcome | None:
    """Return what becomes of a message that the instance does not expect now; None if it is to be handled.

    A message that was accepted before, by a parked instance, cannot be refused any more: it is kept instead. Raises
    UnexpectedEventError or TooManyKeptError for a timer, which has no sender: that parks the instance.
    """
    saga, event = draft.saga, type(message.event)
    accepted = message.replayed or message.kept
    early = _early(saga, record, message)
    table, phase = saga.phase_table, phase_of(saga, record)
    if not early and (table is None or phase is None or table.expects(event, phase)):
        return None
    if early:
        if not accepted and len(record.kept) >= saga.most_kept:
            return Outcome.UNEXPECTED
        _keep(draft, record, message)
        return Outcome.KEPT
    assert table is not None
    assert phase is not None
    policy = "keep" if message.kept or message.was_kept else table.policy(event, phase)
    if not policy:  # a timer has no sender who could be told
        policy = "ignore" if message.kind == "timer" and message.gather is None else saga.unexpected
    if policy == "raise" and accepted:
        policy = "keep"
    if policy == "ignore":
        if message.kind == "timer":
            _ignore_timer(draft, record, message)
        elif saga.numberings and draft.pass_number(record, message):
            draft.append(record, "handled", Handled(message.id, event.__name__, how="ignored"))
            draft.touch()
        return Outcome.IGNORED
    if policy == "keep" and (accepted or len(record.kept) < saga.most_kept):
        _keep(draft, record, message)
        return Outcome.KEPT
    if message.kind == "timer":
        raise unexpected(draft, message)
    return Outcome.UNEXPECTED


def unexpected(draft: Draft, message: Message) -> UnexpectedEventError | TooManyKeptError:
    """Return what to tell the sender of a message that was Outcome.UNEXPECTED."""
    saga, record, event = draft.saga, draft.record, type(message.event)
    table = saga.phase_table
    assert record is not None
    phase = phase_of(saga, record)
    correlation_id = parts_of(draft.persistence_id)[1]
    full = TooManyKeptError(saga.name, correlation_id, event.__name__, saga.most_kept)
    if table is None or phase is None or _early(saga, record, message):
        return full
    if (table.policy(event, phase) or saga.unexpected) == "keep":
        return full
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
        kept = draft.kept_by(record)
        phase = phase_of(draft.saga, record)
        if record.status in FINAL:
            return kept.oldest()
        one = kept.first(lambda one: one.life not in (0, record.incarnation) or _expected(draft, record, one, phase))
        if one is not None:
            return one
        _wait_for_missing(draft, record, kept.sequences)
    record.waking = False
    draft.changed = True
    return None


def begin_early(draft: Draft, record: SagaRecord, state: Any, message: Message) -> Outcome:
    """Keep an event that may start a saga, and whose number is not the first: the instance waits for that one."""
    payload = draft.saga.pack_state(state)
    record.state, record.state_is_base64 = embed_state(payload)
    before, draft.record = draft.record, record
    try:
        _keep(draft, record, message)
    except BaseException:
        draft.record = before
        raise
    draft.started += 1
    return Outcome.KEPT


def is_early(draft: Draft, record: SagaRecord, message: Message) -> bool:
    """Say whether numbers before that of an event are missing."""
    return bool(draft.saga.numberings) and _early(draft.saga, record, message)


def only_keeps(record: SagaRecord) -> bool:
    """Say whether the instance has handled nothing yet: it waits for the number that starts it."""
    return bool(record.kept) and not record.started_by and not record.inbox and not record.recent


def gap_passed(draft: Draft, record: SagaRecord, message: Message) -> Outcome | None:
    """Do what is declared for numbers that did not come in time; None: `message` brings the event to be handled now."""
    key = message.name.removeprefix(GAP)
    known, gap = sequence_of(draft.saga, key), gap_in(draft.saga, draft.persistence_id, record, key)
    why = ""
    if known is not None and gap is not None and callable(known.gap):
        try:
            message.event = known.gap(gap)
        except Exception as error:  # the user's own
            why = f", and making its event raised {type(error).__name__}"
        else:
            if draft.saga.handles_event(message.event):
                return None
            why = f", and no handler takes the {type(message.event).__name__} that is made of it"
    draft.fired_timer(record, message)
    draft.fired += 1
    draft.touch()
    if known is None or gap is None:
        return Outcome.IGNORED
    draft.append(record, "handled", Handled(message.id, str(gap), how="gap"))
    if known.gap == "skip":
        skip_missing(record, key)
        draft.append(record, "audit", Audit(draft.now, "gap", f"{gap} did not come, and is no longer waited for"))
        return Outcome.HANDLED
    record.gap = key
    if known.gap_within is None:  # other code has set the deadline
        late, again = "in time", "waits without end"
    else:
        late, again = f"within {known.gap_within}", "waits as long again"
    record.parked = well_formed(f"{gap} did not come {late}{why}: `skip` continues without it, `retry` {again}")
    return Outcome.HANDLED


def _early(saga: Saga[Any], record: SagaRecord, message: Message) -> bool:
    return _is_ahead(saga, record, type(message.event), *place_of(saga, message))


def _is_ahead(saga: Saga[Any], record: SagaRecord, event: type, key: str, number: int) -> bool:
    """Say whether numbers before this one are missing. Events that this code does not number wait for none.

    Asked of what waits, and again when it is handled: two answers would let it go round for ever.
    """
    if not key or event not in saga.numberings:
        return False
    expected = next_number(saga, record, key)
    return expected is not None and number > expected


def _wait_for_missing(draft: Draft, record: SagaRecord, sequences: Iterable[str]) -> None:
    """Let the gap before what is kept of each of these have its deadline, from now on where it is new."""
    if record.status is not Status.RUNNING or record.parked:
        return
    for key in sequences:
        known = sequence_of(draft.saga, key)
        if known is None or known.gap_within is None or GAP + key in record.timers:
            continue
        if gap_in(draft.saga, draft.persistence_id, record, key) is not None:
            due_at = min(draft.now, LAST_MOMENT - known.gap_within) + known.gap_within
            draft.set_timer(record, GAP + key, Timer(draft.next_id(), due_at, DEADLINE, life=record.incarnation))


def _expected(draft: Draft, record: SagaRecord, one: Held, phase: Enum | None) -> bool:
    event = draft.registry.get(one.event.type)
    if event is None:  # other code knows it, or knew it
        return False
    if record.status is not Status.RUNNING and (
        one.kind == "timer" or not draft.saga.accepts_type_while_compensating(event)
    ):
        return False
    if _is_ahead(draft.saga, record, event, one.sequence, one.number):
        return False
    table = draft.saga.phase_table
    return table is None or phase is None or table.expects(event, phase)


def _keep(draft: Draft, record: SagaRecord, message: Message) -> None:
    """Keep a message until its moment comes. Raises CodecError or DefinitionError: nothing changed."""
    if message.kept:
        return
    packed = draft.registry.pack(message.event)
    one = held_of(draft.saga, message, packed, message.life)
    draft.kept_by(record).add(one)
    if record.requests and not message.was_kept:
        settle_request(draft, record, message)
    if record.activities:
        _ask_no_more(draft, record, type(message.event))
    if message.kind == "timer":
        draft.fired_timer(record, message)
        _skip_gap_of(record, message)
    elif one.sequence:
        _wait_for_missing(draft, record, (one.sequence,))
    draft.changed = True
    record.updated_at = draft.now


def _ask_no_more(draft: Draft, record: SagaRecord, event: type) -> None:
    """Take away the deadline and the reminders of an activity whose event has come in time, and is kept."""
    table = draft.saga.activities
    if table is None or event not in table.awaited:
        return
    name = table.awaited[event][0].name
    stage = record.activities.get(name)
    if stage is not None and stage.status == "waiting":
        draft.drop_timer(record, ACTIVITY + name)
        draft.drop_timer(record, f"{ACTIVITY}{name}/reminder")


def _ignore_timer(draft: Draft, record: SagaRecord, message: Message) -> None:
    """Note that a timer has fired that the instance does not expect."""
    if record.requests:
        settle_request(draft, record, message)
    draft.fired_timer(record, message)
    draft.fired += not message.replayed
    _skip_gap_of(record, message)
    draft.append(record, "handled", Handled(message.id, type(message.event).__name__, how="ignored"))
    draft.touch()


def _skip_gap_of(record: SagaRecord, message: Message) -> None:
    if message.name.startswith(GAP) and not (message.kept or message.was_kept):
        skip_missing(record, message.name.removeprefix(GAP))


def let_go(draft: Draft, message: Message) -> Outcome:
    """Take a kept message out of a record that has ended before its moment came, and say so there."""
    record = draft.touch()
    gone = draft.kept_by(record).take(message.id, message.kind)
    if message.kind == "event":
        draft.remember(record, message.id)
        leave_hole(record, gone)
        note = f"{gone.event.type} ({message.id}) was kept, and ended with the saga"
        draft.append(record, "audit", Audit(draft.now, "kept", note))
    return Outcome.NO_INSTANCE


def park_kept(draft: Draft, reason: str, message: Message) -> bool:
    """Park the instance with a kept message; say whether it is still there.

    The others that are kept are held behind it: what the repair does with it may let them be handled, too, and they
    came before whatever is held from now on.
    """
    record = draft.record
    if record is None or not draft.kept_by(record).has(message.id, message.kind):
        return False
    record.held = (*all_kept(record, message), *record.held)
    record.kept, record.parked = (), well_formed(reason)
    draft.touch()
    return True
