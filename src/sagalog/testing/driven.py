"""One instance that is driven by hand: its record as a journal would give it back, and the steps that change it.

message ─► advance ─► what it wakes ─► record (encoded and decoded) ─► commands accepted, refused or answered
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable
from datetime import datetime, timedelta
from types import FunctionType
from typing import Any

from ..decision.advance import advance
from ..decision.answer import answer_to
from ..decision.children import ChildTold, started_as
from ..decision.draft import Draft
from ..decision.entries import FINAL, Command
from ..decision.ids import command_id, end_id, parts_of, persistence_id, reply_id
from ..decision.kept import next_kept
from ..decision.keys import KeyValue
from ..decision.message import Message, Outcome, kept_message, refusal
from ..decision.record import SagaRecord, decode_record, encode_record
from ..definition import codec
from ..definition.codec import TypeRegistry
from ..definition.saga import Saga
from ..errors import DefinitionError, InvalidEventError, KeyTakenError
from .story import Story


class DrivenInstance:
    """Nothing else runs beside it: no event loop, no queue, no second worker."""

    def __init__(self, saga: Saga[Any], story: Story, now: datetime) -> None:
        self.saga = saga
        self.registry: TypeRegistry = type(saga).registry(saga)
        self.correlation_id: str | None = None
        self.record: SagaRecord | None = None
        self.now = now
        self.sent: list[Any] = []
        self.undone: list[str] = []  # activities
        self.started: list[Any] = []  # starting events of children
        self.stopped: list[str] = []  # ids of children that were asked to end
        self.refuses: dict[type | str, str] = {}  # commands, or activities whose undo it is, and for which reason
        self.answers: dict[type, Any] = {}  # commands, and with which event, or a function that makes it
        self.taken: set[KeyValue] = set()  # unique keys that another instance holds
        self._version = 0
        self._delivering = False
        self._story = story
        self._messages = 0  # that came without an id

    def happen(self, event: Any, message_id: str | None) -> None:
        """Let an event come. Raises InvalidEventError for one that the saga does not take."""
        saga = self.saga
        key = saga.key_of(event) if saga.keys else None
        correlation_id = saga.correlation_id(event) if key is None else self.correlation_id or "nobody"
        if not correlation_id:
            raise InvalidEventError(f"saga {saga.name!r} takes no {type(event).__name__}")
        if key is not None:
            pass  # it is for this instance if it holds the key
        elif self.correlation_id is None:
            self.correlation_id = correlation_id
        elif correlation_id != self.correlation_id:
            raise DefinitionError(
                f"a scenario is about one instance, {self.correlation_id!r}; this {type(event).__name__} is for "
                f"{correlation_id!r}: make another scenario for it"
            )
        if message_id is None:
            self._messages += 1
            message_id = f"message {self._messages}"
        by = None if key is None else (key[0].name, key[1])
        self.step(Message(message_id, _own(event), by=by), f"{event!r}")

    def draft(self) -> Draft:
        """Return a draft over what is stored."""
        own = persistence_id(self.saga.name, str(self.correlation_id))
        draft = Draft(self.saga, self.registry, own, self.record, self._version, self.now, timedelta(days=7))
        draft.reserve = self._reserve
        return draft

    async def _reserve(self, keys: list[KeyValue]) -> None:
        for key in keys:
            if key in self.taken:
                raise KeyTakenError(self.saga.name, str(self.correlation_id), key[0], "another")

    def begin(self) -> None:
        """Forget what it asked for so far."""
        self.sent, self.undone, self.started, self.stopped = [], [], [], []

    def step(self, message: Message, what: str) -> None:
        """Let one message happen, with all it leads to. Raises what a handler raises, or what its sender is told."""
        self._story.begin(self.now, what)
        draft = self.draft()
        try:
            outcome = _advanced(draft, message)
            told = answer_to(draft, message, outcome)
            if isinstance(told, Exception):
                raise told
        except Exception as error:
            self._story.add(f"raised {type(error).__name__}")
            raise
        self._story.add(outcome.value if outcome is not Outcome.HANDLED else "")
        self.save(draft)
        self.deliver()

    def _wake(self, draft: Draft) -> None:
        """Handle what was kept and whose moment has come, in the same step."""
        while (kept := next_kept(draft)) is not None:
            message = kept_message(kept, self.registry)
            self._story.begin(self.now, f"{message.event!r} was kept, and its moment has come")
            try:
                outcome = _advanced(draft, message)
            except Exception as error:
                self._story.add(f"raised {type(error).__name__}")
                raise
            self._story.add("the saga has ended" if outcome is Outcome.NO_INSTANCE else "")

    def save(self, draft: Draft) -> None:
        """Handle what is kept and has its moment now, then store the draft."""
        self._wake(draft)
        if draft.changed and draft.record is not None:
            self.record = decode_record(encode_record(draft.frozen() or draft.record))
            self._version += 1

    def deliver(self) -> None:
        """Let the commands be accepted, or refused, one after the other. Activities run on until somebody ends them."""
        if self._delivering:  # what is sent meanwhile is delivered by whoever began
            return
        self._delivering = True
        try:
            self._deliver_all()
        finally:
            self._delivering = False
        if self.record is not None and (self.record.status in FINAL or self.record.parked):
            self._story.ends(self.record.status.value)

    def _deliver_all(self) -> None:
        while (entry := self._next_delivery()) is not None:
            if entry.family:
                self._deliver_child(entry)
                continue
            command = self.registry.unpack(entry.command)
            step, undo = (self.saga.activities.commands if self.saga.activities is not None else {}).get(
                type(command), (None, False)
            )
            if step is None:
                self.sent.append(command)
                self._story.add(f"{'undoes with' if entry.undo else 'sends'} {command!r}")
            else:
                self._story.add(f"{'undoes' if undo else 'asks for'} {step.name}")
            reason = self.refuses.get(type(command) if step is None else step.name if undo else "")
            if step is not None and undo and reason is None:
                self.undone.append(step.name)
            if reason is not None:
                draft = self.draft()
                self.step(refusal(command, f"{draft.persistence_id}/{entry.id}", reason), f"it is refused: {reason}")
                continue
            draft = self.draft()
            draft.accept([entry.id])
            self.save(draft)
            if (answer := self.answers.get(type(command))) is not None:
                event = answer(command) if isinstance(answer, FunctionType) else answer
                if event is None:
                    continue
                answer_id = reply_id(command_id(draft.persistence_id, entry.id), type(event).__name__, 0)
                self.step(Message(answer_id, _own(event), life=entry.life), f"it is answered: {event!r}")

    def _deliver_child(self, entry: Command) -> None:
        """Let a child start, or end because it is asked to; what tells a parent of this one is only accepted."""
        saga, correlation_id = parts_of(entry.to)
        if entry.family == "start":
            self.started.append(self.registry.unpack(entry.command))
            self._story.add(f"starts {saga} {correlation_id} by {self.started[-1]!r}")
        elif entry.family != "tell":
            self.stopped.append(correlation_id)
            self._story.add(f"asks {saga} {correlation_id} to {'compensate' if entry.family == 'stop' else 'end'}")
        draft = self.draft()
        draft.accept([entry.id])
        self.save(draft)
        if entry.family == "stop" and self.record is not None and entry.of in self.record.children:
            self.end_child(entry.of, ChildTold(saga, correlation_id, "compensated"))

    def end_child(self, entry: str, told: ChildTold) -> None:
        """Let a child that runs come to its end."""
        assert self.record is not None
        own = persistence_id(self.saga.name, str(self.correlation_id))
        message_id = end_id(started_as(own, entry, self.record.children[entry]))
        what = f"{told.saga} {told.id} has {'failed' if told.outcome == 'failed' else f'ended: {told.outcome}'}"
        self.step(Message(message_id, told, "child", answer=True), what)

    def _next_delivery(self) -> Command | None:
        if self.record is None or not self.record.owes_delivery:
            return None
        table, running = self.saga.activities, False
        for entry in self.record.outbox:
            step = None if table is None or entry.undo else table.by_command.get(entry.command.type)
            if step is None or step.options.until is not None:
                return None if entry.undo and running else entry
            running = True
        return None

    def running(self) -> dict[str, str]:
        """Return the activities that are carried out, and the entries of their commands.

        Where a handler has compensated meanwhile, they run on, and what undoes them waits for their ends.
        """
        if self.record is None:
            return {}
        called = {command.id for command in self.record.outbox if not command.undo}
        return {
            name: stage.entry
            for name, stage in self.record.activities.items()
            if stage.status == "running" or (stage.status == "stopped" and stage.entry in called)
        }

    def end(self, name: str, event: Any, what: str) -> None:
        """Let an activity that runs come to its end, with that event."""
        assert self.record is not None
        own = persistence_id(self.saga.name, str(self.correlation_id))
        entry = self.running()[name]
        answer_id = reply_id(command_id(own, entry), type(event).__name__, 0)
        self.step(Message(answer_id, _own(event), answer=True, life=self.record.incarnation), what)
        if any(command.id == entry for command in self.record.outbox):  # it compensates, and nothing follows from that
            draft = self.draft()
            draft.accept([entry])
            self.save(draft)
            self.deliver()


def _advanced(draft: Draft, message: Message) -> Outcome:
    outcome = advance(draft, message)
    return outcome if isinstance(outcome, Outcome) else _without_loop(outcome)


def _without_loop(outcome: Awaitable[Outcome]) -> Outcome:
    """Run an async handler to its end. Raises DefinitionError if it waits for anything."""
    running = outcome.__await__()
    try:
        next(running)
    except StopIteration as done:
        result: Outcome = done.value
        return result
    running.close()
    raise DefinitionError(
        "an async handler waited for something, which a scenario has no event loop for: handlers decide, they do not "
        "wait. Test it with the fixture saga_runner if it has to"
    )


def _own(event: Any) -> Any:
    """Return a copy of an event, as a runner makes one: nobody else sees what a handler does to it."""
    return codec.own_event(event, sys.maxsize)[1]
