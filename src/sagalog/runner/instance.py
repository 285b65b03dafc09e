"""One instance in memory: what waits for it, what is cached of its record, and what is known of its deliveries.

    receive, due, repair, deliver ─► [instance: its mailbox] ─► queue

The phases share it, so each piece of its state has one writer: the methods here, those of the cached record and of the
deliveries, or one phase. These are queue.py for its place in the rounds, round.py for what is to be delivered, settle.py
for writes that were lost, in_transaction.py and landing.py for those that may land, starting.py and quiet.py for what
callers wait for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container
from datetime import datetime
from typing import Protocol

import msgspec

from ..decision.entries import Command
from ..decision.message import Outcome
from ..decision.record import SagaRecord
from ..errors import SagaParkedError
from ..logs import about, log
from .cached_record import CachedRecord
from .counters import count
from .deliveries import Deliveries
from .engine import has_begun
from .envelope import Envelope
from .queue import Queue
from .runtime import SagaRuntime

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
        "awaits",
        "cache",
        "cached",
        "caught_up",
        "correlation_id",
        "deliveries",
        "in_line",
        "in_transaction",
        "lost",
        "lost_on",
        "mailbox",
        "may_land",
        "one_by_one",
        "persistence_id",
        "queue",
        "quieted",
        "ready",
        "runtime",
        "to_deliver",
        "told_held",
        "turnstile",
        "under_way",
        "unknown",
        "waiting",
        "waking",
        "working",
    )

    def __init__(self, cache: Cache, correlation_id: str) -> None:
        self.cache: Cache = cache
        self.queue: Queue[Instance] = cache.queue
        self.runtime: SagaRuntime = cache.runtime
        self.correlation_id: str = correlation_id
        self.persistence_id: str = cache.runtime.prefix + correlation_id
        self.cached: CachedRecord = CachedRecord()
        self.deliveries: Deliveries = Deliveries()
        self.mailbox: list[Envelope] = []
        self.one_by_one: int = 0  # messages that get a record each, because one record of all was too large
        self.waiting: dict[Envelope, None] = NO_ENVELOPES  # for a starting event, in the order they came
        self.waking: asyncio.TimerHandle | None = None  # while any waits: reads again, and tells those whose time is up
        self.awaits: tuple[Instance, ...] = ()  # the instances that its event handler is waiting for
        self.working: tuple[Envelope, asyncio.Task[None]] | None = None  # an async handler's message and task
        # Its place in the rounds.
        self.ready: bool = False  # it has work, and waits for a round
        self.under_way: bool = False  # it is in a round, or pauses before the next
        self.to_deliver: bool = False  # the round has still to deliver its commands
        # Writes that were lost, or have no answer.
        self.lost: int = 0  # in a row
        # Epoch and version on which writes were lost, and how often in a row.
        self.lost_on: tuple[int, int, int] = (0, 0, 0)
        self.told_held: bool = False  # the log has it that a transaction holds its record up
        self.unknown: Unanswered | None = None  # a write without an answer: read back first
        self.in_transaction: tuple[Unanswered, ...] = ()  # saved in transactions of callers, still open
        # Writes without an answer that were not there when they were read back.
        self.may_land: tuple[Unanswered, ...] = ()
        # In event time the events of a log come one at a time, each after everything that the one before has led to.
        self.caught_up: bool = False
        self.in_line: int = 0  # callers that have their turn or wait for it
        self.turnstile: asyncio.Lock | None = None
        # Set when nothing is left to deliver, if anybody waits for that.
        self.quieted: asyncio.Future[None] | None = None

    @property
    def idle(self) -> bool:
        """Nothing is under way, nobody waits for it, and the store knows all, including when it is due again."""
        return self.settled and not self.waiting and self.quieted is None

    @property
    def settled(self) -> bool:
        """Nothing is under way except events that wait for a starting event."""
        return not (
            self.under_way
            or self.ready
            or self.mailbox
            or self.to_deliver
            or self.deliveries.at_work
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
            sequence_nr=self.cached.version or None,
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
            self.cached.unload()

    def undelivered(self) -> Command | None:
        """Return the first outbox entry that is not carried out yet, by whichever worker; None if delivery waits."""
        record = self.cached.record
        if record is None or record.stuck:
            return None
        return self.deliveries.next_of(record.outbox)

    async def submit(self, envelope: Envelope, *, lone: bool = False) -> None:
        """Put `envelope` behind what waits; return when it is handled and durable. Raises what became of it.

        `lone`: no other event is at work, so this one need not wait for a common round.
        """
        queue = self.queue
        self.put(envelope)
        try:
            if lone and queue.driver.idle() and not (self.ready or self.under_way):
                queue.take_lone(self)
                await queue.driver.run_lone(self)
            else:
                queue.add(self)
            if not envelope.over:
                envelope.future = self.runtime.engine.loop.create_future()
                await envelope.future
        except asyncio.CancelledError:
            envelope.withdraw()
            self.let_wait_no_more(envelope)
            self._wait_no_more_for(envelope)
            raise
        if envelope.error is not None:
            raise envelope.error

    def is_in(self, error: SagaParkedError) -> bool:
        """Say whether an error is about this instance, and not about another one that was to take something."""
        return (error.saga, error.correlation_id) == (self.runtime.name, self.correlation_id)

    def note_lives(self, record: SagaRecord) -> None:
        """Note which lives a stored record is of; called before it is cached."""
        at = self.undelivered() if self.deliveries.delivering else None
        if self.deliveries.of_another_life(record.first_start, at):
            self.runtime.unrecorded.pop(self.correlation_id, None)

    def _wait_no_more_for(self, envelope: Envelope) -> None:
        """End the task that waits for a message whose caller has withdrawn."""
        if self.working is None or self.working[0] is not envelope:
            return
        task = self.working[1]
        if has_begun(task):
            task.cancel()
        else:
            self.runtime.engine.loop.call_soon(self._wait_no_more_for, envelope)

    def put(self, envelope: Envelope) -> None:
        """Put `envelope` behind what waits, for a round that is coming in any case."""
        self.mailbox.append(envelope)

    def poke(self, envelope: Envelope) -> None:
        """Put `envelope` behind what waits, without waiting for it."""
        self.put(envelope)
        self.queue.add(self)

    def take(self, most: int) -> list[Envelope]:
        """Take so many out of the mailbox, in the order they came."""
        mailbox = self.mailbox
        if self.one_by_one:
            self.one_by_one -= 1
            most = 1
        if len(mailbox) <= most:
            self.mailbox = []
            return mailbox
        taken = mailbox[:most]
        del mailbox[:most]
        return taken

    def take_all(self) -> list[Envelope]:
        """Take all out of the mailbox."""
        taken, self.mailbox = self.mailbox, []
        return taken

    def leave_only(self, envelopes: list[Envelope]) -> None:
        """Leave only these in the mailbox."""
        self.mailbox[:] = envelopes

    def decide_singly(self, messages: int) -> None:
        """Give each of so many messages a record of its own."""
        self.one_by_one = messages

    def put_back(self, envelopes: list[Envelope]) -> None:
        """Put back what a turn took and did not answer, in front of what has come since."""
        self.mailbox[:0] = [e for e in envelopes if not e.over and e not in self.waiting]

    def let_wait(self, envelope: Envelope) -> None:
        """Keep `envelope` for a starting event."""
        if self.waiting is NO_ENVELOPES:
            self.waiting = {}
        self.waiting[envelope] = None

    def let_wait_no_more(self, envelope: Envelope) -> None:
        """Keep `envelope` no more. If it does not wait, this has no effect."""
        self.waiting.pop(envelope, None)

    def wait_no_longer(self) -> list[Envelope]:
        """Return what waits for a starting event, in the order it came; nothing waits any more."""
        waiting, self.waiting = list(self.waiting), NO_ENVELOPES
        return waiting

    def works_on(self, envelope: Envelope, task: asyncio.Task[None]) -> None:
        """Note the task that waits for a message, so that it ends if its caller withdraws."""
        self.working = (envelope, task)

    def works_no_more(self) -> None:
        """Note that no task waits for a message."""
        self.working = None

    def got_no_answer(self, unknown: Unanswered) -> None:
        """Note that nobody knows whether a write was stored: the next turn reads it back first."""
        self.unknown = unknown

    def take_unknown(self) -> Unanswered | None:
        """Return the write that had no answer. Nobody looks for it any more."""
        unknown, self.unknown = self.unknown, None
        return unknown
