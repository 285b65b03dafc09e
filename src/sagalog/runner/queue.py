"""What waits for each instance, strictly in the order it came, and which instances have work.

    receive, due, repair, deliver ─► [queue] ─► load, decide

An instance takes part in one round at a time (`under_way`); what comes meanwhile waits in its mailbox. That is all the
serialising there is. Instances do not wait for each other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import NamedTuple, Protocol

from ..decision.record import Command, SagaRecord
from ..errors import NoInstanceError
from ..logs import about, log
from .engine import has_begun
from .envelope import Envelope, Maintenance
from .runtime import SagaRuntime

NONE: frozenset[str] = frozenset()
_NOBODY: dict[Envelope, None] = {}  # what most instances have: never changed in place


class Driver(Protocol):
    """What carries instances through a round; see round.py."""

    def wake(self) -> None:
        """There is an instance that is ready."""

    def nobody(self) -> bool:
        """Say whether no round is under way, and none is asked for."""

    async def alone(self, instance: Instance) -> None:
        """Carry one instance through a round of its own, in the task of its caller."""


class Ready:
    """The instances that have work and are in no round, first come first served."""

    def __init__(self) -> None:
        self.instances: deque[Instance] = deque()
        self.driver: Driver

    def add(self, instance: Instance) -> None:
        """Note that an instance has work. Calling it again has no effect."""
        if not (instance.ready or instance.under_way):
            instance.ready = True
            self.instances.append(instance)
            self.driver.wake()

    def take(self) -> Instance:
        """Return the first instance; it is in a round from now on, until `Queue.done`."""
        instance = self.instances.popleft()
        instance.ready = False
        instance.under_way = True
        return instance


class Unanswered(NamedTuple):
    """A write that may have landed, or may yet: the commands in it are ours then, until its lease ends."""

    version: int
    payload: bytes
    fresh: frozenset[str]
    lease_end: datetime | None


class Instance:
    """One instance in memory: its mailbox, what is cached of its record, and what is known of its deliveries."""

    __slots__ = (
        "accepted",
        "attempt",
        "attempts",
        "awaits",
        "caught_up",
        "contested",
        "correlation_id",
        "cursor",
        "declined",
        "delivering",
        "epoch",
        "foreign",
        "fresh",
        "in_line",
        "in_transaction",
        "lease_end",
        "lease_seconds",
        "loaded",
        "look_first",
        "lost",
        "mailbox",
        "next_attempt_at",
        "one_by_one",
        "owned",
        "persistence_id",
        "queue",
        "quieted",
        "ready",
        "record",
        "retry",
        "runtime",
        "size",
        "to_deliver",
        "turnstile",
        "under_way",
        "unknown",
        "version",
        "waiting",
        "waking",
        "working",
        "written",
    )

    def __init__(self, queue: Queue, correlation_id: str) -> None:
        self.queue = queue
        self.runtime = queue.runtime
        self.correlation_id = correlation_id
        self.persistence_id = queue.runtime.prefix + correlation_id
        self.mailbox: list[Envelope] = []
        self.waiting = _NOBODY  # for a starting event, in the order they came
        self.waking: asyncio.TimerHandle | None = None  # while any waits: to look again, and to tell who waited in vain
        self.awaits: tuple[Instance, ...] = ()  # for which its event handler, just now, waits
        self.ready = False  # it has work, and waits for a round
        self.under_way = False  # it is in a round, or pauses before the next
        self.working: tuple[Envelope, asyncio.Task[None]] | None = None  # that is waited for, and the task which does
        self.one_by_one = 0  # so many messages are handled one a record: together they were too large
        self.lost = 0  # writes in a row that lost a race, or brought no answer
        # The cached record. It may be out of date: every write says which version it builds on.
        self.loaded = False
        self.fresh = False  # it was read for the next turn
        self.look_first = False  # the next turn may not begin on the guess that nothing is stored
        self.record: SagaRecord | None = None
        self.version = 0
        self.written = 0  # the newest version that this worker wrote
        self.epoch = 0  # of its numbers: they begin anew after a purge
        self.size = 0  # of the cached record, in bytes as it is stored
        self.unknown: Unanswered | None = None  # a write without an answer: read back first
        self.in_transaction: tuple[Unanswered, ...] = ()  # saved in transactions of callers, still open
        # Deliveries. Ours are the entries that we saved, and those we claimed because their lease had ended; others
        # belong until then to the worker that saved them.
        self.owned: frozenset[str] = NONE
        self.lease_end: datetime | None = None  # of the last write; afterwards others may have taken over
        self.accepted: set[str] | frozenset[str] = NONE  # accepted, not yet recorded
        self.cursor: tuple[tuple[Command, ...], int] = ((), 0)  # how far the outbox is accepted
        self.to_deliver = False  # the round has not come to its deliveries yet
        self.delivering = False
        self.attempt: tuple[str, asyncio.Timeout] | None = None  # the entry that a handler is at, and its time limit
        self.lease_seconds = 0.0  # of a renewal; 0: as the settings say
        self.contested = False  # another worker has changed it during a lease of ours: the next ones are written
        self.declined: Command | None = None  # first in the outbox, and only a worker with other code can deliver it
        self.foreign: tuple[str, float] | None = None  # another worker's entry, and the loop time to claim it
        self.attempts: dict[str, int] | None = None  # failed deliveries, where there are any
        self.retry: asyncio.TimerHandle | None = None  # before the next look at the outbox
        self.next_attempt_at: datetime | None = None
        # In event time the events of a log come one after the other, each after what the one before it has led to.
        self.caught_up = False
        self.in_line = 0  # who is in its turn, or waits for it
        self.turnstile: asyncio.Lock | None = None
        self.quieted: asyncio.Future[None] | None = None  # for whom waits until nothing is left to deliver

    @asynccontextmanager
    async def in_turn(self) -> AsyncIterator[None]:
        """Let through one after the other, in the order they come."""
        if self.turnstile is None:
            self.turnstile = asyncio.Lock()
        self.in_line += 1
        try:
            async with self.turnstile:
                yield
        finally:
            self.in_line -= 1

    async def quiet(self) -> None:
        """Return when nothing of it is under way, and no command of ours is left to deliver here."""
        while not self._is_quiet() and not self.runtime.engine.stopping.is_set():
            if self.quieted is None:
                self.quieted = self.runtime.engine.loop.create_future()
            await asyncio.shield(self.quieted)

    def _is_quiet(self) -> bool:
        if self.under_way or self.ready or self.mailbox or self.to_deliver or self.delivering:
            return False
        entry = self.undelivered()
        return entry is None or entry == self.declined

    async def catch_up(self) -> None:
        """In event time: deliver what an earlier run has left, before the first event of this run."""
        if not self.caught_up:
            await self.submit(Envelope(maintenance=Maintenance.RECORD))
            await self.quiet()
            self.caught_up = True

    def tell_quiet(self) -> None:
        """Something has ended: whoever waits for `quiet` looks again."""
        if self.quieted is not None and (self._is_quiet() or self.runtime.engine.stopping.is_set()):
            self.quieted.set_result(None)
            self.quieted = None

    @property
    def idle(self) -> bool:
        """Nothing is under way, and the store knows all: also when to look at this instance again."""
        return self.settled and not self.waiting

    @property
    def settled(self) -> bool:
        """Nothing is under way, apart from events that wait for their starting event."""
        return not (
            self.under_way
            or self.ready
            or self.mailbox
            or self.to_deliver
            or self.delivering
            or self.accepted
            or self.in_transaction
            or self.in_line
            or self.unknown is not None
        )

    def about(self, *, message_id: str | None = None, command_id: str | None = None) -> dict[str, str | int | None]:
        """Return the fields of a log record about this instance; `sequence_nr` is that of its newest known record."""
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

    def forget(self) -> None:
        """Give up waiting for the next look at the outbox."""
        if self.retry is not None:
            self.retry.cancel()
        self.retry = self.next_attempt_at = None

    def read_begins(self) -> None:
        """What waits now may be told what the record says that is read from here on."""
        for envelope in self.mailbox:
            envelope.seen = True

    def read_again(self) -> None:
        """Let the next turn read what is stored, unless one is under way, which finds out by itself."""
        if not self.under_way:
            self.loaded = False

    def undelivered(self) -> Command | None:
        """Return the first outbox entry that is not accepted yet, whoever may deliver it; None if delivery waits."""
        if self.record is None or self.record.stuck:
            return None
        outbox = self.record.outbox
        if self.cursor[0] is not outbox:
            self.cursor = (outbox, 0)
        index = self.cursor[1]
        while index < len(outbox) and outbox[index].id in self.accepted:
            index += 1
        self.cursor = (outbox, index)
        return outbox[index] if index < len(outbox) else None

    async def submit(self, envelope: Envelope, *, lone: bool = False) -> None:
        """Put `envelope` behind what waits; return when it is handled and durable. Raises what became of it.

        `lone`: no other is to be expected just now, so a round for this one need not wait for others.
        """
        ready = self.queue.ready
        self.mailbox.append(envelope)
        try:
            if lone and ready.driver.nobody() and not (self.ready or self.under_way):
                self.under_way = True
                await ready.driver.alone(self)
            else:
                ready.add(self)
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
        """Put `envelope` behind what waits; nobody waits for it here."""
        self.mailbox.append(envelope)
        self.queue.ready.add(self)

    def put_back(self, envelopes: list[Envelope]) -> None:
        """Put what a turn has taken and not answered back in front of what came since."""
        self.mailbox[:0] = [e for e in envelopes if not e.over and e not in self.waiting]

    def in_vain(self, envelope: Envelope) -> NoInstanceError:
        """Return what to tell an event that has waited in vain for its starting event."""
        assert envelope.message is not None
        return NoInstanceError(self.runtime.name, self.correlation_id, type(envelope.message.event).__name__)

    def let_wait(self, envelope: Envelope) -> None:
        """Keep `envelope` for a starting event."""
        if self.waiting is _NOBODY:
            self.waiting = {}
        self.waiting[envelope] = None

    def wait_no_longer(self) -> list[Envelope]:
        """Return what waits for a starting event, in the order it came; nothing waits any more."""
        waiting, self.waiting = list(self.waiting), _NOBODY
        return waiting

    def wake_later(self) -> None:
        """Come back for those that wait: when the first must be told, and now and then to look into the store."""
        if not self.waiting or self.waking is not None:
            return
        loop, settings = self.runtime.engine.loop, self.runtime.engine.settings
        first = min(envelope.deadline or 0.0 for envelope in self.waiting)
        self.waking = loop.call_at(min(first, loop.time() + settings.due_poll_seconds), self._wake)

    def _wake(self) -> None:
        """Tell those that have waited for too long; look whether another worker has handled a starting event."""
        self.waking = None
        now = self.runtime.engine.loop.time()
        for envelope in [waiting for waiting in self.waiting if (waiting.deadline or 0.0) <= now]:
            # A turn that has it among its own passes over it from now on.
            del self.waiting[envelope]
            envelope.fail(self.in_vain(envelope))
        if self.waiting:
            self.wake_later()
            if not self.under_way:
                self.loaded = False
                self.poke(Envelope(maintenance=Maintenance.RECORD))
        elif self.idle and not self.loaded and self.retry is None:
            self.queue.drop(self)

    def give_up_waiting(self, error: Exception) -> None:
        """Tell all that wait for a starting event: the runner stops."""
        for envelope in self.wait_no_longer():
            envelope.fail(error)
        if self.waking is not None:
            self.waking.cancel()
            self.waking = None


class Queue:
    """The instances of one saga that are in memory, least recently used first."""

    def __init__(self, runtime: SagaRuntime, ready: Ready) -> None:
        self.runtime = runtime
        self.ready = ready
        self.instances: dict[str, Instance] = {}
        self._cache_size = runtime.engine.settings.cache_size
        self._cache_bytes = runtime.engine.settings.cache_bytes
        self._bytes = 0  # the sizes of all in memory

    def instance(self, correlation_id: str) -> Instance:
        """Return the instance of that id, made (not loaded) where it is not in memory."""
        instances = self.instances
        found = instances.pop(correlation_id, None)
        if found is None:
            found = Instance(self, correlation_id)
        instances[correlation_id] = found
        return found

    def done(self, instance: Instance) -> None:
        """An instance has left its round: it may be in the next one, and is forgotten if nothing is to be remembered."""
        instance.under_way = instance.fresh = False
        if instance.quieted is not None:
            instance.tell_quiet()
        if instance.unknown is not None and not instance.mailbox:
            instance.mailbox.append(Envelope(maintenance=Maintenance.RECORD))
        if instance.waiting:
            instance.wake_later()
        if instance.mailbox:
            self.ready.add(instance)
        elif not instance.loaded and instance.retry is None and instance.idle:
            self.drop(instance)
        if len(self.instances) > self._cache_size or self._bytes > self._cache_bytes:
            self._shrink()

    def _shrink(self) -> None:
        """Forget idle instances beyond the cache's bounds, those used longest ago first; busy ones are passed over."""
        instances = self.instances
        left = 8  # each turn brings one in, so a few are enough
        while (len(instances) > self._cache_size or self._bytes > self._cache_bytes) and instances and left:
            left -= 1
            oldest, candidate = next(iter(instances.items()))
            del instances[oldest]
            if candidate.idle:
                candidate.forget()
                self.weigh(candidate, 0)
            else:
                instances[oldest] = candidate

    def drop(self, instance: Instance) -> None:
        """Take an idle instance out of memory."""
        if self.instances.get(instance.correlation_id) is instance:
            del self.instances[instance.correlation_id]
            self.weigh(instance, 0)

    def weigh(self, instance: Instance, size: int) -> None:
        """Note how large the record is that an instance keeps in memory, as stored."""
        self._bytes += size - instance.size
        instance.size = size

    def active(self) -> Iterator[Instance]:
        """Yield the instances that still have something to do."""
        return (instance for instance in list(self.instances.values()) if not instance.idle)
