"""Commands of saved records leave here: in order per instance, bounded for each type, tried again until accepted.

    settle ─► [deliver] ─► command handler ─► reply events ─► receive
                   └─ accepted: noted in memory, recorded by the next save of the instance, or a lazy one

A command is accepted when its handler returned and its reply events are stored. If the process dies before that is
recorded, the command is delivered again under the same id, and its replies are known by theirs. Each type of command
has its own places, so that one whose receiver hangs holds up no other. What another attempt cannot mend parks the
instance at once: each attempt may have its effects.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter, deque
from collections.abc import AsyncIterable, Awaitable, Callable
from datetime import timedelta
from typing import Any

from ..decision.draft import Draft
from ..decision.ids import command_id as id_of
from ..decision.ids import reply_id
from ..decision.message import Outcome, refusal
from ..decision.record import FINAL, Command, Status
from ..errors import (
    CodecError,
    CommandRefused,
    DefinitionError,
    InvalidEventError,
    JournalUnavailableError,
    NoInstanceError,
    OutcomeUnknownError,
    RunnerStoppedError,
    SagalogError,
)
from ..logs import log
from .commands import CommandContext, CommandHandler, CommandHandlers
from .context import in_command_handler
from .engine import Engine
from .envelope import Envelope, Upkeep
from .failures import described, ends_program, is_permanent, passes_through
from .queue import Instance
from .telling import Watch, WatchedHandler

Reply = Callable[[Any, str, str], Awaitable[Any]]

_GIVE_WAY_SECONDS = 0.005  # so long plain functions are called one after the other
_REPLIES_AT_ONCE = 256
_LONGEST_LEASES = 12  # up to which a lease grows while a handler takes long, so that a slow command costs few writes
_SUMMARY_SECONDS = 60.0  # of failed attempts of one command type, after the first one


class AnswerError(Exception):
    """A command was carried out, and what its handler answered can never be taken."""


class _Lane:
    """The places of one command type, and the instances that wait for one."""

    __slots__ = ("places", "ready", "running")

    def __init__(self, places: int) -> None:
        self.places = places
        self.ready: deque[Instance] = deque()
        self.running = 0


class Dispatcher:
    """Delivers the outboxes of instances."""

    def __init__(self, engine: Engine, handlers: CommandHandlers, reply: Reply) -> None:
        self._engine = engine
        self._handlers = handlers
        self._reply = reply
        self._lanes: dict[str, _Lane] = {}
        self._failures: dict[tuple[str, str], list[float]] = {}  # by saga and type: when it was said, how many since
        self._to_record: deque[tuple[float, Instance]] = deque()
        self._tick: asyncio.TimerHandle | None = None

    def release(self, instance: Instance) -> None:
        """Deliver what is in the outbox of a saved record; returns at once."""
        if instance.delivering or instance.retry is not None or self._engine.stopping.is_set():
            return
        entry = instance.undelivered()
        if entry is not None and entry == instance.left:
            return
        if entry is not None and entry.id in instance.owned:
            self._check_lease(instance)
        if entry is None:
            self._record_later(instance)
        elif entry.id not in instance.owned:
            self._watch(instance, entry)
        else:
            instance.delivering = True
            self._deliver_plain(instance)

    def _deliver_plain(self, instance: Instance) -> None:
        """Deliver to plain functions that answer None, without a task; the first that is otherwise goes on in one."""
        # Nothing is awaited here, so the lease that `release` looked at still holds.
        give_way_at = self._engine.loop.time() + _GIVE_WAY_SECONDS
        while (entry := instance.undelivered()) is not None and entry.id in instance.owned:
            handler, command = self._prepare(instance, entry)
            if handler is None:
                self._give_up(instance, entry)
                return
            if handler.asynchronous:
                self._enqueue(instance, entry, handler)
                return
            token = in_command_handler.set(True)
            try:
                answer = handler(command, self._context(instance, entry) if handler.takes_context else None)
            except BaseException as error:
                if ends_program(error):  # nobody awaits here, so nobody can have cancelled
                    instance.delivering = False
                    raise
                self._engine.spawn(self._finish(instance, entry, None, error))
                return
            finally:
                in_command_handler.reset(token)
            if answer is not None:
                self._engine.spawn(self._finish(instance, entry, answer, None, handler))
                return
            self._accepted(instance, entry)
            if self._engine.loop.time() > give_way_at:
                instance.delivering = False
                self._record_later(instance)
                self._engine.loop.call_soon(self.release, instance)
                return
        instance.delivering = False
        self._record_later(instance)

    def _give_up(self, instance: Instance, entry: Command) -> None:
        instance.delivering = False
        self.declines(instance, entry)
        self._record_later(instance)  # what was accepted before it

    def _enqueue(self, instance: Instance, entry: Command, handler: CommandHandler | WatchedHandler) -> None:
        lane = self._lanes.get(entry.command.type)
        if lane is None:
            places = handler.policy.places or self._engine.settings.max_dispatch
            lane = self._lanes[entry.command.type] = _Lane(places)
        lane.ready.append(instance)
        self._engine.backlog += 1
        if lane.running < lane.places:
            lane.running += 1
            self._engine.spawn(self._work(lane))

    async def _work(self, lane: _Lane) -> None:
        in_command_handler.set(True)
        try:
            while lane.ready:
                instance = lane.ready.popleft()
                self._engine.backlog -= 1
                entry = self._deliverable(instance)
                if entry is None:
                    instance.delivering = False
                    self._record_later(instance)
                    self.release(instance)
                    continue
                handler, command = self._prepare(instance, entry)
                if handler is None:
                    self._give_up(instance, entry)
                    continue
                try:
                    accepted = await self._attempt(instance, entry, handler, None, command)
                finally:
                    instance.delivering = False
                self._go_on(instance, accepted=accepted)
        finally:
            lane.running -= 1
            if lane.ready and lane.running == 0 and not self._engine.stopping.is_set():  # this task was cancelled
                lane.running += 1
                self._engine.spawn(self._work(lane))

    async def _finish(
        self,
        instance: Instance,
        entry: Command,
        answer: Any,
        error: BaseException | None,
        handler: CommandHandler | WatchedHandler | None = None,
    ) -> None:
        in_command_handler.set(True)
        try:
            if handler is not None and isinstance(answer, (Awaitable, AsyncIterable)):  # as of a lambda
                accepted = await self._attempt(instance, entry, handler, answer)
            else:
                accepted = await self._conclude(instance, entry, answer, error)
        finally:
            instance.delivering = False
        self._go_on(instance, accepted=accepted)

    def _go_on(self, instance: Instance, *, accepted: bool) -> None:
        if accepted:
            self._record_later(instance)
            self.release(instance)

    def _deliverable(self, instance: Instance) -> Command | None:
        if self._engine.stopping.is_set():
            return None
        self._check_lease(instance)
        entry = instance.undelivered()
        return entry if entry is not None and entry.id in instance.owned else None

    def _check_lease(self, instance: Instance) -> None:
        """Disown the outbox if our lease on it has ended: this process was frozen, and another may be delivering it.

        Without this, a worker that wakes up would deliver everything it still has in memory again, in an order that
        has long been left behind.
        """
        end = instance.lease_end
        if end is None or self._engine.event_time or self._engine.now() <= end:
            return
        instance.owned, instance.lease_end = frozenset(), None
        instance.read_again()
        instance.poke(Envelope(upkeep=Upkeep.RECORD))

    def _context(self, instance: Instance, entry: Command) -> CommandContext:
        return CommandContext(
            f"{instance.persistence_id}/{entry.id}",
            instance.hosted.name,
            instance.correlation_id,
            _attempt_nr(instance, entry),
            entry.undo,
        )

    def _prepare(self, instance: Instance, entry: Command) -> tuple[CommandHandler | WatchedHandler | None, Any]:
        """Return the handler of a command, and the command; no handler where there is none, or it cannot be read."""
        try:
            handler, command = self._handler_of(instance, entry)
        except (CodecError, DefinitionError):
            return None, None
        return self._engine.hooks.watched(handler, entry), command

    def _handler_of(self, instance: Instance, entry: Command) -> tuple[CommandHandler, Any]:
        command = instance.hosted.registry.unpack(entry.command)
        handler = self._handlers.get(type(command))
        if handler is None:
            raise DefinitionError(f"no command handler for {entry.command.type}: register one with dispatch=")
        return handler, command

    def _handler_for(self, instance: Instance, entry: Command) -> CommandHandler | None:
        cls = instance.hosted.registry.get(entry.command.type)
        return None if cls is None else self._handlers.get(cls)

    def declines(self, instance: Instance, entry: Command) -> bool:
        """Say whether this worker cannot deliver `entry`, the first of the outbox: then it is left to one that can.

        Trying again here helps nobody, and keeping the lease, or parking the instance for good, would keep out a worker
        with newer code.
        """
        try:
            self._handler_of(instance, entry)
        except (CodecError, DefinitionError) as error:
            hosted = instance.hosted
            instance.left = entry
            instance.owned -= {entry.id}
            hosted.left.add(instance.correlation_id, self._engine.now())
            self._engine.counters.dispatch_errors += 1
            self._tell(instance, entry, "failed", error)
            log.warning(
                "saga %s, id %s: command %s is left to another worker: %s",
                hosted.name,
                instance.correlation_id,
                entry.command.type,
                error,
                extra=instance.about(command_id=f"{instance.persistence_id}/{entry.id}"),
            )
            return True
        instance.left = None
        return False

    async def _attempt(
        self,
        instance: Instance,
        entry: Command,
        handler: CommandHandler | WatchedHandler,
        answer: Any,
        command: Any = None,
    ) -> bool:
        """Call the handler within its time (or wait for the `answer` of one that was called), and conclude."""
        renewal = self._renew_later(instance)
        longest = handler.policy.timeout
        seconds = self._engine.settings.command_seconds if longest is None else longest.total_seconds()
        limit = asyncio.timeout(None if seconds == float("inf") else seconds)
        try:
            async with limit:
                instance.attempt = (entry.id, limit)
                if answer is None:
                    answer = handler(command, self._context(instance, entry) if handler.takes_context else None)
                if isinstance(answer, Awaitable):
                    answer = await answer
                if isinstance(answer, AsyncIterable):
                    return await self._conclude(instance, entry, answer, None)
            instance.attempt = None  # the handler has ended: there is nothing to cut off
            return await self._conclude(instance, entry, answer, None)
        except BaseException as error:
            instance.attempt = None
            if passes_through(error):
                raise
            return await self._conclude(instance, entry, None, error)
        finally:
            instance.attempt = None
            renewal[0].cancel()
            instance.lease_seconds = 0.0

    def _tell(self, instance: Instance, entry: Command, outcome: str, error: BaseException | None = None) -> None:
        hosted = instance.hosted
        self._engine.hooks.delivered(
            hosted.name, instance.correlation_id, entry, _attempt_nr(instance, entry), outcome, error
        )

    def cut(self, instance: Instance) -> None:
        """End the attempt at a command that is not in the outbox any more: an operator dropped it."""
        attempt, record = instance.attempt, instance.record
        if attempt is None or record is None or any(entry.id == attempt[0] for entry in record.outbox):
            return
        if attempt[1].when() is None or attempt[1].when() > self._engine.loop.time():  # type: ignore[operator]
            attempt[1].reschedule(self._engine.loop.time())

    async def _conclude(self, instance: Instance, entry: Command, answer: Any, error: BaseException | None) -> bool:
        """Store the reply events, then note the acceptance; or the refusal; or wait for another attempt."""
        command_id = id_of(instance.persistence_id, entry.id)
        if error is None:
            try:
                if answer is not None:
                    await self._take_answer(entry, command_id, answer)
            except BaseException as raised:
                if passes_through(raised):
                    raise
                error = raised
        if error is None:
            self._accepted(instance, entry)
            return True
        if isinstance(error, CommandRefused):
            try:
                await self._refuse(instance, entry, command_id, error)
            except Exception as failed:
                error = failed
            else:
                return True
        return self._failed(instance, entry, error)

    async def _take_answer(self, entry: Command, command_id: str, answer: Any) -> None:
        """Store the events that a handler answered. Raises AnswerError for what can never be stored."""
        trace = self._engine.hooks.trace_of(command_id)
        counts: Counter[str] = Counter()

        async def store(event: Any) -> None:
            name = type(event).__name__
            message_id = reply_id(command_id, name, counts[name])
            counts[name] += 1
            await self._store_reply(entry, event, message_id, trace)

        if isinstance(answer, AsyncIterable):
            async for event in answer:
                await store(event)
            return
        if isinstance(answer, (list, tuple)):
            # Those that come together share a step, in their order.
            for first in range(0, len(answer), _REPLIES_AT_ONCE):
                stored = await asyncio.gather(
                    *map(store, answer[first : first + _REPLIES_AT_ONCE]), return_exceptions=True
                )
                for error in stored:
                    if error is not None:
                        raise error
            return
        for event in answer if inspect.isgenerator(answer) else (answer,):
            await store(event)

    async def _store_reply(self, entry: Command, event: Any, message_id: str, trace: str) -> None:
        failures = 0
        while True:
            try:
                await self._reply(event, message_id, trace)
                return
            except NoInstanceError:
                # Whoever the answer is for has ended, or never was: asking the receiver again would not change that.
                self._engine.counters.ignored += 1
                return
            except (DefinitionError, CodecError, InvalidEventError) as error:
                raise AnswerError(f"its answer, a {type(event).__name__}, cannot be taken: {error}") from error
            except (JournalUnavailableError, OutcomeUnknownError):
                # The command is carried out: only its answer is tried again, under the same id.
                failures += 1
                wait = self._engine.settings.dispatch_retry.wait_seconds(failures)
                if wait is None:
                    raise
                await self._engine.back_off(wait)

    async def _refuse(self, instance: Instance, entry: Command, command_id: str, refused: CommandRefused) -> None:
        command = instance.hosted.registry.unpack(entry.command)
        trace = self._engine.hooks.trace_of(command_id)
        self._engine.counters.refused += 1
        envelope = Envelope(refusal(command, command_id, refused.reason, trace))
        await instance.submit(envelope)
        record = instance.record
        if (
            envelope.outcome is Outcome.DUPLICATE
            and record is not None
            and any(c.id == entry.id for c in record.outbox)
        ):
            raise AnswerError(
                "its refusal is taken for another message of the same id"
            )  # or it would be asked for ever
        self._tell(instance, entry, "refused", refused)

    def _accepted(self, instance: Instance, entry: Command) -> None:
        self._engine.counters.commands += 1
        self._tell(instance, entry, "accepted")
        if instance.attempts is not None:
            instance.attempts.pop(entry.id, None)
        if entry.id in instance.owned:
            instance.accepted.add(entry.id)

    def _failed(self, instance: Instance, entry: Command, error: BaseException) -> bool:
        engine = self._engine
        if isinstance(error, RunnerStoppedError) and engine.stopping.is_set():
            return False  # it stays in the outbox, for whoever comes next
        if instance.record is not None and not any(other.id == entry.id for other in instance.record.outbox):
            return True  # an operator has dropped it meanwhile
        engine.counters.dispatch_errors += 1
        self._tell(instance, entry, "failed", error)
        if instance.attempts is None:
            instance.attempts = {}
        failures = instance.attempts[entry.id] = instance.attempts.get(entry.id, 0) + 1
        carried_out = isinstance(error, AnswerError)
        # What we raise names no payloads; what others raise may quote them.
        told = str(error) if isinstance(error, (SagalogError, AnswerError)) else described(error)
        wait = None
        if not (carried_out or is_permanent(error)):
            handler = self._handler_for(instance, entry)
            retry = (handler.policy.retry if handler is not None else None) or engine.settings.dispatch_retry
            wait = retry.wait_seconds(failures)
        if wait is None:
            self._park(instance, entry, error, told, failures, carried_out=carried_out)
            return False
        self._complain(instance, entry, told, failures)
        instance.retry = engine.loop.call_later(wait, self._again, instance)
        if wait > engine.settings.lease_seconds / 2:
            # Others may take over only after our next attempt, so that a dead broker does not cost a write a lease.
            instance.next_attempt_at = engine.now() + timedelta(seconds=wait)
            instance.poke(Envelope(upkeep=Upkeep.RENEW))
        return False

    def _park(
        self, instance: Instance, entry: Command, error: BaseException, told: str, failures: int, *, carried_out: bool
    ) -> None:
        engine, name = self._engine, entry.command.type
        if carried_out:
            reason = f"command {name} was carried out, but {told}; `retry` carries it out again, `skip` drops it"
        elif is_permanent(error):
            reason = f"command {name} was not accepted, and another attempt does not help: {told}"
        else:
            reason = f"command {name} was not accepted in {failures} attempts: {told}"
        assert instance.attempts is not None
        del instance.attempts[entry.id]  # after a repair all attempts are there again
        instance.poke(Envelope(repair=_stick(entry.id, reason)))
        engine.counters.parked += 1
        log.error(
            "saga %s, id %s is parked: %s",
            instance.hosted.name,
            instance.correlation_id,
            reason,
            extra=instance.about(command_id=id_of(instance.persistence_id, entry.id)),
        )
        engine.hooks.parked(instance.hosted.name, instance.correlation_id, reason)

    def _complain(self, instance: Instance, entry: Command, told: str, failures: int) -> None:
        """Say that an attempt failed: the first of a type at once, the others together, now and then."""
        now, key = self._engine.loop.time(), (instance.hosted.name, entry.command.type)
        said = self._failures.get(key)
        if said is not None and now - said[0] < _SUMMARY_SECONDS:
            said[1] += 1
            return
        others = int(said[1]) if said is not None else 0
        self._failures[key] = [now, 0.0]
        log.warning(
            "saga %s, id %s: command %s was not accepted (attempt %d%s): %s",
            instance.hosted.name,
            instance.correlation_id,
            entry.command.type,
            failures,
            f"; {others} more failed since this was said last" if others else "",
            told,
            extra=instance.about(command_id=id_of(instance.persistence_id, entry.id)),
        )

    def _again(self, instance: Instance) -> None:
        instance.retry = instance.next_attempt_at = None
        self.release(instance)

    def _renew_later(self, instance: Instance) -> list[asyncio.TimerHandle]:
        """Keep the lease while a handler takes long; the handle in the list is always the current one.

        Each renewal is twice as long as the one before, up to a bound, because each is a write.
        """
        lease = self._engine.settings.lease_seconds
        handle: list[asyncio.TimerHandle] = []

        def renew() -> None:
            instance.lease_seconds = min(2 * max(instance.lease_seconds, lease / 2), _LONGEST_LEASES * lease)
            instance.poke(Envelope(upkeep=Upkeep.RENEW))
            handle[0] = self._engine.loop.call_later(instance.lease_seconds / 2, renew)

        handle.append(self._engine.loop.call_later(lease / 2, renew))
        return handle

    def _watch(self, instance: Instance, entry: Command) -> None:
        """Wait for the worker that saved `entry`; claim it once its lease must have ended.

        That is a lease after it was first seen here, or later where the record says so: a worker that renews, or waits
        for its next attempt, is alive.
        """
        engine = self._engine
        now, lease = engine.loop.time(), engine.settings.lease_seconds
        if instance.foreign is None or instance.foreign[0] != entry.id:
            instance.foreign = (entry.id, now + lease)
        until = instance.record.leased_until if instance.record is not None else None
        if until is not None:
            renewed = now + (until - engine.now()).total_seconds()
            instance.foreign = (entry.id, max(instance.foreign[1], renewed))
        left = instance.foreign[1] - now

        def look() -> None:
            instance.retry = None
            if engine.stopping.is_set():
                return
            if engine.loop.time() >= (instance.foreign[1] if instance.foreign is not None else 0):
                instance.read_again()  # it may be renewed by now: what is stored decides
                instance.poke(Envelope(upkeep=Upkeep.CLAIM))
            else:
                instance.read_again()  # it may be accepted and recorded by now
                instance.poke(Envelope(upkeep=Upkeep.RECORD))

        waited = max(0.0, lease - left)
        # Sooner than the lease, because the entries behind it wait; less and less often, because it costs a load.
        instance.retry = engine.loop.call_later(max(0.0, min(left, max(lease / 8, waited))), look)

    def _record_later(self, instance: Instance) -> None:
        """Record acceptances with the next step, or lazily; at once where the end of the saga depends on it."""
        if not instance.accepted or instance.record is None:
            return
        if instance.undelivered() is None and (
            instance.record.status in FINAL or instance.record.status is Status.COMPENSATING
        ):
            instance.poke(Envelope(upkeep=Upkeep.RECORD))
            return
        self._to_record.append((self._engine.loop.time() + self._engine.settings.ack_seconds, instance))
        if self._tick is None:
            self._tick = self._engine.loop.call_later(self._engine.settings.ack_seconds, self._record_due)

    def _record_due(self) -> None:
        self._tick = None
        now = self._engine.loop.time()
        while self._to_record and self._to_record[0][0] <= now:
            _, instance = self._to_record.popleft()
            if instance.accepted:
                instance.poke(Envelope(upkeep=Upkeep.RECORD))
        if self._to_record:
            self._tick = self._engine.loop.call_later(max(0.0, self._to_record[0][0] - now), self._record_due)

    def stop(self) -> None:
        """Start nothing new; what is under way ends by itself."""
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        for lane in self._lanes.values():
            for instance in lane.ready:
                instance.delivering = False
            self._engine.backlog -= len(lane.ready)
            lane.ready.clear()


def _attempt_nr(instance: Instance, entry: Command) -> int:
    return 1 if instance.attempts is None else instance.attempts.get(entry.id, 0) + 1


def _stick(entry: str, reason: str) -> Callable[[Draft, Watch], Awaitable[None]]:
    async def park(draft: Draft, watch: Watch) -> None:
        record = draft.record
        if record is not None and any(command.id == entry for command in record.outbox):
            record.parked = record.parked or reason
            record.stuck = entry
            draft.touch()

    return park
