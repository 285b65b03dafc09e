"""One instance in memory: its mailbox, what is cached of its record, and what is known of its deliveries.

    receive, due, repair, dispatch ─► [mailbox] ─► turn ─► commit ─► dispatch

Strictly one turn at a time. Whoever finds the instance idle runs the turn itself, so an event that meets no other
costs neither a task nor a future.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING

from ..decision.record import Command, SagaRecord
from ..errors import (
    JournalUnavailableError,
    NoInstanceError,
    PayloadTooLargeError,
    RunnerStoppedError,
    SagaParkedError,
)
from ..logs import about, log, trace_of
from .envelope import Envelope, Upkeep
from .failures import as_exception, passes_through
from .turn import take_turn

if TYPE_CHECKING:
    from .hosted import Hosted


_NONE: frozenset[str] = frozenset()
_STOPPED = "the runner stopped before the event was handled; nothing of it was stored"


class Instance:
    """One instance of a saga. Its parts are used by the phases: turn.py, commit.py and dispatch.py."""

    __slots__ = (
        "accepted",
        "attempt",
        "attempts",
        "awaits",
        "busy",
        "correlation_id",
        "cursor",
        "delivering",
        "epoch",
        "foreign",
        "hosted",
        "interrupted",
        "joined",
        "lease_end",
        "lease_seconds",
        "left",
        "loaded",
        "mailbox",
        "next_attempt_at",
        "owned",
        "persistence_id",
        "record",
        "retry",
        "size",
        "unknown",
        "version",
        "waiting",
        "waking",
    )

    def __init__(self, hosted: Hosted, correlation_id: str) -> None:
        self.hosted = hosted
        self.correlation_id = correlation_id
        self.persistence_id = hosted.prefix + correlation_id
        self.mailbox: list[Envelope] = []
        self.waiting: dict[Envelope, None] = {}  # for a starting event, in the order they came
        self.waking: asyncio.TimerHandle | None = None  # while any waits: to look again, and to tell who waited in vain
        self.interrupted = (
            0  # turns that nobody in particular had asked for, and that were cancelled since the last save
        )
        self.awaits: tuple[Instance, ...] = ()  # for which its event handler, just now, waits
        self.busy = False  # a turn is running, or a task is on its way to run one
        # The cached record. It may be out of date: every save says which version it builds on.
        self.loaded = False
        self.record: SagaRecord | None = None
        self.version = 0
        self.epoch = 0  # of its numbers: they begin anew after a purge
        self.size = 0  # of the cached record, in bytes as it is stored
        self.unknown: tuple[int, bytes, frozenset[str]] | None = None  # a save without an answer: read back first
        self.joined: tuple[tuple[int, bytes, frozenset[str]], ...] = ()  # saved in transactions of callers, still open
        # Deliveries. Ours are the entries that we saved, and those we claimed because their lease had ended; others
        # belong until then to the worker that saved them.
        self.owned: frozenset[str] = _NONE
        self.lease_end: datetime | None = None  # of the last save; afterwards others may have taken over
        self.accepted: set[str] = set()  # accepted, not yet recorded
        self.cursor: tuple[tuple[Command, ...], int] = ((), 0)  # how far the outbox is accepted
        self.delivering = False
        self.attempt: tuple[str, asyncio.Timeout] | None = None  # the entry that a handler is at, and its time limit
        self.lease_seconds = 0.0  # of a renewal; 0: as the settings say
        self.left: Command | None = None  # first in the outbox, and only a worker with other code can deliver it
        self.foreign: tuple[str, float] | None = None  # another worker's entry, and the loop time to claim it
        self.attempts: dict[str, int] | None = None  # failed deliveries, where there are any
        self.retry: asyncio.TimerHandle | None = None  # before the next look at the outbox
        self.next_attempt_at: datetime | None = None

    @property
    def idle(self) -> bool:
        """Nothing is under way, and the store knows all: also when to look at this instance again."""
        return self.settled and not self.waiting

    @property
    def settled(self) -> bool:
        """Nothing is under way, apart from events that wait for their starting event."""
        return not (
            self.busy or self.mailbox or self.delivering or self.accepted or self.joined or self.unknown is not None
        )

    def about(self, *, message_id: str | None = None, command_id: str | None = None) -> dict[str, str | int | None]:
        """Return the fields of a log record about this instance; `sequence_nr` is that of its newest known record."""
        return about(
            saga=self.hosted.name,
            correlation_id=self.correlation_id,
            sequence_nr=self.version or None,
            message_id=message_id,
            command_id=command_id,
        )

    def forget(self) -> None:
        """Give up waiting for the next look at the outbox."""
        if self.retry is not None:
            self.retry.cancel()
        self.retry = self.next_attempt_at = None

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

    async def submit(self, envelope: Envelope) -> None:
        """Put `envelope` behind what waits; return when it is handled and durable. Raises what became of it."""
        if self.busy:
            self.mailbox.append(envelope)
        else:
            await self._turns([envelope], envelope)
        if envelope.open:
            envelope.future = self.hosted.engine.loop.create_future()
            try:
                await envelope.future
            except asyncio.CancelledError:
                self.waiting.pop(envelope, None)  # the mailbox and the turn pass over it when they come to it
                raise
        if envelope.error is not None:
            raise envelope.error

    def poke(self, envelope: Envelope) -> None:
        """Put upkeep into the mailbox; nobody waits for it."""
        self.mailbox.append(envelope)
        self._ensure_turn()

    def _ensure_turn(self) -> None:
        if not self.busy:
            self.busy = True
            self.hosted.engine.spawn(self._turns([], None))

    async def _turns(self, batch: list[Envelope], own: Envelope | None) -> None:
        """Take turns until the mailbox is empty; whoever brought `own` may go as soon as that is answered."""
        self.busy = True
        try:
            while batch or self.mailbox:
                if not batch:
                    batch = self._batch()
                try:
                    await take_turn(self, batch)
                except Exception as error:
                    self._failed(batch, error)
                except BaseException as error:
                    if passes_through(error):
                        raise
                    self._failed(batch, as_exception(error, "a turn"))
                batch = []
                if own is not None and (not own.open or own in self.waiting):
                    break
        except BaseException:
            # The task that runs the turn was cancelled. Its own event is withdrawn (unless it is stored already);
            # whoever else waits is served by a new task.
            again = [e for e in batch if e.open and e is not own and e not in self.waiting]
            for envelope in batch:
                if envelope.open:
                    envelope.decided = None
                    envelope.tried()
            if self.hosted.engine.cancelled:
                self._failed(again, RunnerStoppedError(_STOPPED))
            else:
                self.mailbox[:0] = again
            if own is not None:
                self.waiting.pop(own, None)
            raise
        finally:
            self.busy = False
            if self.unknown is not None and not self.mailbox:
                self.mailbox.append(Envelope(upkeep=Upkeep.RECORD))
            if self.waiting and self.waking is None:
                self._wake_later()
            if self.mailbox:
                self._ensure_turn()
            elif not self.loaded and self.retry is None and self.idle:
                self.hosted.drop(self)
            self.hosted.shrink()

    def cancelled_by_its_handler(self, error: BaseException) -> bool:
        """Say whether a handler must have cancelled the task that runs it, which then goes on.

        Whoever calls `handle` may be cancelled at any time. But nobody cancels a task of the runner before it stops, so
        the second time it is the handler, which would otherwise run again without end.
        """
        engine, task = self.hosted.engine, asyncio.current_task()
        if task is None or not isinstance(error, asyncio.CancelledError) or not engine.is_own(task):
            return False
        self.interrupted += 1
        if self.interrupted < 2 or engine.stopping.is_set():
            return False
        while task.uncancel():
            pass
        return True

    def _batch(self) -> list[Envelope]:
        limit = self.hosted.engine.settings.max_batch
        batch = [envelope for envelope in self.mailbox[:limit] if not envelope.withdrawn]
        del self.mailbox[:limit]
        return batch

    def _failed(self, batch: list[Envelope], error: Exception) -> None:
        """Tell everybody in the batch who has no answer yet. Nothing is known to be stored of theirs."""
        expected = isinstance(error, (JournalUnavailableError, PayloadTooLargeError))
        if not expected:
            self.loaded = False
        if self.hosted.engine.stopping.is_set():
            self.unknown = None  # nobody is left to tell; the lease brings a worker that looks
        told = False
        for envelope in batch:
            if envelope.open and envelope not in self.waiting:
                told = told or envelope.message is not None or envelope.future is not None
                envelope.fail(error)
        if not told and not expected and not isinstance(error, SagaParkedError):
            name, key = self.hosted.name, self.correlation_id
            log.error(
                "saga %s, id %s: upkeep failed: %s",
                name,
                key,
                type(error).__name__,
                exc_info=trace_of(error),
                extra=self.about(),
            )

    def _wake_later(self) -> None:
        """Come back for those that wait: when the first must be told, and now and then to look into the store."""
        loop, settings = self.hosted.engine.loop, self.hosted.engine.settings
        first = min(envelope.deadline or 0.0 for envelope in self.waiting)
        self.waking = loop.call_at(min(first, loop.time() + settings.due_poll_seconds), self._wake)

    def _wake(self) -> None:
        """Tell those that have waited for too long; look whether another worker has handled a starting event."""
        self.waking = None
        now = self.hosted.engine.loop.time()
        for envelope in [waiting for waiting in self.waiting if (waiting.deadline or 0.0) <= now]:
            # A turn that has it among its own passes over it from now on.
            del self.waiting[envelope]
            envelope.fail(self.in_vain(envelope))
        if self.waiting:
            self._wake_later()
            if not self.busy:
                self.loaded = False
                self.poke(Envelope(upkeep=Upkeep.RECORD))
        elif self.idle and not self.loaded and self.retry is None:
            self.hosted.drop(self)

    def in_vain(self, envelope: Envelope) -> NoInstanceError:
        """Return what to tell an event that has waited in vain for its starting event."""
        assert envelope.message is not None
        return NoInstanceError(self.hosted.name, self.correlation_id, type(envelope.message.event).__name__)

    def give_up_waiting(self, error: Exception) -> None:
        """Tell all that wait for a starting event: the runner stops."""
        for envelope in self.waiting:
            envelope.fail(error)
        self.waiting.clear()
        if self.waking is not None:
            self.waking.cancel()
            self.waking = None
