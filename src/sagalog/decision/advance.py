"""The whole transition rule: (saga, record, message, now) -> record. Pure, apart from what the user's handler does.

`advance` runs one message against a draft: the handler first, on a state decoded anew; what it asks for changes the
draft only when all of it was checked.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import msgspec

from ..definition.context import StepContext
from ..definition.saga import Saga
from .checked import actions_of
from .children import child_entry, is_awaited, settle_child
from .compensation import compensate_earlier, end_compensation
from .cut_off import ended_while_compensating
from .draft import Draft
from .entries import FINAL, Command, Handled, Status, Undo
from .finish import finish
from .gathers import leg_of
from .ids import DROPPED, GAP, entry_of, parent_in
from .itinerary import is_stale, knows_by_progress
from .joins import finish_with_joins
from .kept import begin_early, gap_passed, is_early, let_go, only_keeps, waits
from .message import Message, Outcome
from .parking import park
from .passing import lead_on, passed_over
from .phases import entered
from .record import SagaRecord
from .requests import ignore_late, request_answered_by, settled
from .sequences import known_number
from .state import decode_state
from .step_context import context_of

_RUNNING = Status.RUNNING


def advance(draft: Draft, message: Message) -> Outcome | Awaitable[Outcome]:
    """Run one message against the draft. An awaitable is returned only where the handler is asynchronous.

    Raises what the handler raises, DefinitionError for a result that is not made of actions, CodecError for a state
    that cannot be decoded: in each case the draft is unchanged.
    """
    record = draft.record
    by_progress = message.answer and record is not None and not record.held and knows_by_progress(draft, message)
    if not message.kept and not by_progress and draft.knows(message.id, message.kind):
        return Outcome.DUPLICATE
    kind = message.kind
    if kind == "event":
        if message.by is not None and (record is None or record.status in FINAL or not record.holds(message.by)):
            return Outcome.NO_INSTANCE  # it held the key when it was looked up
        if draft.saga.numberings and not message.kept:
            known = known_number(draft.saga, record, message, draft.has_number)
            if known is not None:
                return passed_over(draft, record, message, known)
        if record is None or (record.status in FINAL and not record.parked):
            return _start(draft, message)
        if message.answer and not (by_progress or message.replayed) and parent_in(message.id) is not None:
            # It starts a child, which lives already; or its id is taken.
            return Outcome.DUPLICATE if record.parent == message.id else Outcome.ALREADY_STARTED
        if message.origin not in (0, record.first_start):
            # It answers a command of a life that was forgotten since, whose id this one has, too.
            return Outcome.IGNORED
        if message.life and message.life != record.incarnation and not draft.saga.may_start(message.event):
            if message.kept:
                return let_go(draft, message)
            return Outcome.IGNORED  # an answer to a command of an incarnation that has ended
        if record.parked:
            draft.hold(message)
            return Outcome.HELD
        if (
            type(message.event).__name__ == record.started_by
            and not (message.replayed or message.kept)
            and _declined(draft, message)
        ):
            return passed_over(draft, record, message, Outcome.ALREADY_STARTED)
        if record.requests and not message.kept and (passed := _came_late(draft, record, message)) is not None:
            return passed
        if record.status is not _RUNNING and not draft.saga.accepts_while_compensating(message.event):
            late = ended_while_compensating(draft, record, message)
            return _refused_too_late(draft, record, message, late) if isinstance(late, str) else late
        if record.kept and only_keeps(record) and not draft.saga.may_start(message.event):
            return Outcome.NO_INSTANCE
    elif record is None:
        return Outcome.IGNORED
    else:
        done = _without_handler(draft, record, message)
        if done is not None:
            return done
    if draft.saga.waits and kind not in ("refused", "child"):
        outcome = waits(draft, record, message)
        if outcome is not None:
            return outcome if outcome is not Outcome.IGNORED else passed_over(draft, record, message, outcome)
    return _run(draft, message, record, decode_state(draft.saga, record))


def _start(draft: Draft, message: Message) -> Outcome | Awaitable[Outcome]:
    """Begin an incarnation, if this event may: there is none, or the one before has ended."""
    if not draft.saga.may_start(message.event):
        return let_go(draft, message) if message.kept else Outcome.NO_INSTANCE
    record, state = draft.start(message.id)
    if is_early(draft, record, message):
        return begin_early(draft, record, state, message)
    return _run(draft, message, record, state)


def _without_handler(draft: Draft, record: SagaRecord, message: Message) -> Outcome | Awaitable[Outcome] | None:
    """Return what becomes of a timer, a refusal, an end of a child or a kept message; None where its handler is called."""
    if message.kind == "child":
        return _child_ended(draft, record, message)
    if message.kept:
        if record.status is not _RUNNING or message.life not in (0, record.incarnation):
            return let_go(draft, message)
        return None
    if message.replayed:
        return _replayed(draft, record, message)
    if message.kind == "timer":
        return _timer_fired(draft, record, message)
    return _refused(draft, record, message)


def _replayed(draft: Draft, record: SagaRecord, message: Message) -> Outcome | Awaitable[Outcome] | None:
    """What was replayed before it may have ended the saga: then it means what it would have meant, had it come now."""
    if message.kind == "timer" and (record.status is not _RUNNING or message.life not in (0, record.incarnation)):
        return Outcome.IGNORED
    if message.id.startswith(DROPPED):
        return lead_on(draft, record, message)
    if message.life not in (0, record.incarnation):
        return _refused_before_this_one_began(draft, record, message)
    if message.kind == "refused" and record.status not in (_RUNNING, Status.COMPLETED):
        return _refused_too_late(draft, record, message, entry_of(draft.persistence_id, message.event.command_id))
    return None


def _timer_fired(draft: Draft, record: SagaRecord, message: Message) -> Outcome | None:
    """Pass over a timer that means nothing any more, and send the command of one that was scheduled."""
    timer = record.timers.get(message.name)
    if timer is None or f"{draft.persistence_id}/{timer.id}" != message.id:
        return Outcome.IGNORED  # cancelled, replaced, or of a finished incarnation
    if record.parked and not timer.send:
        return Outcome.IGNORED  # it waits for the repair: an event that is held may cancel it
    if message.name.startswith(GAP) and (passed := gap_passed(draft, record, message)) is not None:
        return passed
    if message.missed:
        draft.fired_timer(record, message)
        draft.touch()
        return Outcome.IGNORED
    if not timer.send:
        return None
    draft.drop_timer(record, message.name)
    sent = Command(timer.id, timer.event, trace=draft.trace or timer.trace, life=timer.life)
    draft.append(record, "outbox", sent)
    draft.append(record, "handled", Handled(message.id, timer.event.type))
    draft.fired += 1
    draft.touch()
    return Outcome.HANDLED


def _refused(draft: Draft, record: SagaRecord, message: Message) -> Outcome | None:
    """Say what the refusal of a command means where the saga is not asked; None where it is."""
    if message.origin not in (0, record.first_start):
        return Outcome.IGNORED
    entry = entry_of(draft.persistence_id, message.event.command_id)
    command = next((c for c in record.outbox if c.id == entry), None)
    if command is None:
        return Outcome.DUPLICATE
    if command.life != record.incarnation:
        return _refused_of_earlier(draft, record, message, command)
    if command.undo:
        return _compensation_failed(draft, record, message)
    if record.status not in (_RUNNING, Status.COMPLETED):
        return _refused_too_late(draft, record, message, entry)
    if record.parked:
        draft.hold(message)
        return Outcome.HELD
    return None


def _came_late(draft: Draft, record: SagaRecord, message: Message) -> Outcome | None:
    """Do as the request says whose deadline has passed before this answer came; None where the event is to be handled."""
    if message.was_kept or leg_of(record, draft.persistence_id, message) is not None:  # it came in time
        return None
    request = request_answered_by(record, draft.persistence_id, message)
    if request is None or not request.overdue:
        return None
    if request.late == "park":
        if message.replayed:  # an operator has decided to go on
            return None
        name = type(message.event).__name__
        park(
            draft,
            f"{name} answers {request.command} ({request.id}) after its deadline: `retry` handles it, `skip` drops it",
            message,
        )
        settled(record, request.id)
        return Outcome.HELD
    ignore_late(draft, record, message, request)
    return Outcome.IGNORED


def _child_ended(draft: Draft, record: SagaRecord, message: Message) -> Outcome | None:
    """Note the end of a child where nobody is to be told; None where the saga runs, and hears of it.

    Ignored, and not stored: what it has heard of before, a child of an earlier life, and one that nobody waits for.
    """
    if not is_awaited(record, message.id) or (record.finished and not message.replayed):
        return Outcome.IGNORED
    if record.parked:
        draft.hold(message)
        return Outcome.HELD
    if record.status is _RUNNING:
        return None
    settle_child(record, child_entry(message.id), message.event.outcome)
    end_compensation(record, draft.next_id, draft.trace)
    draft.append(record, "handled", Handled(message.id, message.event.title))
    draft.touch()
    return Outcome.HANDLED


def _declined(draft: Draft, message: Message) -> bool:
    """Say whether an event of the type that began this incarnation is not to be handled again."""
    return draft.saga.may_start(message.event) and draft.saga.again(message.event) != "handle"


def _refused_of_earlier(draft: Draft, record: SagaRecord, message: Message, command: Command) -> Outcome:
    """A command of an earlier incarnation was refused: that one is taken back, and this one is left alone.

    An undo command of it cannot be carried out: then an operator is needed, as for any compensation that fails. Another
    try has another id, in the same place: to a receiver that knows the old one, it would be answered already.
    """
    if command.undo:
        again = msgspec.structs.replace(command, id=draft.next_id())
        record.outbox = tuple(again if c.id == command.id else c for c in record.outbox)
        record.parked = f"the compensation of an earlier incarnation failed: {command.command.type} was refused"
        record.stuck, record.goes_on = again.id, False
    else:
        record.outbox = tuple(c for c in record.outbox if c.id != command.id)
        record.undo = tuple(u for u in record.undo if u.of != command.id)
        compensate_earlier(record, command.life, draft.next_id, draft.trace)
    draft.append(record, "handled", Handled(message.id, type(message.event.command).__name__))
    draft.touch()
    return Outcome.HANDLED


def _refused_before_this_one_began(draft: Draft, record: SagaRecord, message: Message) -> Outcome:
    """The refusal was held, and what was replayed before it has begun the next incarnation, which it does not touch."""
    compensate_earlier(record, message.life, draft.next_id, draft.trace)
    draft.append(record, "handled", Handled(message.id, type(message.event.command).__name__))
    draft.touch()
    return Outcome.HANDLED


def _refused_too_late(draft: Draft, record: SagaRecord, message: Message, entry: str) -> Outcome:
    """A command was refused that is being taken back already: there is nothing to take back, and nothing to decide."""
    record.outbox = tuple(c for c in record.outbox if c.id != entry and c.of != entry)
    record.undo = tuple(u for u in record.undo if u.of != entry)
    end_compensation(record, draft.next_id, draft.trace)
    event = message.event.command if message.kind == "refused" else message.event
    draft.append(record, "handled", Handled(message.id, type(event).__name__))
    draft.touch()
    return Outcome.HANDLED


def _compensation_failed(draft: Draft, record: SagaRecord, message: Message) -> Outcome:
    """Put the undo commands that are left, the refused one on top, back onto the stack, and say so."""
    life = record.incarnation
    left = [c for c in record.outbox if c.undo and c.life == life]
    record.outbox = tuple(c for c in record.outbox if not c.undo or c.life != life)
    earlier = tuple(u for u in record.undo if u.life != life)
    record.undo = (*earlier, *(Undo(c.of, c.command, life) for c in reversed(left)))
    record.status = Status.COMPENSATION_FAILED
    draft.append(record, "handled", Handled(message.id, type(message.event.command).__name__))
    draft.touch()
    return Outcome.HANDLED


def _run(draft: Draft, message: Message, record: SagaRecord, state: Any) -> Outcome | Awaitable[Outcome]:
    saga, event, context = draft.saga, message.event, None
    if saga.activities is not None and is_stale(draft, record, message):
        return Outcome.DUPLICATE
    if message.kind == "child":
        context = context_of(draft, message, record)
        result = saga.child_ended(state, event.read(draft.registry), context)
    elif record.gathers and _is_refused_leg(draft, message, record):
        context = context_of(draft, message, record)
        return finish_with_joins(draft, message, record, state, [], context)
    elif saga.takes_context():
        context = context_of(draft, message, record)
        call = saga.refused_in if message.kind == "refused" else saga.handle_in
        result = call(state, event, context)
    else:
        result = saga.refused_in(state, event, None) if message.kind == "refused" else saga.handle(state, event)
    actions = actions_of(result, saga)
    if (saga.has_joins or record.gathers) and record.status is _RUNNING:
        return _run_joins(draft, message, record, state, actions, context or context_of(draft, message, record))
    if isinstance(actions, list):
        if context is not None:
            actions = entered(saga, record, state, actions, context)
        return finish(draft, message, record, state, actions)
    return _run_async(draft, message, record, state, actions, context)


def _is_refused_leg(draft: Draft, message: Message, record: SagaRecord) -> bool:
    """Say whether a leg of a gather was refused and has no handler for that: then the gather alone says what it means."""
    if message.kind != "refused" or record.status is not _RUNNING or type(draft.saga).refused is not Saga.refused:
        return False
    if type(message.event.command) in draft.saga.refusals():
        return False
    return leg_of(record, draft.persistence_id, message) is not None


def _run_joins(
    draft: Draft,
    message: Message,
    record: SagaRecord,
    state: Any,
    actions: list[Any] | Awaitable[list[Any]],
    context: StepContext,
) -> Outcome | Awaitable[Outcome]:
    if isinstance(actions, list):
        return finish_with_joins(draft, message, record, state, list(actions), context)
    return _run_joins_async(draft, message, record, state, actions, context)


async def _run_joins_async(
    draft: Draft,
    message: Message,
    record: SagaRecord,
    state: Any,
    actions: Awaitable[list[Any]],
    context: StepContext,
) -> Outcome:
    outcome = finish_with_joins(draft, message, record, state, list(await actions), context)
    return outcome if isinstance(outcome, Outcome) else await outcome


async def _run_async(
    draft: Draft,
    message: Message,
    record: SagaRecord,
    state: Any,
    asked: Awaitable[list[Any]],
    context: StepContext | None,
) -> Outcome:
    actions = await asked
    if context is not None:
        actions = entered(draft.saga, record, state, actions, context)
    outcome = finish(draft, message, record, state, actions)
    return outcome if isinstance(outcome, Outcome) else await outcome
