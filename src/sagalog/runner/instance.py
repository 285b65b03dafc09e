"""One instance in memory: what waits for it, what is cached of its record, and what is known of its deliveries.

    receive, due, repair, deliver ─► [instance: its mailbox] ─► queue

Who changes what:
    its place in the rounds   queue.py and round.py; turn.py takes from the mailbox, settle.py puts back
    the cached record         load.py enters what was read, settle.py what was stored; turn.py clears it to start unseen
    the deliveries            deliver.py and what it hands commands to: attempt, beside, answers, conclusion, gates, lease
"""

from __future__ import annotations

import asyncio
from collections.abc import Container
from datetime import datetime
from typing import Protocol

import msgspec

from ..decision.entries import Command
from ..decision.lookup import MessageLookups
from ..decision.message import Outcome
from ..decision.pages import NO_MESSAGES, StoredMessages
from ..decision.record import SagaRecord
from ..errors import SagaParkedError
from ..logs import about, log
from .counters import count
from .engine import has_begun
from .envelope import Envelope
from .queue import Queue
from .runtime import SagaRuntime

NO_IDS: frozenset[str] = frozenset()
NO_ENVELOPES: dict[Envelope, None] = {}  # what most instances have: never changed in place


class Cache(Protocol):
    """Where an instance is kept in memory; see cache.py."""

    runtime: SagaRuntime
    queue: Queue[Instance]

    def done(self, instance: Instance) -> None:
        """An instance has left its round."""

    def drop(self, instance: Instance) -> None:
        """Take an idle instance out of memory."""

    def set_size(self, instance: Instance, size: int) -> None:
        """Note the size of the record that an instance keeps in memory, in bytes as stored."""


class Cancellable(Protocol):
    """What an instance waits for before its next attempt: a timer, or a place in a line."""

    def cancel(self) -> None:
        """Wait no more."""


class Unanswered(msgspec.Struct, frozen=True):
    """A write that may have landed, or may yet: the commands in it are ours then, until its lease ends.

    `new_entries`: see Write. `passed`: what was decided in its turn and is in no record, so that nobody finds it there;
    `taken`: what is in it.
    """

    version: int
    payload: bytes
    new_entries: frozenset[str]
    lease_end: datetime | None
    passed: tuple[tuple[Envelope, Outcome | BaseException], ...] = ()
    taken: tuple[tuple[Envelope, Outcome], ...] = ()

    def has_handled(self, consumed: Container[str]) -> bool:
        """Say whether one of the messages that it has handled is among those."""
        return any(
            one.message is not None and one.message.id in consumed
            for one, outcome in self.taken
            if outcome is Outcome.HANDLED
        )


class Instance:
    """One instance in memory: its mailbox, what is cached of its record, and what is known of its deliveries."""

    __slots__ = (
        "accepted",
        "answered",
        "attempt",
        "attempts",
        "awaits",
        "beside",
        "cache",
        "caught_up",
        "contested",
        "correlation_id",
        "cursor",
        "declined",
        "delivering",
        "epoch",
        "first_start",
        "foreign",
        "forgotten",
        "fresh",
        "in_line",
        "in_transaction",
        "lease_end",
        "lease_seconds",
        "let_through",
        "load_first",
        "loaded",
        "lookups",
        "lost",
        "lost_on",
        "mailbox",
        "may_land",
        "next_attempt_at",
        "one_by_one",
        "owned",
        "pausing",
        "persistence_id",
        "queue",
        "quieted",
        "ready",
        "record",
        "retry",
        "runtime",
        "size",
        "stored_messages",
        "to_deliver",
        "told_held",
        "turnstile",
        "under_way",
        "unknown",
        "version",
        "waiting",
        "waking",
        "working",
        "written",
    )

    def __init__(self, cache: Cache, correlation_id: str) -> None:
        self.cache: Cache = cache
        self.queue: Queue[Instance] = cache.queue
        self.runtime: SagaRuntime = cache.runtime
        self.correlation_id: str = correlation_id
        self.persistence_id: str = cache.runtime.prefix + correlation_id
        self.mailbox: list[Envelope] = []
        self.waiting: dict[Envelope, None] = NO_ENVELOPES  # for a starting event, in the order they came
        self.waking: asyncio.TimerHandle | None = None  # while any waits: reads again, and tells those whose time is up
        self.awaits: tuple[Instance, ...] = ()  # the instances that its event handler is waiting for
        self.ready: bool = False  # it has work, and waits for a round
        self.under_way: bool = False  # it is in a round, or pauses before the next
        self.working: tuple[Envelope, asyncio.Task[None]] | None = None  # an async handler's message and task
        self.one_by_one: int = 0  # messages that get a record each, because one record of all was too large
        self.lost: int = 0  # writes in a row that lost a race or got no answer
        # Epoch and version on which writes were lost, and how often in a row.
        self.lost_on: tuple[int, int, int] = (0, 0, 0)
        self.told_held: bool = False  # the log has it that a transaction holds its record up
        # The cached record. It may be out of date, so every write names the version that it builds on.
        self.loaded: bool = False
        self.fresh: bool = False  # it was read for the next turn
        self.load_first: bool = False  # the next turn must not begin on the guess that nothing is stored
        self.record: SagaRecord | None = None
        self.version: int = 0
        self.written: int = 0  # the newest version that this worker wrote
        self.epoch: int = 0  # its numbers begin anew after a purge, and the epoch tells which are meant
        self.stored_messages: StoredMessages = NO_MESSAGES  # how that is stored what the cached record holds and keeps
        self.lookups: MessageLookups | None = None  # of what it holds and keeps, as the last draft left them
        self.size: int = 0  # of the cached record, in bytes as it is stored, with all that it holds
        self.unknown: Unanswered | None = None  # a write without an answer: read back first
        self.in_transaction: tuple[Unanswered, ...] = ()  # saved in transactions of callers, still open
        # Writes without an answer that were not there when they were read back.
        self.may_land: tuple[Unanswered, ...] = ()
        # Deliveries. We own the outbox entries that we saved, and those that we claimed after their lease had ended. Until
        # then, all others belong to the worker that saved them.
        self.owned: frozenset[str] = NO_IDS
        self.lease_end: datetime | None = None  # of the last write; later, others may have taken over
        self.accepted: set[str] | frozenset[str] = NO_IDS  # accepted, not yet recorded
        self.answered: set[str] | frozenset[str] = NO_IDS  # carried out, their answers are being stored
        self.cursor: tuple[tuple[Command, ...], int] = ((), 0)  # how far the outbox is accepted
        self.to_deliver: bool = False  # the round has still to deliver its commands
        self.delivering: bool = False
        # The entry whose handler is running, and its time limit.
        self.attempt: tuple[str, asyncio.Timeout] | None = None
        self.lease_seconds: float = 0.0  # of a renewal; 0: the lease of the settings
        # Another worker has changed it during our lease, so the next leases are written down.
        self.contested: bool = False
        self.declined: Command | None = None  # the first of the outbox, which only a worker with other code can deliver
        # Another worker's entry, and when to claim it, in the loop's time.
        self.foreign: tuple[str, float] | None = None
        self.first_start: int = 0  # of the lives that the deliveries are of; see SagaRecord
        self.forgotten: frozenset[str] = NO_IDS  # entries of lives before those, at whose commands handlers still are
        self.attempts: dict[str, int] | None = None  # failed deliveries by entry; None if there are none
        # Activities that are carried out beside the other commands, and their time limits while a handler is at them.
        self.beside: dict[str, asyncio.Timeout | None] | None = None
        self.pausing: dict[str, Cancellable] | None = None  # those before their next attempt
        self.let_through: frozenset[str] = NO_IDS  # entries that have waited at their gate, and may leave now
        self.retry: Cancellable | None = None  # before the next look at the outbox
        self.next_attempt_at: datetime | None = None
        # In event time the events of a log come one at a time, each after everything that the one before has led to.
        self.caught_up: bool = False
        self.in_line: int = 0  # callers that have their turn or wait for it
        self.turnstile: asyncio.Lock | None = None
        # Set when nothing is left to deliver, if anybody waits for that.
        self.quieted: asyncio.Future[None] | None = None

    @property
    def idle(self) -> bool:
        """Nothing is under way, and the store knows everything, including when this instance is due again."""
        return self.settled and not self.waiting

    @property
    def settled(self) -> bool:
        """Nothing is under way except events that wait for a starting event."""
        return not (
            self.under_way
            or self.ready
            or self.mailbox
            or self.to_deliver
            or self.delivering
            or self.accepted
            or self.answered
            or self.beside
            or self.in_transaction
            or self.may_land
            or self.in_line
            or self.unknown is not None
        )

    def about(self, *, message_id: str | None = None, command_id: str | None = None) -> dict[str, str | int | None]:
        """Return the fields of a log record about this instance. `sequence_nr` is the number of its newest known record."""
        return about(
            saga=self.runtime.name,
            correlation_id=self.correlation_id,
            sequence_nr=self.version or None,
            message_id=message_id,
            command_id=command_id,
        )

    def tell_parked(
        self, reason: str, how: str = "is parked", *, message_id: str | None = None, command_id: str | None = None
    ) -> None:
        """Count, log and tell the hooks that it is parked."""
        runtime = self.runtime
        runtime.engine.counters.parked += 1
        log.error(
            "saga %s, id %s %s: %s",
            runtime.name,
            self.correlation_id,
            how,
            reason,
            extra=self.about(message_id=message_id, command_id=command_id),
        )
        runtime.engine.hooks.parked(runtime.name, self.correlation_id, reason)

    def disown(self, entry: str) -> None:
        """Leave an outbox entry to other workers."""
        self.owned -= {entry}

    def pause(self, entry: str, until: Cancellable) -> None:
        """Note that an activity waits before its next attempt, and for what."""
        if self.pausing is None:
            self.pausing = {}
        self.pausing[entry] = until

    def end_pause(self) -> None:
        """Note that the next command of the outbox waits no more."""
        self.retry = self.next_attempt_at = None

    def stop_pausing(self) -> None:
        """Cancel what it waits for before its next attempts."""
        if self.retry is not None:
            self.retry.cancel()
        for pause in self.pausing.values() if self.pausing is not None else ():
            pause.cancel()
        self.pausing = None
        self.end_pause()

    def answer_as_stored(self, unknown: Unanswered, *, is_newest: bool) -> None:
        """Answer those of a turn that was stored as it was decided there.

        Decided anew, what was passed over would come behind what was handled after it, and what was handled would be a
        duplicate of itself. Where another worker has written since, it may have handled another delivery of that.
        """
        for envelope, decided in (*unknown.passed, *(unknown.taken if is_newest else ())):
            if not envelope.over:
                if isinstance(decided, Outcome):
                    count(self.runtime.engine.counters, decided)
                envelope.decided = decided
                envelope.finish()

    def read_begins(self) -> None:
        """Note that the record is read now: what is read may decide about everything that waits already."""
        for envelope in self.mailbox:
            envelope.seen = True

    def read_again(self) -> None:
        """Let the next turn read what is stored. A turn that is under way finds out by its write."""
        if not self.under_way:
            self.loaded = False

    def undelivered(self) -> Command | None:
        """Return the first outbox entry that is not carried out yet, by whichever worker; None if delivery waits.

        An undo command waits until all that was sent before it is accepted.
        """
        if self.record is None or self.record.stuck:
            return None
        outbox = self.record.outbox
        if self.beside is not None and len(outbox) == 1 and outbox[0].id in self.beside:
            return None  # most of the time, of an itinerary
        if self.cursor[0] is not outbox:
            self.cursor = (outbox, 0)
        index = self.cursor[1]
        while index < len(outbox) and outbox[index].id in self.accepted:
            index += 1
        self.cursor = (outbox, index)
        if index == len(outbox):
            return None
        if self.answered or self.beside or self.pausing:
            first = index
            while index < len(outbox) and self._at_work(outbox[index].id):
                index += 1
            if first < index < len(outbox) and outbox[index].undo:
                return None
        return outbox[index] if index < len(outbox) else None

    def _at_work(self, entry: str) -> bool:
        return (
            entry in self.accepted
            or entry in self.answered
            or (self.beside is not None and entry in self.beside)
            or (self.pausing is not None and entry in self.pausing)
        )

    async def submit(self, envelope: Envelope, *, lone: bool = False) -> None:
        """Put `envelope` behind what waits; return when it is handled and durable. Raises what became of it.

        `lone`: no other event is at work, so this one need not wait for a common round.
        """
        queue = self.queue
        self.mailbox.append(envelope)
        try:
            if lone and queue.driver.idle() and not (self.ready or self.under_way):
                self.under_way = True
                await queue.driver.run_lone(self)
            else:
                queue.add(self)
            if not envelope.over:
                envelope.future = self.runtime.engine.loop.create_future()
                await envelope.future
        except asyncio.CancelledError:
            envelope.withdraw()
            self.waiting.pop(envelope, None)
            self._wait_no_more_for(envelope)
            raise
        if envelope.error is not None:
            raise envelope.error

    def is_in(self, error: SagaParkedError) -> bool:
        """Say whether an error is about this instance, and not about another one that was to take something."""
        return (error.saga, error.correlation_id) == (self.runtime.name, self.correlation_id)

    def note_lives(self, record: SagaRecord) -> None:
        """Note which lives a stored record is of; called before it is cached.

        If the lives before were forgotten meanwhile, the entries of the new ones have the same ids. So what is known of
        the deliveries says nothing of them, nor does the end of those that are under way.
        """
        first = record.first_start
        if self.first_start not in (0, first):
            under_way = {*self.answered, *(self.beside or ())}
            if self.attempt is not None:
                under_way.add(self.attempt[0])
            if self.delivering and (entry := self.undelivered()) is not None:
                under_way.add(entry.id)
            self.forgotten |= under_way
            self.owned = self.accepted = NO_IDS
            self.attempts = None
            self.runtime.unrecorded.pop(self.correlation_id, None)
        self.first_start = first

    def _wait_no_more_for(self, envelope: Envelope) -> None:
        """End the task that waits for a message whose caller has withdrawn."""
        if self.working is None or self.working[0] is not envelope:
            return
        task = self.working[1]
        if has_begun(task):
            task.cancel()
        else:
            self.runtime.engine.loop.call_soon(self._wait_no_more_for, envelope)

    def poke(self, envelope: Envelope) -> None:
        """Put `envelope` behind what waits, without waiting for it."""
        self.mailbox.append(envelope)
        self.queue.add(self)

    def put_back(self, envelopes: list[Envelope]) -> None:
        """Put back what a turn took and did not answer, in front of what has come since."""
        self.mailbox[:0] = [e for e in envelopes if not e.over and e not in self.waiting]
