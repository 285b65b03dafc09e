"""Delivers the commands of stored records: in order for each instance, bounded for each type.

    settle ─► [deliver] ─► attempt ─► command handler

Each type of command has places of its own, so a type whose receiver hangs delays no other. This worker declines a
command that it cannot read or has no handler for, so that another worker can take it.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Mapping
from typing import Any, TypeAlias

from ..decision.entries import Command
from ..decision.record import SagaRecord
from ..errors import CodecError, DefinitionError, SagalogError, SagaParkedError
from ..journal import Journal
from .acceptances import Acceptances
from .answers import Answers, Reply
from .attempt import CommandAttempts, Handler
from .beside import Beside
from .cache import InstanceCache
from .children import Children
from .commands import CommandHandlers
from .conclusion import Conclusions
from .context import in_command_handler
from .engine import STRETCH_SECONDS, Engine
from .envelope import Envelope, Maintenance
from .failures import ends_program
from .gates import Gates
from .instance import Instance
from .lanes import Lanes
from .lease import Leases

Prepared: TypeAlias = tuple[Instance, Command, Handler | None, Any]
"""The next command of an instance, what carries it out, and the command as it is given to that."""


class Dispatcher:
    """Delivers the outboxes of instances."""

    def __init__(
        self,
        engine: Engine,
        handlers: CommandHandlers,
        caches: Mapping[str, InstanceCache],
        reply: Reply,
        journal: Journal | None,
    ) -> None:
        self._engine = engine
        self._leases = Leases(engine)
        self._acceptances = Acceptances(engine)
        self._answers = Answers(engine, reply, self._leases)
        children = Children(engine, caches, self._answers.moment)
        gates = Gates(engine, self._leases, handlers, journal)
        self.gates: Gates = gates
        conclusions = Conclusions(engine, handlers, self._answers, self._leases, gates, self.release)
        self._conclusions = conclusions
        self._attempts = CommandAttempts(engine, handlers, self._answers, self._leases, children, conclusions)
        gates.again = self._conclusions.again
        self._answers.conclude = self._conclusions.conclude
        self._answers.go_on = self._go_on
        self._beside = Beside(engine, self._attempts, conclusions, gates, self._leases, self._go_on)
        self._lanes: Lanes[Prepared] = Lanes(engine, self._serve_prepared)
        self._suspects = Lanes(engine, self._serve_suspected)

    def release(self, instance: Instance) -> None:
        """Start delivering the outbox of a saved record, and return at once."""
        deliveries = instance.deliveries
        if deliveries.delivering or self._engine.stopping.is_set():
            return
        if deliveries.retry is not None and not self.gates.withdraw_outdated(instance):
            return
        entry = instance.undelivered()
        if entry is not None and entry == deliveries.declined:
            return
        if entry is not None and entry.id in deliveries.owned:
            self._leases.check(instance)
        if entry is None:
            if deliveries.answered:
                self._answers.hurry(instance)
            self._acceptances.record_later(instance)
        elif entry.id not in deliveries.owned:
            self._wait_for_others(instance, entry)
        else:
            deliveries.delivering = True
            record = instance.cached.record
            if record is not None and record.taken and record.suspects(entry.id, self._engine.settings.max_takeovers):
                self._suspects.put("", 1, instance)  # one in this worker, whatever its type
            else:
                self._deliver_plain(instance, entry)

    def _deliver_plain(self, instance: Instance, first: Command) -> None:
        """Deliver to plain functions that return None, without a task. The first other command continues in a task."""
        # Nothing is awaited here, so the lease that `release` checked still holds.
        give_way_at = self._engine.loop.time() + STRETCH_SECONDS
        entry: Command | None = first
        while entry is not None and entry.id in instance.deliveries.owned:
            handler, command = self._attempts.prepare(instance, entry)
            if handler is None:
                self._give_up(instance, entry)
                return
            if handler.beside:
                self._beside.begin(instance, entry, handler, command, self._places(handler))
                entry = instance.undelivered()
                continue
            if handler.asynchronous:
                self._lanes.put(entry.command.type, self._places(handler), (instance, entry, handler, command))
                return
            if self.gates.active and not self.gates.passes(instance, entry):
                break
            token = in_command_handler.set(True)
            try:
                answer = handler(command, self._attempts.context(instance, entry) if handler.takes_context else None)
            except BaseException as error:
                if ends_program(error):  # nothing is awaited here, so nobody can have cancelled it
                    instance.deliveries.delivering = False
                    raise
                self._engine.spawn(self._finish(instance, entry, None, error))
                return
            finally:
                in_command_handler.reset(token)
            if answer is None:
                self._conclusions.accepted(instance, entry)
            elif not self._answers.set_aside(instance, entry, answer):
                self._engine.spawn(self._finish(instance, entry, answer, None, handler))
                return
            if self._engine.loop.time() > give_way_at:
                instance.deliveries.delivering = False
                self._acceptances.record_later(instance)
                self._engine.loop.call_soon(self.release, instance)
                return
            entry = instance.undelivered()
        instance.deliveries.delivering = False
        if instance.deliveries.answered:
            self._answers.hurry(instance)
        self._acceptances.record_later(instance)
        if entry is not None:
            self._wait_for_others(instance, entry)

    def _wait_for_others(self, instance: Instance, entry: Command) -> None:
        """Look now and then what has become of the next command if it is another worker's."""
        if entry.id not in instance.deliveries.owned and not self._engine.client:
            self._leases.watch(instance, entry)

    def _give_up(self, instance: Instance, entry: Command) -> None:
        instance.deliveries.delivering = False
        self.declines(instance, entry)
        self._acceptances.record_later(instance)  # what was accepted before it

    def _places(self, handler: Handler) -> int:
        return handler.policy.places or self._engine.settings.max_dispatch

    async def _serve_prepared(self, prepared: Prepared) -> None:
        await self._serve(prepared[0], prepared)

    async def _serve(self, instance: Instance, prepared: Prepared | None = None, *, suspected: bool = False) -> None:
        """Carry out the next command of an instance. `suspected`: one that may kill its worker."""
        entry = self._deliverable(instance)
        if entry is None:
            instance.deliveries.delivering = False
            self._acceptances.record_later(instance)
            self.release(instance)
            return
        if prepared is not None and prepared[1] is entry:
            handler, command = prepared[2:]
        else:
            handler, command = self._attempts.prepare(instance, entry)
        if handler is None:
            self._give_up(instance, entry)
            return
        if self.gates.active and not self.gates.passes(instance, entry):
            instance.deliveries.delivering = False
            self._acceptances.record_later(instance)
            return
        try:
            ours = not suspected or await self._begin_suspected(instance, entry)
            ours = ours and not (suspected and self.gates.active and self.gates.stops(instance, entry))
            accepted = ours and await self._attempts.carry_out(instance, entry, handler, None, command)
            if suspected:
                await self._end_suspected(instance)
        finally:
            instance.deliveries.delivering = False
        if not ours:
            self.release(instance)
        if accepted:
            self._go_on(instance)

    async def _serve_suspected(self, instance: Instance) -> None:
        await self._serve(instance, suspected=True)

    async def _begin_suspected(self, instance: Instance, entry: Command) -> bool:
        """Record that an attempt begins at a command that may kill its worker. Returns False if it is not ours any more.

        Only one such attempt runs at a time, so that no other command is blamed if the worker dies.
        """
        if instance.cached.record is not None and not instance.cached.record.begun:
            await self._record(instance, Maintenance.BEGIN)
        begun = instance.cached.record is not None and instance.cached.record.begun
        return begun and self._deliverable(instance) == entry

    async def _end_suspected(self, instance: Instance) -> None:
        """Record the result before the next command leaves. Otherwise this command would be blamed for the next one."""
        await self._answers.stored(instance)
        if instance.deliveries.accepted:
            await self._record(instance, Maintenance.RECORD)

    async def _record(self, instance: Instance, what: Maintenance) -> None:
        try:
            await instance.submit(Envelope(what))
        except SagalogError:  # the journal is away; the outbox is tried again later
            if instance.deliveries.retry is None:
                seconds = self._engine.seconds.lease / 4
                instance.deliveries.wait(self._engine.loop.call_later(seconds, self._conclusions.again, instance))

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
                accepted = await self._conclusions.conclude(instance, entry, answer, error)
        finally:
            instance.deliveries.delivering = False
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
        return entry if entry is not None and entry.id in instance.deliveries.owned else None

    def declines(self, instance: Instance, entry: Command) -> bool:
        """Say whether this worker declines `entry`, the first of the outbox, because only other code can deliver it.

        Trying again here would not help, and keeping the lease or parking the instance would keep out a worker with newer
        code. A command that this code should be able to read, by its version, but cannot, parks the instance instead.
        """
        command, size = instance.runtime.unrecorded.get(instance.correlation_id, ("", 0))
        if command == entry.id and instance.cached.size >= size:
            return True
        if command:
            del instance.runtime.unrecorded[instance.correlation_id]
        try:
            self._attempts.handler_of(instance, entry)
        except (CodecError, DefinitionError, SagaParkedError) as error:
            if isinstance(error, CodecError) and instance.runtime.registry.is_current(entry.command):
                instance.deliveries.disown(entry.id)
                self._conclusions.unreadable(instance, entry, error)
            else:
                self._conclusions.decline(instance, entry, error)
            return True
        instance.deliveries.decline_nothing()
        return False

    def cut(self, instance: Instance, record: SagaRecord | None) -> None:
        """End the attempt at a command that is not in the outbox of `record` any more, because an operator dropped it."""
        self._attempts.cut(instance, record)

    def stop(self) -> None:
        """Start no more deliveries. Those under way end by themselves."""
        self.gates.stop()
        self._acceptances.stop()
        self._answers.stop()
        self._beside.stop()
        self._lanes.stop(lambda prepared: _deliver_no_more(prepared[0]))
        self._suspects.stop(_deliver_no_more)

    def close(self) -> None:
        """Cancel what was to be recorded later; nothing is under way any more."""
        self.stop()
        self._leases.stop()


def _deliver_no_more(instance: Instance) -> None:
    instance.deliveries.delivering = False
