"""The record in the making: one draft takes one or several messages, and together they are one step, one record.

Every action is checked and packed before the draft is changed, so an action that fails leaves it as it was.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime, timedelta
from typing import Any, TypeAlias

import msgspec

from ..definition.codec import Typed, TypeRegistry
from ..definition.saga import Saga
from .children import untell_parent
from .compensation import compensate, end_compensation, forget_earlier
from .ending import date_end, end_of
from .entries import FINAL, Held, Status, Timer
from .ids import FAMILY, entry_id, entry_of, parent_in
from .inbox import FEW, Known, continued, inherit, remember, remember_moments, stand_for
from .itinerary import mark_undone
from .keeping import held_of
from .keys import KeyValue
from .lookup import KeptMessages, MessageLookups
from .message import Message, Outcome
from .record import FORMAT, SagaRecord
from .sequences import carry_on, pass_number, place_of, sequence_of
from .timer_queue import TimerQueue

# Looked up once: Python 3.11 finds a member of an enum by a call.
_HANDLED = Outcome.HANDLED
_RUNNING = Status.RUNNING
_COMPENSATING = Status.COMPENSATING
_COMPLETED = Status.COMPLETED
_RECENT = 99  # at least so many ids that no sender gave, from the steps before

Copied: TypeAlias = tuple[SagaRecord | None, int, int, int]
"""What a draft goes back to: its record, and how many timers, lives and kept messages it had counted."""


class Draft:
    """The record in the making. `sequence_nr` is the number it will be saved under; command ids derive from it."""

    __slots__ = (
        "_before",
        "_index",
        "_known",
        "_lists",
        "_queue",
        "_timers",
        "accepted",
        "changed",
        "fired",
        "lookups",
        "now",
        "persistence_id",
        "record",
        "registry",
        "replaying",
        "reserve",
        "retention",
        "saga",
        "sequence_nr",
        "started",
        "trace",
        "whole_moments",
        "woken",
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
        self.saga: Saga[Any] = saga
        self.registry: TypeRegistry = registry
        self.persistence_id: str = persistence_id
        self.sequence_nr: int = version + 1
        self.now: datetime = now
        self.retention: timedelta = retention
        self.changed: bool = False
        self.accepted: frozenset[str] = frozenset()  # commands that this draft has taken out of the outbox
        self.fired: int = 0  # timers
        self.started: int = 0  # incarnations
        self.woken: int = 0  # kept messages that were handled
        self.replaying: tuple[Held, ...] = ()  # what was held, while it is replayed
        self.lookups: MessageLookups | None = None  # as the draft before left them
        self.reserve: Callable[[list[KeyValue]], Awaitable[None]] | None = None  # unique keys, before they are held
        self.whole_moments: bool = False  # in event time: no id that came at the newest moment is forgotten
        self.trace: str = ""  # kept with what the message at hand sends
        self._index = 0
        self._before = record
        self._known: Known | None = None
        self._lists: dict[str, list[Any]] | None = None  # of the record, that this draft has made and may change
        self._timers: dict[str, Timer] | None = None  # those of the record, if this draft has copied them
        self._queue: TimerQueue | None = None
        if record is not None:
            record = record.__copy__()  # type: ignore[attr-defined]  # copy.copy takes four times as long
            record.handled = ()
        self.record: SagaRecord | None = record

    @property
    def ended(self) -> int:
        """How many incarnations this draft has ended."""
        return _live(self._before) + self.started - _live(self.record)

    @property
    def next_place(self) -> int:
        """The place in this step of the next command or timer."""
        return self._index

    def next_id(self) -> str:
        """Return the id of the next command or timer of this step, unique for the life of the instance."""
        entry = entry_id(self.sequence_nr, self._index)
        self._index += 1
        return entry

    def append(self, record: SagaRecord, name: str, item: Any) -> None:
        """Add an item to a sequence of the record, which is copied once a draft, not once an item."""
        self._own_list(record, name).append(item)

    def _own_list(self, record: SagaRecord, name: str) -> list[Any]:
        """Return a sequence of the record as a list that this draft alone has."""
        lists = self._lists
        if lists is None:
            lists = self._lists = {}
        items: list[Any] = getattr(record, name)
        if lists.get(name) is not items:
            items = lists[name] = list(items)
            setattr(record, name, items)
        return items

    def set_timer(self, record: SagaRecord, name: str, timer: Timer) -> None:
        """Set a timer of the record; the timers are copied once a draft, not once a timer."""
        self._own_timers(record)[name] = timer
        if self._queue is not None:
            self._queue.add(name, timer)

    def drop_timer(self, record: SagaRecord, name: str) -> None:
        """Take the timer of that name out of the record. An unknown name has no effect."""
        if name in record.timers:
            del self._own_timers(record)[name]

    def fired_timer(self, record: SagaRecord, message: Message) -> None:
        """Take a timer that fires out of the record, or let the next one of its rule take its place."""
        following = message.following
        if following is not None:
            entry, trace = self.next_id(), self.trace or following.trace
            self.set_timer(record, message.name, msgspec.structs.replace(following, id=entry, trace=trace))
        elif not message.replayed:  # one that was held was taken out then; a recurring one has its next in its place
            self.drop_timer(record, message.name)

    def _own_timers(self, record: SagaRecord) -> dict[str, Timer]:
        timers = record.timers
        if timers is not self._timers:
            timers = record.timers = self._timers = dict(timers)
        return timers

    def next_timer(self) -> tuple[str, Timer] | None:
        """Return the timer that may fire and is due first, of those due at the same moment the one set first."""
        record = self.record
        if record is None or not record.timers:
            return None
        if self._queue is None:
            self._queue = TimerQueue(record.timers)
        return self._queue.first(record)

    def copied(self) -> Copied:
        """Return a copy of what is decided so far, to go back to; what the draft adds from now on does not change it."""
        self.frozen()
        self._queue = None
        return copy.copy(self.record), self.fired, self.started, self.woken

    def go_back(self, copied: Copied) -> None:
        """Go back to what was decided then. What was looked up since is not known any more: it may be what is undone."""
        self.record, self.fired, self.started, self.woken = copied
        self._known = self._queue = self._lists = self._timers = None

    def frozen(self) -> SagaRecord | None:
        """Return the record, its sequences as they may be shared: to be called before it is kept."""
        record = self.record
        self._timers = None
        if record is None:
            return None
        if record.status is not _RUNNING:
            date_end(record, self._before, self.now, self.persistence_id, self.next_id)
        if self._lists is not None:
            for name, items in self._lists.items():
                if getattr(record, name) is items:
                    setattr(record, name, tuple(items))
            self._lists = None
        if self.lookups is not None:
            self.lookups.freeze(record)
        return record

    def knows(self, message_id: str, kind: str = "event") -> bool:
        """Say whether the message was consumed, by this incarnation or a remembered one, or is held.

        Timers and refusals are known by what they come from; a sender's id that looks like one of theirs means nothing.
        """
        record = self.record
        if record is None:
            return False
        if record.held and self._waiting().held.has(record.held, message_id, kind):
            return True
        if record.kept and self.kept_by(record).has(message_id, kind):
            return True
        if kind != "event":
            return False
        inbox = record.inbox
        if message_id in (inbox if len(inbox) < FEW else self._looked_up().inbox.of(inbox)):
            return True
        recent = record.recent
        if recent and message_id in (recent if len(recent) < FEW else self._looked_up().recent.of(recent)):
            return True
        until = record.inherited_until
        inherits = until is not None and until > self.now
        if inherits and message_id in record.inherited:
            return True
        if not message_id.startswith(FAMILY):
            return False
        return self._looked_up().inbox.stands_for(inbox, message_id) or (
            inherits and stand_for(record.inherited, message_id)
        )

    def has_number(self, sequence: str, number: int) -> bool:
        """Say whether the record holds or keeps the message with that number of a sequence."""
        record = self.record
        if record is None:
            return False
        if record.held and self._waiting().held.has_number(record.held, sequence, number):
            return True
        return bool(record.kept) and self.kept_by(record).has_number(sequence, number)

    def kept_by(self, record: SagaRecord) -> KeptMessages:
        """Return what the record keeps, in its place there: what is changed in it is changed in the record."""
        return self._waiting().kept_by(record)

    def _waiting(self) -> MessageLookups:
        if self.lookups is None:
            self.lookups = MessageLookups()
        return self.lookups

    def _looked_up(self) -> Known:
        if self._known is None:
            self._known = Known()
        return self._known

    def has_forgotten(self) -> bool:
        """Say whether so many messages were consumed that the oldest may be forgotten."""
        return self.record is not None and 8 * len(self.record.inbox) >= 7 * self.saga.remembered_messages

    def remember(self, record: SagaRecord, message_id: str, *, own: bool = False) -> None:
        """Note an event as consumed. Timers and refusals need no note: what they come from is in the record, or gone.

        The oldest ids are forgotten as the saga's `remembered_messages` and `remembered_for` say. Ids that no sender gave
        cannot come again: those of this step, of the last one and some before are kept, for a save whose answer is lost.
        """
        if own:
            known = record.recent
            if not record.handled:  # the first message of this draft
                last = 0 if self._before is None else len(self._before.handled)
                record.recent = (*record.recent[-max(_RECENT, last) :], message_id)
            else:
                self.append(record, "recent", message_id)
            if self._known is not None:
                self._known.recent.added(known, record.recent, message_id)
            return
        most, before = self.saga.remembered_messages, record.inbox
        if message_id.startswith(FAMILY) and (longer := continued(record, message_id)) is not None:
            record.inbox = longer
        elif self.whole_moments:
            remember_moments(record, self._own_list(record, "inbox"), message_id, self.now, most)
        elif len(record.inbox) < (most if most < FEW else FEW):
            record.inbox = (*record.inbox, message_id)
        else:
            window = max(self.saga.remembered_for, self.retention)
            remember(record, self._own_list(record, "inbox"), message_id, self.now, most, window)
        if self._known is not None:
            self._known.inbox.added(before, record.inbox, message_id)

    def touch(self) -> SagaRecord:
        """Mark the record as changed now and return it."""
        assert self.record is not None
        self.changed = True
        self.record.updated_at = self.now
        if self.record.kept:
            self.record.waking = True
        return self.record

    def accept(self, entries: Collection[str]) -> None:
        """Take accepted commands out of the outbox; the last accepted undo ends the compensation."""
        accepted = self.accepted = frozenset(entries)
        record = self.record
        if record is None or not record.outbox:
            return
        if record.activities:
            mark_undone(record, {c.of for c in record.outbox if c.undo and c.of and c.id in accepted})
        left = tuple([c for c in record.outbox if c.id not in accepted])
        if len(left) == len(record.outbox):
            return
        record.outbox = left
        if record.status is _COMPENSATING:
            end_compensation(record, self.next_id)
        if record.incarnation > 1:
            forget_earlier(record, self.replaying)
        self.touch()

    def start(self, message_id: str = "") -> tuple[SagaRecord, Any]:
        """Return the record and state of a new incarnation, which that message begins.

        What the last one consumed stays remembered.
        """
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
        if message_id.startswith(FAMILY) and parent_in(message_id) is not None:
            record.parent = message_id
        if old is not None:
            record.incarnation, record.origin = old.incarnation + 1, old.first_start
            date_end(old, self._before, self.now, self.persistence_id, self.next_id)
            record.last_end = end_of(old)
            record.handled = old.handled  # the same step may have ended the last one
            record.audit = old.audit
            record.outbox = old.outbox  # not yet delivered commands of the last incarnation still go out
            record.timers = {name: timer for name, timer in old.timers.items() if timer.send}
            record.undo = old.undo  # where one of them is refused, the last incarnation is taken back, not this one
            record.held, record.recent = old.held, old.recent
            record.kept, record.waking = old.kept, bool(old.kept)
            if old.sequences or old.holes:
                carry_on(self.saga, record, old)
            forget_earlier(record, self.replaying)
            most = self.saga.remembered_messages
            if self.whole_moments and old.updated_at >= self.now:
                most = len(old.inherited) + len(old.inbox)
            inherit(record, old, self.now, most, self.retention)
        return record, state

    def hold(self, message: Message) -> None:
        """Keep a message for the repair of a parked instance. Raises CodecError or DefinitionError: nothing changed."""
        record = self.record
        assert record is not None
        if message.kind == "child":
            packed = message.event.packed()
        else:
            packed = self.registry.pack(message.event.command if message.kind == "refused" else message.event)
        life = self._life_of(record, message)
        held = held_of(self.saga, message, packed, life)
        self.append(record, "held", held)
        self.consume(record, message)
        if message.kind == "refused":
            untell_parent(record)  # it has completed, and may be compensated after all
        self.touch()

    def _life_of(self, record: SagaRecord, message: Message) -> int:
        if message.kind != "refused":
            return message.life
        entry = entry_of(self.persistence_id, message.event.command_id)
        return next((c.life for c in record.outbox if c.id == entry), message.life)

    def pass_number(self, record: SagaRecord, message: Message) -> bool:
        """Go on behind the number of an event, if it has one; say whether that is how it is known from now on."""
        key, number = place_of(self.saga, message)
        if not key:
            return False
        pass_number(record, key, number)
        known = sequence_of(self.saga, key)
        return known is not None and not known.restarts

    def consume(self, record: SagaRecord, message: Message) -> None:
        """Take out of the record what a timer or a refusal comes from."""
        if message.kind == "timer":
            self.fired_timer(record, message)
        elif message.kind == "refused":
            entry = entry_of(self.persistence_id, message.event.command_id)
            record.outbox = tuple(c for c in record.outbox if c.id != entry)
            record.undo = tuple(u for u in record.undo if u.of != entry)

    def compensate(self, chain: list[Typed] | None = None) -> None:
        """Compensate, with the undo stack or the chain that is given."""
        assert self.record is not None
        compensate(self.record, self.next_id, chain, self.trace)


def _live(record: SagaRecord | None) -> bool:
    return record is not None and record.status not in FINAL
