"""Commands of stored records leave here: in order per instance, bounded for each type.

    settle ─► [deliver] ─► attempt ─► command handler

Each type of command has its own places, so that one whose receiver hangs holds up no other. A command that this worker
cannot read, or has no handler for, is left to one that can.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, Awaitable
from typing import Any

from ..decision.ids import command_id
from ..decision.record import Command, SagaRecord
from ..errors import CodecError, DefinitionError, SagalogError
from ..logs import log
from .acceptances import Acceptances
from .answers import Answers, Reply
from .attempt import CommandAttempts, Handler
from .commands import CommandHandlers
from .context import in_command_handler
from .engine import Engine
from .envelope import Envelope, Maintenance
from .failures import ends_program
from .instance import Instance
from .lease import Leases

_SUSPECTS = ""  # the lane of commands that may end their workers
_GIVE_WAY_SECONDS = 0.005  # so long plain functions are called one after the other


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
        self._leases = Leases(engine)
        self._acceptances = Acceptances(engine)
        self._answers = Answers(engine, reply, self._leases)
        self._attempts = CommandAttempts(engine, handlers, self._answers, self._leases, self.release)
        self._answers.conclude = self._attempts.conclude
        self._answers.go_on = self._go_on
        self._lanes: dict[str, _Lane] = {}

    def release(self, instance: Instance) -> None:
        """Deliver what is in the outbox of a saved record; returns at once."""
        if instance.delivering or instance.retry is not None or self._engine.stopping.is_set():
            return
        entry = instance.undelivered()
        if entry is not None and entry == instance.declined:
            return
        if entry is not None and entry.id in instance.owned:
            self._leases.check(instance)
        if entry is None:
            self._answers.hurry(instance)
            self._acceptances.record_later(instance)
        elif entry.id not in instance.owned:
            self._leases.watch(instance, entry)
        elif self._suspects(instance, entry):
            instance.delivering = True
            self._enqueue(instance, _SUSPECTS, 1)
        else:
            instance.delivering = True
            self._deliver_plain(instance, entry)

    def _suspects(self, instance: Instance, entry: Command) -> bool:
        record = instance.record
        return record is not None and record.suspects(entry.id, self._engine.settings.max_takeovers)

    def _deliver_plain(self, instance: Instance, first: Command) -> None:
        """Deliver to plain functions that answer None, without a task; the first that is otherwise goes on in one."""
        # Nothing is awaited here, so the lease that `release` looked at still holds.
        give_way_at = self._engine.loop.time() + _GIVE_WAY_SECONDS
        entry: Command | None = first
        while entry is not None and entry.id in instance.owned:
            handler, command = self._attempts.prepare(instance, entry)
            if handler is None:
                self._give_up(instance, entry)
                return
            if handler.asynchronous:
                self._enqueue(instance, entry.command.type, handler.policy.places or self._engine.settings.max_dispatch)
                return
            token = in_command_handler.set(True)
            try:
                answer = handler(command, self._attempts.context(instance, entry) if handler.takes_context else None)
            except BaseException as error:
                if ends_program(error):  # nobody awaits here, so nobody can have cancelled
                    instance.delivering = False
                    raise
                self._engine.spawn(self._finish(instance, entry, None, error))
                return
            finally:
                in_command_handler.reset(token)
            if answer is None:
                self._attempts.accepted(instance, entry)
            elif not self._answers.set_aside(instance, entry, answer):
                self._engine.spawn(self._finish(instance, entry, answer, None, handler))
                return
            if self._engine.loop.time() > give_way_at:
                instance.delivering = False
                self._acceptances.record_later(instance)
                self._engine.loop.call_soon(self.release, instance)
                return
            entry = instance.undelivered()
        instance.delivering = False
        self._answers.hurry(instance)
        self._acceptances.record_later(instance)

    def _give_up(self, instance: Instance, entry: Command) -> None:
        instance.delivering = False
        self.declines(instance, entry)
        self._acceptances.record_later(instance)  # what was accepted before it

    def _enqueue(self, instance: Instance, name: str, places: int) -> None:
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = _Lane(places)
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
                    self._acceptances.record_later(instance)
                    self.release(instance)
                    continue
                handler, command = self._attempts.prepare(instance, entry)
                if handler is None:
                    self._give_up(instance, entry)
                    continue
                alone = lane is self._lanes.get(_SUSPECTS)
                try:
                    ours = not alone or await self._begin_alone(instance, entry)
                    accepted = ours and await self._attempts.carry_out(instance, entry, handler, None, command)
                    if alone:
                        await self._end_alone(instance)
                finally:
                    instance.delivering = False
                if not ours:
                    self.release(instance)
                if accepted:
                    self._go_on(instance)
        finally:
            lane.running -= 1
            if lane.ready and lane.running == 0 and not self._engine.stopping.is_set():  # this task was cancelled
                lane.running += 1
                self._engine.spawn(self._work(lane))

    async def _begin_alone(self, instance: Instance, entry: Command) -> bool:
        """Record that the attempt at a command begins which may end its worker; False if it is not ours to deliver now.

        It is the only one of its kind here, so that no other is blamed for what the worker dies of.
        """
        if instance.record is not None and not instance.record.begun:
            await self._record(instance, Maintenance.BEGIN)
        begun = instance.record is not None and instance.record.begun
        return begun and self._deliverable(instance) == entry

    async def _end_alone(self, instance: Instance) -> None:
        """Record what came of it before the next command leaves, or this one would be blamed for what that one does."""
        await self._answers.stored(instance)
        if instance.accepted:
            await self._record(instance, Maintenance.RECORD)

    async def _record(self, instance: Instance, what: Maintenance) -> None:
        try:
            await instance.submit(Envelope(maintenance=what))
        except SagalogError:  # the journal is away: the outbox is looked at again
            if instance.retry is None:
                seconds = self._engine.settings.lease_seconds / 4
                instance.retry = self._engine.loop.call_later(seconds, self._attempts.again, instance)

    async def _finish(
        self,
        instance: Instance,
        entry: Command,
        answer: Any,
        error: BaseException | None,
        handler: Handler | None = None,
    ) -> None:
        in_command_handler.set(True)
        try:
            if handler is not None and isinstance(answer, (Awaitable, AsyncIterable)):  # as of a lambda
                accepted = await self._attempts.carry_out(instance, entry, handler, answer)
            else:
                accepted = await self._attempts.conclude(instance, entry, answer, error)
        finally:
            instance.delivering = False
        if accepted:
            self._go_on(instance)

    def _go_on(self, instance: Instance) -> None:
        self._acceptances.record_later(instance)
        self.release(instance)

    def _deliverable(self, instance: Instance) -> Command | None:
        if self._engine.stopping.is_set():
            return None
        self._leases.check(instance)
        entry = instance.undelivered()
        return entry if entry is not None and entry.id in instance.owned else None

    def declines(self, instance: Instance, entry: Command) -> bool:
        """Say whether this worker cannot deliver `entry`, the first of the outbox: then it is left to one that can.

        Trying again here helps nobody, and keeping the lease, or parking the instance for good, would keep out a worker
        with newer code. What this code should be able to read, by its version, no other can: that parks the instance.
        """
        command, size = instance.runtime.unrecorded.get(instance.correlation_id, ("", 0))
        if command == entry.id and instance.size >= size:
            return True
        if command:
            del instance.runtime.unrecorded[instance.correlation_id]
        try:
            self._attempts.handler_of(instance, entry)
        except (CodecError, DefinitionError) as error:
            runtime = instance.runtime
            if isinstance(error, CodecError) and runtime.registry.is_current(entry.command):
                instance.owned -= {entry.id}
                self._attempts.unreadable(instance, entry, error)
                return True
            instance.declined = entry
            instance.owned -= {entry.id}
            runtime.declined.add(instance.correlation_id, self._engine.now())
            self._engine.counters.dispatch_errors += 1
            self._attempts.tell(instance, entry, "failed", error)
            log.warning(
                "saga %s, id %s: command %s is left to another worker: %s",
                runtime.name,
                instance.correlation_id,
                entry.command.type,
                error,
                extra=instance.about(command_id=command_id(instance.persistence_id, entry.id)),
            )
            return True
        instance.declined = None
        return False

    def cut(self, instance: Instance, record: SagaRecord | None) -> None:
        """End the attempt at a command that is not in the outbox of `record` any more: an operator dropped it."""
        self._attempts.cut(instance, record)

    def stop(self) -> None:
        """Start nothing new; what is under way ends by itself."""
        self._acceptances.stop()
        self._answers.stop()
        for lane in self._lanes.values():
            for instance in lane.ready:
                instance.delivering = False
            self._engine.backlog -= len(lane.ready)
            lane.ready.clear()

    def close(self) -> None:
        """Nothing is under way any more."""
        self.stop()
        self._leases.stop()
