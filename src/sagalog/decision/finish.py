"""What a handler has decided, put into the draft: all of it is checked and packed before any of it is changed.

advance ─► [finish] ─► draft
"""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from typing import Any, TypeAlias

import msgspec

from ..definition.actions import (
    AddKey,
    CancelTimer,
    Compensate,
    Complete,
    Enter,
    Gather,
    Late,
    RemoveKey,
    Schedule,
    Send,
    SetTimer,
    StartChild,
)
from ..definition.codec import Typed
from ..definition.indexing import PHASE
from ..definition.saga import Saga
from ..errors import DefinitionError
from .checked import Planned, actions_of, plan_of
from .children import begin_child, child_entry, settle_child
from .draft import Draft
from .entries import Command, Handled, Request, Stage, Status, Timer, Undo
from .gather_ends import meet
from .gathering import GatherStep, PlannedGather, ends_in
from .ids import ANSWER, GAP
from .itinerary import Proceed, knows_by_progress, proceed, reordered
from .keys import KeyTexts, claimed, held_after
from .message import Message, Outcome
from .moments import SCHEDULED
from .phases import entered
from .planned_child import PlannedChild
from .record import SagaRecord, embed_state
from .requests import Asked, settle_request
from .sequences import skip_missing
from .step_context import context_of

_HANDLED = Outcome.HANDLED  # looked up once: Python 3.11 finds a member of an enum by a call
_RUNNING = Status.RUNNING
_COMPLETED = Status.COMPLETED

Plan: TypeAlias = list[tuple[Planned, Any, Typed | None]]
Checked: TypeAlias = tuple[Plan, bytes, dict[str, str | None] | None, tuple[KeyTexts, KeyTexts] | None]
"""What a step is to change: its plan, the state in stored form, the texts of its index, and the keys that are held then."""


def finish(
    draft: Draft, message: Message, record: SagaRecord, state: Any, actions: list[Any]
) -> Outcome | Awaitable[Outcome]:
    """Check and pack the actions, then change the draft. Raises with the draft unchanged.

    An awaitable is returned where a unique key has to be reserved first.
    """
    saga, status = draft.saga, record.status
    if saga.activities is not None:
        actions = proceed(draft, message, record, state, actions, partial(_asked, draft, message, record, state))
    plan: Plan
    if len(actions) == 1 and type(actions[0]) is Proceed:  # nearly all steps of an itinerary
        plan = [(actions[0], None, None)]
    else:
        plan = plan_of(actions, saga, draft.registry, draft.now, state, record) if actions else []
    if (
        status is not _RUNNING
        and not (status is _COMPLETED and message.kind == "refused")
        and any(isinstance(part[0], (Complete, Compensate)) for part in plan)
    ):
        raise DefinitionError(f"saga {saga.name!r} is already compensating: it can neither complete nor compensate now")
    payload = saga.pack_state(state)
    index = saga.index_table().texts(state, "") if saga.index else None
    keys = None
    if saga.keys:
        keys = held_after(saga.name, saga.key_table, (record.keys, record.unique_keys), plan)
        wanted = claimed(record.unique_keys, keys[1])
        if wanted and draft.reserve is not None:
            return _reserved(draft, message, record, draft.reserve(wanted), (plan, payload, index, keys))
    return _change(draft, message, record, (plan, payload, index, keys))


async def _reserved(
    draft: Draft, message: Message, record: SagaRecord, reserving: Awaitable[None], checked: Checked
) -> Outcome:
    """Change the draft once the keys are reserved. Raises KeyTakenError, or whatever keeps them from being reserved."""
    await reserving
    return _change(draft, message, record, checked)


def _change(draft: Draft, message: Message, record: SagaRecord, checked: Checked) -> Outcome:
    """Put what was checked into the draft: the message is handled. Raises nothing."""
    plan, payload, index, keys = checked
    saga, event, kind = draft.saga, message.event, message.kind
    draft.started += record is not draft.record
    draft.record = record
    if message.kept:
        draft.kept_by(record).take(message.id, message.kind)
        draft.woken += 1
    if record.kept:
        record.waking = True
    if type(saga).encode_state is Saga.encode_state:
        record.state, record.state_is_base64 = msgspec.Raw(payload), False
    else:
        record.state, record.state_is_base64 = embed_state(payload)
    record.state_version = saga.state_version()
    if record.requests and not (message.kept or message.was_kept):
        settle_request(draft, record, message)
    if record.requests and record.gathers:
        for ended in ends_in(part[0] for part in plan):
            settle_request(draft, record, Message("", ended))
    if kind == "event":
        known = saga.activities is not None and knows_by_progress(draft, message)
        if not (known or (saga.numberings and not message.passed and draft.pass_number(record, message))):
            draft.remember(record, message.id, own=message.own)
    elif kind == "child":
        settle_child(record, child_entry(message.id), event.outcome)
    elif not message.kept and not message.passed:
        draft.fired += kind == "timer"
        draft.consume(record, message)
        if message.name.startswith(GAP) and not message.was_kept:
            skip_missing(record, message.name.removeprefix(GAP))
    name = event.title if kind == "child" else type(event.command if kind == "refused" else event).__name__
    if not record.started_by and kind == "event":
        record.started_by = name
    handled = Handled(message.id, name)
    if message.kept or message.was_kept or message.sent_by:
        how = "kept" if message.kept or message.was_kept else ""
        handled = Handled(message.id, name, how=how, by=message.sent_by)
    if message.passed:
        _note_passed(draft, record, message, name)
    elif record.handled:
        draft.append(record, "handled", handled)
    else:
        record.handled = (handled,)
    if keys is not None:
        record.keys, record.unique_keys = keys
    if plan:
        _apply(draft, record, plan)
    if index is not None or record.index:
        _note_index(draft, record, index or {})
    draft.changed = True
    record.updated_at = draft.now
    return _HANDLED


def _asked(draft: Draft, message: Message, record: SagaRecord, state: Any, result: Any, before: list[Any]) -> list[Any]:
    """Return the actions that a method of an activity asks for, with those of the phases that they enter and leave."""
    saga = draft.saga
    actions = actions_of(result, saga)
    assert isinstance(actions, list)  # it is no async def, which is checked when the class is made
    if saga.phase_table is None or not actions:
        return actions
    context = context_of(draft, message, record)
    for action in before:
        if isinstance(action, Enter):
            context = msgspec.structs.replace(context, phase=action.phase)
    return entered(saga, record, state, actions, context, begins=False)


def _note_passed(draft: Draft, record: SagaRecord, message: Message, name: str) -> None:
    """Note an answer that no handler has taken, once; a dropped leg is in the audit of its repair."""
    if message.kind == "event" and not any(one.id == message.id for one in record.handled):
        draft.append(record, "handled", Handled(message.id, name, how="passed", by=message.sent_by))


def _note_index(draft: Draft, record: SagaRecord, index: dict[str, str | None]) -> None:
    """Note what the instance is found by; where that is as before, the record shares it."""
    table = draft.saga.index_table()
    if table.by_phase:
        index[PHASE] = record.phase or None
    if index != record.index:
        record.index = index


def _apply(draft: Draft, record: SagaRecord, plan: list[tuple[Planned, Any, Typed | None]]) -> None:
    life, trace = record.incarnation, draft.trace
    sent: list[Command] = []
    undo_stack: list[Undo] = []
    if type(plan[0][0]) is Proceed and len(plan) == 1:
        _proceed(draft, record, plan[0][0], sent, undo_stack)
        _send(draft, record, sent, undo_stack)
        return
    for action, packed, undo in plan:
        if isinstance(action, Send):
            entry = draft.next_id()
            if action.reply_within is not None:
                packed = _ask(draft, record, entry, packed, action.late)
            sent.append(Command(entry, packed, False, "", trace, life))
            if undo is not None:
                undo_stack.append(Undo(entry, undo, life))
        elif isinstance(action, SetTimer):
            event, due_at, rule = packed
            draft.set_timer(record, action.name, Timer(draft.next_id(), due_at, event, False, trace, life, rule))
        elif isinstance(action, CancelTimer):
            draft.drop_timer(record, action.name)
        elif isinstance(action, (Gather, GatherStep)):
            _gather(draft, record, packed, sent, undo_stack)
        elif isinstance(action, StartChild):
            entry = draft.next_id()
            sent.append(begin_child(record, entry, packed, trace))
            if undo is not None:
                undo_stack.append(Undo(entry, undo, life))
        elif isinstance(action, (AddKey, RemoveKey)):
            pass  # they are in `keys`
        elif isinstance(action, Enter):
            record.phase = action.phase.name
        elif isinstance(action, Proceed):
            _proceed(draft, record, action, sent, undo_stack)
        elif isinstance(action, Schedule):
            entry = draft.next_id()
            command, due_at = packed
            draft.set_timer(record, f"{SCHEDULED}{entry}", Timer(entry, due_at, command, True, trace, life))
        elif isinstance(action, Complete):
            record.status = _COMPLETED
            record.requests, record.gathers = (), {}
            record.result = packed or record.result
            if record.timers:
                record.timers = {name: timer for name, timer in record.timers.items() if timer.send}
        else:
            _send(draft, record, sent, undo_stack)
            sent, undo_stack = [], []
            draft.compensate(packed)
    if sent:
        _send(draft, record, sent, undo_stack)


def _gather(
    draft: Draft, record: SagaRecord, planned: PlannedGather, sent: list[Command], undo_stack: list[Undo]
) -> None:
    """Note how far a gather is, and send its next legs."""
    gathering, place = planned.gathering, draft.next_place
    if planned.end is not None:
        meet(draft, record, planned.name, planned.end)
    for command, undo in planned.commands:
        entry = draft.next_id()
        if isinstance(command, PlannedChild):
            sent.append(begin_child(record, entry, command, draft.trace))
        else:
            sent.append(Command(entry, command, False, "", draft.trace, record.incarnation))
        if undo is not None:
            undo_stack.append(Undo(entry, undo, record.incarnation))
    if gathering is None:
        record.gathers = {name: one for name, one in record.gathers.items() if name != planned.name}
        return
    if planned.commands:
        gathering = gathering.with_sent(draft.sequence_nr, place, len(planned.commands))
    record.gathers = {**record.gathers, planned.name: gathering}


def _proceed(draft: Draft, record: SagaRecord, change: Proceed, sent: list[Command], undo_stack: list[Undo]) -> None:
    """Let activities begin and end."""
    life, trace, stages = record.incarnation, draft.trace, change.stages
    if change.over and record.outbox:
        over = change.over
        record.outbox = tuple([c for c in record.outbox if c.command.type not in over or c.life != life or c.undo])
    if record.undo and (change.undone or change.newest or change.commits):
        record.undo = reordered(record, change)
    for name, command, undo in change.begin:
        entry, stage = draft.next_id(), stages[name]
        sent.append(Command(entry, command, False, "", trace, life))
        if not stage.entry:
            stages[name] = Stage(stage.status, entry)
            if undo is not None:
                undo_stack.append(Undo(entry, undo, life))
    for name in change.drops:
        draft.drop_timer(record, name)
    for name, event, due_at in change.timers:
        draft.set_timer(record, name, Timer(draft.next_id(), due_at, event, False, trace, life))
    record.activities = stages


def _ask(draft: Draft, record: SagaRecord, entry: str, asked: Asked, late: Late) -> Typed:
    """Note that a command waits for an answer, and set its deadline. Returns the command."""
    record.requests = (*record.requests, Request(entry, asked.command.type, asked.reply, late))
    timer = Timer(draft.next_id(), asked.due_at, asked.otherwise, False, draft.trace, record.incarnation)
    draft.set_timer(record, ANSWER + entry, timer)
    return asked.command


def _send(draft: Draft, record: SagaRecord, sent: list[Command], undo: list[Undo]) -> None:
    if len(record.handled) == 1:  # mostly, a draft takes one message: then a list would be made for one use
        record.outbox = (*record.outbox, *sent)
        if undo:
            record.undo = (*record.undo, *undo)
        return
    for command in sent:
        draft.append(record, "outbox", command)
    for one in undo:
        draft.append(record, "undo", one)
