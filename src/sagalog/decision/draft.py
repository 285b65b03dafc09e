"""The record in the making: one draft takes one or several messages, and together they are one step, one record.

Every action is checked and packed before the draft is changed, so an action that fails leaves it as it was.
"""

from __future__ import annotations

import copy
import heapq
from collections.abc import Collection, Container
from datetime import datetime, timedelta
from typing import Any

import msgspec

from ..definition.actions import Action, CancelTimer, Compensate, Complete, Schedule, Send, SetTimer
from ..definition.codec import Typed, TypeRegistry
from ..definition.saga import Saga
from ..errors import DefinitionError
from .checked import SCHEDULED, plan_of
from .compensation import compensate, end_compensation, forget_earlier
from .ids import entry_id, entry_of
from .message import Message, Outcome
from .record import FINAL, FORMAT, Command, Handled, Held, SagaRecord, Status, Timer, Undo, embed_state

# Looked up once: Python 3.11 finds a member of an enum by a call.
_HANDLED = Outcome.HANDLED
_RUNNING = Status.RUNNING
_RECENT = 99  # ids that no sender gave, beside the newest
_MANY = 64  # message ids in an inbox, from which on it is worth to search them another way


class Draft:
    """The record in the making. `sequence_nr` is the number it will be saved under; command ids derive from it."""

    __slots__ = (
        "_before",
        "_heap",
        "_held",
        "_index",
        "_known",
        "_owned",
        "_searched",
        "accepted",
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
        self.accepted: frozenset[str] = frozenset()  # commands that this draft has taken out of the outbox
        self.fired = 0  # timers
        self.started = 0  # incarnations
        self.trace = ""  # kept with what the message at hand sends
        self.watch: Any = None  # who is told of each message; see runner/hooks.py
        self._index = 0
        self._before = record
        self._searched: SagaRecord | None = None
        self._known: set[str] | None = None
        self._held: set[tuple[str, str]] | None = None
        self._owned: dict[str, Any] = {}  # the sequences of the record that this draft has made, and may change
        self._heap: list[tuple[datetime, int, str, str]] | None = None
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
        entry = entry_id(self.sequence_nr, self._index)
        self._index += 1
        return entry

    def append(self, record: SagaRecord, name: str, item: Any) -> None:
        """Add an item to a sequence of the record, which is copied once a draft, not once an item."""
        owned = getattr(record, name)
        if self._owned.get(name) is not owned:
            owned = self._owned[name] = list(owned)
            setattr(record, name, owned)
        owned.append(item)

    def set_timer(self, record: SagaRecord, name: str, timer: Timer) -> None:
        """Set a timer of the record; the timers are copied once a draft, not once a timer."""
        self._own_timers(record)[name] = timer
        if self._heap is not None:
            heapq.heappush(self._heap, (timer.due_at, len(self._heap), name, timer.id))

    def drop_timer(self, record: SagaRecord, name: str) -> None:
        """Take the timer of that name out of the record. An unknown name has no effect."""
        if name in record.timers:
            del self._own_timers(record)[name]

    def _own_timers(self, record: SagaRecord) -> dict[str, Timer]:
        if self._owned.get("timers") is not record.timers:
            record.timers = self._owned["timers"] = dict(record.timers)
        return record.timers

    def next_timer(self) -> tuple[str, Timer] | None:
        """Return the timer that may fire and is due first, of those due at the same moment the one set first."""
        record = self.record
        if record is None or not record.timers:
            return None
        if self._heap is None:
            self._heap = [(t.due_at, n, name, t.id) for n, (name, t) in enumerate(record.timers.items())]
            heapq.heapify(self._heap)
        passed = []
        found = None
        while self._heap:
            _, _, name, timer_id = self._heap[0]
            timer = record.timers.get(name)
            if timer is None or timer.id != timer_id:
                heapq.heappop(self._heap)  # replaced, or gone
            elif record.parked and not timer.send:
                passed.append(heapq.heappop(self._heap))  # waits for the repair
            else:
                found = (name, timer)
                break
        for entry in passed:
            heapq.heappush(self._heap, entry)
        return found

    def copied(self) -> SagaRecord | None:
        """Return a copy of the record as it is, to go back to; what the draft adds from now on does not change it."""
        self.frozen()
        self._heap = None
        return None if self.record is None else copy.copy(self.record)

    def frozen(self) -> SagaRecord | None:
        """Return the record, its sequences as they may be shared: to be called before it is kept."""
        record = self.record
        if record is not None and self._owned:
            for name, owned in self._owned.items():
                if type(owned) is list and getattr(record, name) is owned:
                    setattr(record, name, tuple(owned))
            self._owned.clear()
        return record

    def knows(self, message_id: str, kind: str = "event") -> bool:
        """Say whether the message was consumed, by this incarnation or a remembered one, or is held.

        Timers and refusals are known by what they come from; a sender's id that looks like one of theirs means nothing.
        """
        record = self.record
        if record is None:
            return False
        if record.held and self._holds(record, message_id, kind):
            return True
        if kind != "event":
            return False
        if message_id in (record.inbox if len(record.inbox) < _MANY else self._searchable(record)):
            return True
        if record.recent and message_id in record.recent:
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

    def _holds(self, record: SagaRecord, message_id: str, kind: str) -> bool:
        if len(record.held) < _MANY:
            return any(held.id == message_id and held.kind == kind for held in record.held)
        if self._held is None:
            self._held = {(held.kind, held.id) for held in record.held}
        return (kind, message_id) in self._held

    def remember(self, record: SagaRecord, message_id: str, *, own: bool = False) -> None:
        """Note an event as consumed. Timers and refusals need no note: what they come from is in the record, or gone.

        The oldest ids are forgotten beyond `remembered_messages` of the saga. Ids that no sender gave cannot come again:
        only the last ones are kept, for a save whose answer is lost.
        """
        if own:
            record.recent = (*record.recent[-_RECENT:], message_id)
            return
        most = self.saga.remembered_messages
        record.inbox = (*(record.inbox if len(record.inbox) < most else record.inbox[1 - most :]), message_id)
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
        self.accepted = frozenset(entries)
        record = self.record
        if record is None or not record.outbox:
            return
        left = tuple([c for c in record.outbox if c.id not in entries])
        if len(left) == len(record.outbox):
            return
        record.outbox = left
        end_compensation(record)
        forget_earlier(record)
        self.touch()

    def start(self) -> tuple[SagaRecord, Any]:
        """Return the record and state of a new incarnation; what the last one consumed stays remembered."""
        state = self.saga.fresh_state()
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
            record.undo = old.undo  # where one of them is refused, the last incarnation is taken back, not this one
            record.held, record.recent = old.held, old.recent
            forget_earlier(record)
            remembered = old.inherited if old.inherited_until and old.inherited_until > self.now else ()
            record.inherited = (remembered + old.inbox)[-self.saga.remembered_messages :]
            record.inherited_until = self.now + self.retention
        return record, state

    def hold(self, message: Message) -> None:
        """Keep a message for the repair of a parked instance. Raises CodecError or DefinitionError: nothing changed."""
        record = self.record
        assert record is not None
        event = message.event.command if message.kind == "refused" else message.event
        held = Held(message.id, self.registry.pack(event), message.kind, message.reason, message.name, message.trace)
        self.append(record, "held", held)
        if self._held is not None:
            self._held.add((held.kind, held.id))
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
        record.state, record.state_is_base64 = embed_state(self.saga.pack_state(state), known_json=False)
        return record

    def _consume(self, record: SagaRecord, message: Message) -> None:
        if message.kind == "timer":
            self.drop_timer(record, message.name)
        elif message.kind == "refused":
            entry = entry_of(self.persistence_id, message.event.command_id)
            record.outbox = tuple(c for c in record.outbox if c.id != entry)
            record.undo = tuple(u for u in record.undo if u.of != entry)

    def finish(self, message: Message, record: SagaRecord, state: Any, actions: list[Any]) -> Outcome:
        """Check and pack the actions, then change the draft. Raises with the draft unchanged."""
        saga = self.saga
        plan = plan_of(actions, saga, self.registry, self.now)
        may_end = record.status is _RUNNING or (record.status is Status.COMPLETED and message.kind == "refused")
        if not may_end and any(isinstance(part[0], (Complete, Compensate)) for part in plan):
            raise DefinitionError(f"saga {saga.name!r} compensates already: it can neither complete nor compensate now")
        payload = saga.pack_state(state)
        raw, wrapped = embed_state(payload, known_json=type(saga).encode_state is Saga.encode_state)
        # From here on nothing raises.
        self.started += record is not self.record
        self.record = record
        record.state, record.state_is_base64 = raw, wrapped
        record.state_version = saga.state_version()
        if message.kind == "event":
            self.remember(record, message.id, own=message.own)
        else:
            self.fired += message.kind == "timer"
            self._consume(record, message)
        event = message.event
        handled = Handled(message.id, type(event.command if message.kind == "refused" else event).__name__)
        self.append(record, "handled", handled)
        if not record.started_by and message.kind == "event":
            record.started_by = handled.type
        for action, packed, undo in plan:
            self._apply(record, action, packed, undo)
        self.touch()
        return _HANDLED

    def _apply(self, record: SagaRecord, action: Action, packed: Any, undo: Typed | None) -> None:
        if isinstance(action, Send):
            entry = self.next_id()
            life = record.incarnation
            self.append(record, "outbox", Command(entry, packed, False, "", self.trace, life))
            if undo is not None:
                self.append(record, "undo", Undo(entry, undo, life))
        elif isinstance(action, SetTimer):
            event, due_at = packed
            timer = Timer(self.next_id(), due_at, event, False, self.trace, record.incarnation)
            self.set_timer(record, action.name, timer)
        elif isinstance(action, CancelTimer):
            self.drop_timer(record, action.name)
        elif isinstance(action, Schedule):
            entry = self.next_id()
            command, due_at = packed
            timer = Timer(entry, due_at, command, True, self.trace, record.incarnation)
            self.set_timer(record, f"{SCHEDULED}{entry}", timer)
        elif isinstance(action, Complete):
            record.status = Status.COMPLETED
            record.timers = {name: timer for name, timer in record.timers.items() if timer.send}
        else:
            self.compensate(packed)

    def compensate(self, chain: list[Typed] | None = None) -> None:
        """Compensate, with the undo stack or the chain that is given."""
        assert self.record is not None
        compensate(self.record, self.next_id, chain, self.trace)


def _live(record: SagaRecord | None) -> bool:
    return record is not None and record.status not in FINAL
