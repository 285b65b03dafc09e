"""Commands of saved records leave here: in order per instance, bounded overall, tried again until accepted.

    commit ─► [dispatch] ─► command handler ─► reply events ─► receive
                   └─ accepted: noted in memory, recorded by the next save of the instance, or a lazy one

A command is accepted when its handler returned and its reply events are stored. If the process dies before that is
recorded, the command is delivered again under the same id, and its replies are known by theirs.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from ..decision.draft import Draft
from ..decision.message import refusal
from ..decision.record import FINAL, Command, Status
from ..errors import CodecError, CommandRefused, DefinitionError, SagalogError
from ..logs import log
from .engine import Engine
from .envelope import Envelope, Upkeep

if TYPE_CHECKING:
    from .hooks import WatchedHandler
    from .mailbox import Instance

Reply = Callable[[Any, str, str], Awaitable[Any]]


class CommandContext(msgspec.Struct, frozen=True, gc=False):
    """What a command handler may know about the delivery; take it as the handler's second parameter.

    `id` is the same at every delivery: the receiver's key against duplicates. `attempt` counts from 1, in this worker.
    """

    id: str
    saga: str
    correlation_id: str
    attempt: int
    undo: bool


class CommandHandler:
    """A user's handler, and how to call it: with the command, or with the command and its context."""

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        if not callable(function):
            raise DefinitionError(f"the handler of {name} is not callable")
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):  # a builtin such as list.append
            parameters = {}.values()
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        required = [p for p in positional if p.default is p.empty]
        if len(required) > 2 or (
            parameters and not positional and not any(p.kind is p.VAR_POSITIONAL for p in parameters)
        ):
            raise DefinitionError(f"the handler of {name} must take (command) or (command, context)")
        self.takes_context = len(required) == 2
        self.function = function
        asynchronous = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        call = getattr(function, "__call__", None)  # noqa: B004  (an object with an async __call__)
        self.asynchronous = asynchronous or inspect.iscoroutinefunction(call)

    def __call__(self, command: Any, context: CommandContext | None) -> Any:
        """Call it. `context` is needed where `takes_context` says so."""
        return self.function(command, context) if self.takes_context else self.function(command)


class CommandHandlers:
    """The handlers by command type; one for all the others may be given as well."""

    def __init__(self) -> None:
        self._by_type: dict[type, CommandHandler] = {}
        self._rest: CommandHandler | None = None

    def add(self, dispatch: Callable[..., Any] | Mapping[type, Callable[..., Any]] | None) -> None:
        """Register a handler for all commands, or a mapping from command types to handlers."""
        if isinstance(dispatch, Mapping):
            for command, function in dispatch.items():
                self.add_for(command, function)
        elif dispatch is not None:
            self._rest = CommandHandler(dispatch, "all commands")

    def add_for(self, command: type, function: Callable[..., Any]) -> None:
        """Register the handler of one command type. Raises DefinitionError if it has one."""
        if not isinstance(command, type):
            raise DefinitionError(f"a command handler is registered for a command type, not for {command!r}")
        if command in self._by_type:
            raise DefinitionError(f"{command.__name__} has two command handlers; keep one")
        self._by_type[command] = CommandHandler(function, command.__name__)

    def get(self, command: type) -> CommandHandler | None:
        """Return the handler of a command type, or None."""
        return self._by_type.get(command, self._rest)


class Dispatcher:
    """Delivers the outboxes of instances."""

    def __init__(self, engine: Engine, handlers: CommandHandlers, reply: Reply) -> None:
        self._engine = engine
        self._handlers = handlers
        self._reply = reply
        self._ready: deque[Instance] = deque()
        self._running = 0
        self._to_record: deque[tuple[float, Instance]] = deque()
        self._tick: asyncio.TimerHandle | None = None

    @property
    def backlog(self) -> int:
        """How many instances wait for a free place to deliver."""
        return len(self._ready)

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
        while (entry := instance.undelivered()) is not None and entry.id in instance.owned:
            handler, command = self._prepare(instance, entry)
            if handler is None or handler.asynchronous:
                self._enqueue(instance)
                return
            try:
                answer = handler(command, self._context(instance, entry) if handler.takes_context else None)
            except Exception as error:
                self._engine.spawn(self._deliver(instance, (entry, None, error)))
                return
            if answer is not None:
                self._engine.spawn(self._deliver(instance, (entry, answer, None)))
                return
            self._accepted(instance, entry)
        instance.delivering = False
        self._record_later(instance)

    def _enqueue(self, instance: Instance) -> None:
        self._ready.append(instance)
        if self._running < self._engine.settings.max_dispatch:
            self._running += 1
            self._engine.spawn(self._work())

    async def _work(self) -> None:
        try:
            while self._ready:
                instance = self._ready.popleft()
                if self._engine.stopping.is_set():
                    instance.delivering = False
                    continue
                await self._deliver(instance, None)
        finally:
            self._running -= 1
            if self._ready and self._running == 0:  # this one was cancelled by a handler; the others go on
                self._running += 1
                self._engine.spawn(self._work())

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
        if not instance.busy:
            instance.loaded = False
        instance.poke(Envelope(upkeep=Upkeep.RECORD))

    def _context(self, instance: Instance, entry: Command) -> CommandContext:
        return CommandContext(
            f"{instance.persistence_id}/{entry.id}",
            instance.hosted.name,
            instance.correlation_id,
            1 if instance.attempts is None else instance.attempts.get(entry.id, 0) + 1,
            entry.undo,
        )

    def _prepare(self, instance: Instance, entry: Command) -> tuple[CommandHandler | WatchedHandler | None, Any]:
        """Return the handler of a command, and the command; no handler where there is none, or it cannot be read."""
        try:
            handler, command = self._handler_of(instance, entry)
        except (CodecError, DefinitionError):
            return None, None
        hooks = self._engine.hooks
        return handler if hooks is None else hooks.watched(handler, entry), command

    def _handler_of(self, instance: Instance, entry: Command) -> tuple[CommandHandler, Any]:
        command = instance.hosted.registry.unpack(entry.command)
        handler = self._handlers.get(type(command))
        if handler is None:
            raise DefinitionError(f"no command handler for {entry.command.type}: register one with dispatch=")
        return handler, command

    def leaves(self, instance: Instance, entry: Command) -> bool:
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
            if self._engine.hooks is not None:
                self._engine.hooks.delivered(instance, entry, "failed", error)
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

    async def _deliver(self, instance: Instance, begun: tuple[Command, Any, Exception | None] | None) -> None:
        """Deliver until the outbox is empty, a command has to wait, or the runner stops. `begun`: one was called."""
        try:
            while True:
                if begun is not None:
                    entry, answer, error = begun
                    begun = None
                    accepted = await self._conclude(instance, entry, answer, error)
                else:
                    following = self._deliverable(instance)
                    if following is None:
                        break
                    accepted = await self._attempt(instance, following)
                if not accepted:
                    return
        finally:
            instance.delivering = False
        self._record_later(instance)
        self.release(instance)

    async def _attempt(self, instance: Instance, entry: Command) -> bool:
        handler, command = self._prepare(instance, entry)
        if handler is None:
            self.leaves(instance, entry)
            self._record_later(instance)  # what was accepted before it
            return False
        renewal = self._renew_later(instance)
        try:
            answer = handler(command, self._context(instance, entry) if handler.takes_context else None)
            if isinstance(answer, Awaitable):
                answer = await answer
            return await self._conclude(instance, entry, answer, None)
        except Exception as error:
            return await self._conclude(instance, entry, None, error)
        finally:
            renewal[0].cancel()

    async def _conclude(self, instance: Instance, entry: Command, answer: Any, error: Exception | None) -> bool:
        """Store the reply events, then note the acceptance; or the refusal; or wait for another attempt."""
        command_id = f"{instance.persistence_id}/{entry.id}"
        if error is None:
            try:
                index = 0
                trace = "" if self._engine.hooks is None else self._engine.hooks.trace_of(command_id)
                if isinstance(answer, AsyncIterable):
                    async for event in answer:
                        await self._reply(event, f"{command_id}/reply/{index}", trace)
                        index += 1
                elif answer is not None:
                    events = answer if isinstance(answer, (list, tuple)) or inspect.isgenerator(answer) else (answer,)
                    for event in events:
                        await self._reply(event, f"{command_id}/reply/{index}", trace)
                        index += 1
            except Exception as raised:
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

    async def _refuse(self, instance: Instance, entry: Command, command_id: str, refused: CommandRefused) -> None:
        command = instance.hosted.registry.unpack(entry.command)
        hooks = self._engine.hooks
        trace = "" if hooks is None else hooks.trace_of(command_id)
        self._engine.counters.refused += 1
        await instance.submit(Envelope(refusal(command, command_id, refused.reason, trace)))
        if hooks is not None:
            hooks.delivered(instance, entry, "refused", refused)

    def _accepted(self, instance: Instance, entry: Command) -> None:
        self._engine.counters.commands += 1
        if self._engine.hooks is not None:
            self._engine.hooks.delivered(instance, entry, "accepted")
        if instance.attempts is not None:
            instance.attempts.pop(entry.id, None)
        record = instance.record
        if record is not None and entry in record.outbox:
            instance.accepted |= {entry.id}

    def _failed(self, instance: Instance, entry: Command, error: Exception) -> bool:
        engine = self._engine
        engine.counters.dispatch_errors += 1
        if engine.hooks is not None:
            engine.hooks.delivered(instance, entry, "failed", error)
        if instance.attempts is None:
            instance.attempts = {}
        failures = instance.attempts[entry.id] = instance.attempts.get(entry.id, 0) + 1
        wait = engine.settings.dispatch_retry.wait_seconds(failures)
        log.warning(
            "saga %s, id %s: command %s was not accepted (attempt %d): %s",
            instance.hosted.name,
            instance.correlation_id,
            entry.command.type,
            failures,
            error if isinstance(error, SagalogError) else type(error).__name__,  # others may quote payloads
            extra=instance.about(command_id=f"{instance.persistence_id}/{entry.id}"),
        )
        if wait is None:
            reason = f"command {entry.command.type} was not accepted in {failures} attempts: {type(error).__name__}"
            del instance.attempts[entry.id]  # after a repair all attempts are there again
            instance.poke(Envelope(repair=_stick(entry.id, reason)))
            engine.counters.parked += 1
            if engine.hooks is not None:
                engine.hooks.parked(instance, reason)
            return False
        instance.retry = engine.loop.call_later(wait, self._again, instance)
        if wait > engine.settings.lease_seconds / 2:
            # Others may take over only after our next attempt, so that a dead broker does not cost a write a lease.
            instance.next_attempt_at = engine.now() + timedelta(seconds=wait)
            instance.poke(Envelope(upkeep=Upkeep.RENEW))
        return False

    def _again(self, instance: Instance) -> None:
        instance.retry = instance.next_attempt_at = None
        self.release(instance)

    def _renew_later(self, instance: Instance) -> list[asyncio.TimerHandle]:
        """Keep the lease while a handler takes long; the handle in the list is always the current one."""
        every = self._engine.settings.lease_seconds / 2
        handle: list[asyncio.TimerHandle] = []

        def renew() -> None:
            instance.poke(Envelope(upkeep=Upkeep.RENEW))
            handle[0] = self._engine.loop.call_later(every, renew)

        handle.append(self._engine.loop.call_later(every, renew))
        return handle

    def _watch(self, instance: Instance, entry: Command) -> None:
        """Wait for the worker that saved `entry`; claim it once its lease must have ended."""
        engine = self._engine
        now, lease = engine.loop.time(), engine.settings.lease_seconds
        if instance.foreign is None or instance.foreign[0] != entry.id:
            instance.foreign = (entry.id, now + lease)
        left = instance.foreign[1] - now

        def look() -> None:
            instance.retry = None
            if engine.stopping.is_set():
                return
            if engine.loop.time() >= (instance.foreign[1] if instance.foreign is not None else 0):
                instance.poke(Envelope(upkeep=Upkeep.CLAIM))
            else:
                if not instance.busy:
                    instance.loaded = False  # read back: it may be accepted and recorded by now
                instance.poke(Envelope(upkeep=Upkeep.RECORD))

        waited = lease - left
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
            if instance.accepted and not instance.busy:
                instance.poke(Envelope(upkeep=Upkeep.RECORD))
        if self._to_record:
            self._tick = self._engine.loop.call_later(max(0.0, self._to_record[0][0] - now), self._record_due)

    def stop(self) -> None:
        """Start nothing new; what is under way ends by itself."""
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        for instance in self._ready:
            instance.delivering = False
        self._ready.clear()


def _stick(entry: str, reason: str) -> Callable[[Draft], Awaitable[None]]:
    async def park(draft: Draft) -> None:
        record = draft.record
        if record is not None and any(command.id == entry for command in record.outbox):
            record.parked = record.parked or reason
            record.stuck = entry
            draft.touch()

    return park
