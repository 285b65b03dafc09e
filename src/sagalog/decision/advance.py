"""The whole transition rule: (saga, record, message, now) -> record. Pure, apart from what the user's handler does.

`advance` runs one message against a draft: the handler first, on a state decoded anew; what it asks for changes the
draft only when all of it was checked.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable
from types import GeneratorType
from typing import Any

from ..definition.actions import CancelTimer, Compensate, Complete, Schedule, Send, SetTimer
from ..definition.saga import Saga
from ..errors import CodecError
from .checked import listed
from .compensation import end_compensation
from .draft import Draft, drop_timer
from .message import Message, Outcome
from .record import FINAL, Command, Handled, SagaRecord, Status, Undo

_RUNNING = Status.RUNNING


class UnreadableStateError(CodecError):
    """The stored state cannot be decoded by this code: the instance is parked in memory, the journal left as it is."""


def advance(draft: Draft, message: Message) -> Outcome | Awaitable[Outcome]:
    """Run one message against the draft. An awaitable is returned only where the handler is asynchronous.

    Raises what the handler raises, DefinitionError for a result that is not made of actions, CodecError for a state
    that cannot be decoded: in each case the draft is unchanged.
    """
    record = draft.record
    if draft.knows(message.id):
        return Outcome.DUPLICATE
    kind = message.kind
    if kind == "event":
        if record is None or (record.status in FINAL and not record.parked):
            if not draft.saga.may_start(message.event):
                return Outcome.NO_INSTANCE
            record, state = draft.start()
            return _run(draft, message, record, state)
        if record.parked:
            draft.hold(message)
            return Outcome.HELD
        if record.status is not _RUNNING and not draft.saga.accepts_while_compensating(message.event):
            return Outcome.NO_INSTANCE
    elif record is None:
        return Outcome.IGNORED
    elif message.replayed:
        # What was replayed before it may have ended the saga: then it means what it would have meant, had it come now.
        if kind == "timer" and record.status is not Status.RUNNING:
            return Outcome.IGNORED
        if kind == "refused" and record.status not in (Status.RUNNING, Status.COMPLETED):
            return _refused_too_late(draft, record, message, message.event.command_id[len(draft.persistence_id) + 1 :])
    elif kind == "timer":
        timer = record.timers.get(message.name)
        if timer is None or f"{draft.persistence_id}/{timer.id}" != message.id:
            return Outcome.IGNORED  # cancelled, replaced, or of a finished incarnation
        if record.parked and not timer.send:
            return Outcome.IGNORED  # it waits for the repair: an event that is held may cancel it
        if timer.send:
            drop_timer(record, message.name)
            sent = Command(timer.id, timer.event, trace=draft.trace or timer.trace)
            record.outbox = (*record.outbox, sent)
            record.handled = (*record.handled, Handled(message.id, timer.event.type))
            draft.fired += 1
            draft.touch()
            return Outcome.HANDLED
    else:
        entry = message.event.command_id[len(draft.persistence_id) + 1 :]
        command = next((c for c in record.outbox if c.id == entry), None)
        if command is None:
            return Outcome.DUPLICATE
        if command.undo:
            return _compensation_failed(draft, record, message)
        if record.status not in (Status.RUNNING, Status.COMPLETED):
            return _refused_too_late(draft, record, message, entry)
        if record.parked:
            draft.hold(message)
            return Outcome.HELD
    return _run(draft, message, record, decode_state(draft.saga, record))


def _refused_too_late(draft: Draft, record: SagaRecord, message: Message, entry: str) -> Outcome:
    """A command was refused that is being taken back already: there is nothing to take back, and nothing to decide."""
    record.outbox = tuple(c for c in record.outbox if c.id != entry and c.of != entry)
    record.undo = tuple(u for u in record.undo if u.of != entry)
    end_compensation(record)
    record.handled = (*record.handled, Handled(message.id, type(message.event.command).__name__))
    draft.touch()
    return Outcome.HANDLED


def _compensation_failed(draft: Draft, record: SagaRecord, message: Message) -> Outcome:
    """Put the undo commands that are left, the refused one on top, back onto the stack, and say so."""
    left = [c for c in record.outbox if c.undo]
    record.outbox = tuple(c for c in record.outbox if not c.undo)
    record.undo = tuple(Undo(c.of, c.command) for c in reversed(left))
    record.status = Status.COMPENSATION_FAILED
    record.handled = (*record.handled, Handled(message.id, type(message.event.command).__name__))
    draft.touch()
    return Outcome.HANDLED


def decode_state(saga: Saga[Any], record: SagaRecord) -> Any:
    """Return the state, upcast if an older version is stored. Raises UnreadableStateError, which names no values."""
    was = ""
    try:
        payload = record.state_bytes()
        if record.state_version != saga.state_version():
            payload = saga.upcast_state(payload, record.state_version)
            was = f"upcast from schema version {record.state_version}: "
        return saga.decode_state(payload)
    except CodecError as error:
        raise UnreadableStateError(f"{was}{error}") from error
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the user's own decoder; its message may quote the state
        raise UnreadableStateError(f"{was}decode_state raised {type(error).__name__}") from error


def _run(draft: Draft, message: Message, record: SagaRecord, state: Any) -> Outcome | Awaitable[Outcome]:
    event = message.event
    result = draft.saga.refused(state, event) if message.kind == "refused" else draft.saga.handle(state, event)
    if result is None or isinstance(result, (Send, SetTimer, CancelTimer, Compensate, Complete, Schedule)):
        return draft.finish(message, record, state, [] if result is None else [result])
    if type(result) is GeneratorType:  # what handlers mostly are; the checks below ask abstract classes, which is slow
        return draft.finish(message, record, state, list(result))
    if isinstance(result, (Awaitable, AsyncIterable)):
        return _run_async(draft, message, record, state, result)
    return draft.finish(message, record, state, listed(result, draft.saga))


async def _run_async(draft: Draft, message: Message, record: SagaRecord, state: Any, result: Any) -> Outcome:
    if isinstance(result, AsyncIterable):
        actions = [action async for action in result]
    else:
        value = await result
        if value is None:
            actions = []
        elif isinstance(value, (Send, SetTimer, CancelTimer, Compensate, Complete, Schedule)):
            actions = [value]
        elif isinstance(value, AsyncIterable):
            actions = [action async for action in value]
        else:
            actions = listed(value, draft.saga)
    return draft.finish(message, record, state, actions)
