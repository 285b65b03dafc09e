"""The whole transition rule: (saga, record, message, now) -> record. Pure, apart from what the user's handler does.

A `Draft` starts as a copy of the stored record. `advance` runs one message against it: the handler first, on a state
decoded anew, then every action is checked and packed, and only then is the draft changed; so a handler or an action
that fails leaves the draft as it was. One draft may take several messages: together they are one step, one record.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterable, Awaitable, Callable, Collection, Container
from datetime import datetime, timedelta
from enum import Enum
from types import GeneratorType
from typing import Any

import msgspec

from .actions import Action, CancelTimer, Compensate, Complete, Refused, Schedule, Send, SetTimer
from .codec import Typed, TypeRegistry
from .errors import CodecError, DefinitionError
from .plan import SCHEDULED, listed, plan_of
from .record import (
    FINAL,
    FORMAT,
    Command,
    Handled,
    Held,
    Kind,
    SagaRecord,
    Status,
    Timer,
    Undo,
    embed_state,
)
from .saga import Saga


class UnreadableStateError(CodecError):
    """The stored state cannot be decoded by this code: the instance is parked in memory, the journal left as it is."""


class Outcome(Enum):
    """What became of one message."""

    HANDLED = "handled"
    DUPLICATE = "duplicate"
    HELD = "held"  # stored with a parked instance
    IGNORED = "ignored"  # a timer that was cancelled, an event for an instance that compensates
    NO_INSTANCE = "no_instance"  # nothing changed; the policy for such events decides


# Looked up once: Python 3.11 finds a member of an enum by a call.
_HANDLED = Outcome.HANDLED
_RUNNING = Status.RUNNING
_MANY = 64  # message ids in an inbox, from which on it is worth to search them another way


class Message(msgspec.Struct, gc=False, eq=False):
    """What comes to an instance: an event from outside, one of its timers, or the refusal of one of its commands."""

    id: str
    event: Any
    kind: Kind = "event"
    name: str = ""  # of a timer
    reason: str = ""  # of a refusal
    at: datetime | None = None  # the event's own time, where the clock follows events
    replayed: bool = False  # was held by a parked instance, which already took it out of timers or outbox
    trace: str = ""  # what caused it, as a hook of the runner says: kept, never looked into


class Draft:
    """The record in the making. `sequence_nr` is the number it will be saved under; command ids derive from it."""

    __slots__ = (
        "_before",
        "_index",
        "_known",
        "_searched",
        "changed",
        "fired",
        "now",
        "persistence_id",
        "record",
        "registry",
        "retention",
        "saga",
        "sequence_nr",
        "started",
        "trace",
        "watch",
    )

    def __init__(
        self,
        saga: Saga[Any],
        registry: TypeRegistry,
        persistence_id: str,
        record: SagaRecord | None,
        version: int,
        now: datetime,
        retention: timedelta,
    ) -> None:
        self.saga = saga
        self.registry = registry
        self.persistence_id = persistence_id
        self.sequence_nr = version + 1
        self.now = now
        self.retention = retention
        self.changed = False
        self.fired = 0  # timers
        self.started = 0  # incarnations
        self.trace = ""  # kept with what the message at hand sends
        self.watch: Any = None  # who is told of each message; see runner/hooks.py
        self._index = 0
        self._before = record
        self._searched: SagaRecord | None = None
        self._known: set[str] | None = None
        if record is not None:
            record = copy.copy(record)
            record.handled = ()
        self.record: SagaRecord | None = record

    @property
    def ended(self) -> int:
        """How many incarnations this draft has ended."""
        return _live(self._before) + self.started - _live(self.record)

    def next_id(self) -> str:
        """Return the id of the next command or timer of this step, unique for the life of the instance."""
        entry = f"{self.sequence_nr}/{self._index}"
        self._index += 1
        return entry

    def knows(self, message_id: str) -> bool:
        """Say whether the message was consumed, by this incarnation or a remembered one, or is held."""
        record = self.record
        if record is None:
            return False
        if message_id in (record.inbox if len(record.inbox) < _MANY else self._searchable(record)):
            return True
        if record.held and any(held.id == message_id for held in record.held):
            return True
        until = record.inherited_until
        return until is not None and until > self.now and message_id in record.inherited

    def _searchable(self, record: SagaRecord) -> Container[str]:
        # The first look goes through the inbox, and mostly there is no other: making a set costs more than that.
        if self._searched is not record:
            self._searched, self._known = record, None
            return record.inbox
        if self._known is None:
            self._known = set(record.inbox)
        return self._known

    def remember(self, record: SagaRecord, message_id: str) -> None:
        """Note an event as consumed. Timers and refusals need no note: what they come from is in the record, or gone."""
        record.inbox = (*record.inbox, message_id)
        if self._known is not None and self._searched is record:
            self._known.add(message_id)

    def touch(self) -> SagaRecord:
        """Mark the record as changed now and return it."""
        assert self.record is not None
        self.changed = True
        self.record.updated_at = self.now
        return self.record

    def accept(self, entries: Collection[str]) -> None:
        """Take accepted commands out of the outbox; the last accepted undo ends the compensation."""
        record = self.record
        if record is None or not record.outbox:
            return
        left = tuple([c for c in record.outbox if c.id not in entries])
        if len(left) == len(record.outbox):
            return
        record.outbox = left
        end_compensation(record)
        self.touch()

    def start(self) -> tuple[SagaRecord, Any]:
        """Return the record and state of a new incarnation; what the last one consumed stays remembered."""
        state = self.saga.initial_state()
        old = self.record
        record = SagaRecord(
            format=FORMAT,
            status=Status.RUNNING,
            state=msgspec.Raw(b"null"),
            started_at=self.now,
            updated_at=self.now,
            state_version=self.saga.state_version(),
        )
        if old is not None:
            record.incarnation = old.incarnation + 1
            record.handled = old.handled  # the same step may have ended the last one
            record.audit = old.audit
            record.outbox = old.outbox  # not yet delivered commands of the last incarnation still go out
            record.timers = {name: timer for name, timer in old.timers.items() if timer.send}
            remembered = old.inherited if old.inherited_until and old.inherited_until > self.now else ()
            record.inherited = remembered + old.inbox
            record.inherited_until = self.now + self.retention
        return record, state

    def hold(self, message: Message) -> None:
        """Keep a message for the repair of a parked instance. Raises CodecError or DefinitionError: nothing changed."""
        record = self.record
        assert record is not None
        event = message.event.command if message.kind == "refused" else message.event
        held = Held(message.id, self.registry.pack(event), message.kind, message.reason, message.name, message.trace)
        record.held = (*record.held, held)
        self._consume(record, message)
        self.touch()

    def park(self, reason: str, message: Message) -> None:
        """Park the instance with the message that it could not handle; a new one is made for an event, if none is live.

        The refusal of a command of one that has ended stays with that one: only it can take back what it did.
        """
        before = self.record
        record = self.record = self._to_park(message.kind)
        try:
            self.hold(message)
        except BaseException:
            self.record = before
            raise
        self.started += record is not before
        record.parked = reason

    def park_again(self, reason: str, held: tuple[Held, ...]) -> None:
        """Park the instance with messages that were held before; a new one is made where none is live any more."""
        before = self.record
        record = self.record = self._to_park(held[0].kind)
        self.started += record is not before
        record.parked, record.held = reason, held
        self.touch()

    def _to_park(self, kind: str) -> SagaRecord:
        if self.record is not None and (self.record.status not in FINAL or kind != "event"):
            return self.record
        record, state = self.start()
        record.state, record.state_is_base64 = embed_state(self.saga.encode_state(state), known_json=False)
        return record

    def _consume(self, record: SagaRecord, message: Message) -> None:
        if message.kind == "timer":
            _drop_timer(record, message.name)
        elif message.kind == "refused":
            entry = message.event.command_id[len(self.persistence_id) + 1 :]
            record.outbox = tuple(c for c in record.outbox if c.id != entry)
            record.undo = tuple(u for u in record.undo if u.of != entry)

    def finish(self, message: Message, record: SagaRecord, state: Any, actions: list[Any]) -> Outcome:
        """Check and pack the actions, then change the draft. Raises with the draft unchanged."""
        saga = self.saga
        plan = plan_of(actions, saga, self.registry, self.now)
        may_end = record.status is _RUNNING or (record.status is Status.COMPLETED and message.kind == "refused")
        if not may_end and any(isinstance(part[0], (Complete, Compensate)) for part in plan):
            raise DefinitionError(f"saga {saga.name!r} compensates already: it can neither complete nor compensate now")
        payload = saga.encode_state(state)
        if type(payload) is not bytes:
            raise DefinitionError(f"saga {saga.name!r}: encode_state must return bytes, not {type(payload).__name__}")
        raw, wrapped = embed_state(payload, known_json=type(saga).encode_state is Saga.encode_state)
        # From here on nothing raises.
        self.started += record is not self.record
        self.record = record
        record.state, record.state_is_base64 = raw, wrapped
        record.state_version = saga.state_version()
        if message.kind == "event":
            self.remember(record, message.id)
        else:
            self.fired += message.kind == "timer"
            self._consume(record, message)
        event = message.event
        handled = Handled(message.id, type(event.command if message.kind == "refused" else event).__name__)
        record.handled = (*record.handled, handled)
        for action, packed, undo in plan:
            self._apply(record, action, packed, undo)
        self.touch()
        return _HANDLED

    def _apply(self, record: SagaRecord, action: Action, packed: Any, undo: Typed | None) -> None:
        if isinstance(action, Send):
            entry = self.next_id()
            record.outbox = (*record.outbox, Command(entry, packed, False, "", self.trace))
            if undo is not None:
                record.undo = (*record.undo, Undo(entry, undo))
        elif isinstance(action, SetTimer):
            event, due_at = packed
            record.timers = {**record.timers, action.name: Timer(self.next_id(), due_at, event, False, self.trace)}
        elif isinstance(action, CancelTimer):
            _drop_timer(record, action.name)
        elif isinstance(action, Schedule):
            entry = self.next_id()
            command, due_at = packed
            timer = Timer(entry, due_at, command, True, self.trace)
            record.timers = {**record.timers, f"{SCHEDULED}{entry}": timer}
        elif isinstance(action, Complete):
            record.status = Status.COMPLETED
            record.timers = {name: timer for name, timer in record.timers.items() if timer.send}
        else:
            self.compensate(packed)

    def compensate(self, chain: list[Typed] | None = None) -> None:
        """Compensate, with the undo stack or the chain that is given."""
        assert self.record is not None
        compensate(self.record, self.next_id, chain, self.trace)


def compensate(
    record: SagaRecord, next_id: Callable[[], str], chain: list[Typed] | None = None, trace: str = ""
) -> None:
    """Drop the timers and send the undo stack, last in first out; where a chain is given, that instead."""
    record.timers = {}
    undo = [Undo("", command) for command in chain] if chain else list(reversed(record.undo))
    send_undo(record, undo, next_id, trace)


def send_undo(record: SagaRecord, undo: list[Undo], next_id: Callable[[], str], trace: str = "") -> None:
    """Queue the undo commands, in this order, behind what is still to be delivered. None: it is compensated.

    Undelivered commands are not dropped: their step is durable, so they may be on their way already.
    """
    record.undo = ()
    record.outbox = (*record.outbox, *(Command(next_id(), u.command, True, u.of, trace) for u in undo))
    record.status = Status.COMPENSATING if undo else Status.COMPENSATED


def end_compensation(record: SagaRecord) -> None:
    """Say that it is compensated, if it was compensating and no undo command is left to be accepted."""
    if record.status is Status.COMPENSATING and not any(c.undo for c in record.outbox):
        record.status = Status.COMPENSATED
        record.undo = ()


def _live(record: SagaRecord | None) -> bool:
    return record is not None and record.status not in FINAL


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
            _drop_timer(record, message.name)
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


def _drop_timer(record: SagaRecord, name: str) -> None:
    if name in record.timers:
        record.timers = {other: timer for other, timer in record.timers.items() if other != name}


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
    except Exception as error:  # the user's own decoder; its message may quote the state
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


def refusal(command: Any, command_id: str, reason: str, trace: str = "") -> Message:
    """Return the message that tells a saga of a refused command."""
    return Message(f"{command_id}/refused", Refused(command, command_id, reason), "refused", "", reason, trace=trace)


def unhold(held: Held, registry: TypeRegistry) -> Message:
    """Return a held message as it came. Raises CodecError if its type is not known any more."""
    event = registry.unpack(held.event)
    if held.kind == "refused":
        event = Refused(event, held.id.removesuffix("/refused"), held.reason)
    return Message(held.id, event, held.kind, held.name, held.reason, replayed=True, trace=held.trace)
