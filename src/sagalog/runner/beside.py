"""Commands that are carried out beside the others of their instance: activities that are ready run together.

    deliver ─► [beside] ─► attempt ─► the method of an activity

They leave in the order of the outbox, and none waits for one before it; an undo command waits for all of them. Each type
has its own places, as for other commands.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeAlias

from ..decision.entries import Command
from .attempt import CommandAttempts, Handler
from .conclusion import Conclusions
from .engine import Engine
from .gates import Gates
from .instance import Instance
from .lanes import Lanes
from .lease import Leases

_Waiting: TypeAlias = tuple[Instance, Command, Handler, Any]


class Beside:
    """The commands of all instances that are carried out beside others. `go_on`: called when one has ended."""

    def __init__(
        self,
        engine: Engine,
        attempts: CommandAttempts,
        conclusions: Conclusions,
        gates: Gates,
        leases: Leases,
        go_on: Callable[[Instance], None],
    ) -> None:
        self._engine = engine
        self._attempts = attempts
        self._gates = gates
        self._leases = leases
        self._go_on = go_on
        self._lanes: Lanes[_Waiting] = Lanes(engine, self._serve, hands_over=True)
        self._pausing: set[Instance] = set()
        conclusions.pause_beside = self._pause
        gates.again_beside = self._again

    def begin(self, instance: Instance, entry: Command, handler: Handler, command: Any, places: int) -> None:
        """Carry out a command as soon as there is a place for it; returns at once."""
        instance.deliveries.begin_beside(entry.id)
        self._leases.keep(instance)
        self._lanes.put(entry.command.type, places, (instance, entry, handler, command))

    async def _serve(self, waiting: _Waiting) -> None:
        instance, entry, handler, command = waiting
        over = True
        try:
            if self._deliverable(instance, entry):
                if self._gates.active and not self._gates.passes(instance, entry, beside=True):
                    over = instance.deliveries.pausing is not None and entry.id in instance.deliveries.pausing
                    if over:
                        self._pausing.add(instance)
                    # else its record is being read, and it is released again then: going on now would ask without end
                else:
                    over = await self._attempts.carry_out_beside(instance, entry, handler, command)
        finally:
            self._ended(instance, entry)
        if over:
            self._go_on(instance)

    def _deliverable(self, instance: Instance, entry: Command) -> bool:
        """Say whether it is still ours to carry out."""
        if self._engine.stopping.is_set():
            return False
        self._leases.check(instance)
        record = instance.cached.record
        if entry.id not in instance.deliveries.owned or record is None or record.stuck:
            return False
        for other in record.outbox:  # noqa: SIM110  (`any` makes a generator, for each call)
            if other.id == entry.id:
                return True
        return False

    def _ended(self, instance: Instance, entry: Command) -> None:
        if instance.deliveries.end_beside(entry.id):
            self._leases.let_go(instance)

    def _pause(self, instance: Instance, entry: Command, seconds: float) -> None:
        """Carry it out again after a pause, in which nothing else of its instance waits for it."""
        self._pausing.add(instance)
        instance.deliveries.pause(entry.id, self._engine.loop.call_later(seconds, self._again, instance, entry))
        if seconds > self._engine.seconds.lease / 2:
            # Others may take over only after our next attempt, so that a dead service does not cost a write a lease.
            next_at = self._engine.now() + timedelta(seconds=seconds)
            instance.deliveries.lease_from(max(instance.deliveries.next_attempt_at or next_at, next_at))
            self._leases.prolong(instance)

    def _again(self, instance: Instance, entry: Command) -> None:
        instance.deliveries.resume(entry.id)
        if instance.deliveries.pausing is None:
            self._pausing.discard(instance)
        self._go_on(instance)

    def stop(self) -> None:
        """Start nothing new."""
        self._lanes.stop(lambda waiting: self._ended(*waiting[:2]))
        for instance in self._pausing:
            for entry in list(instance.deliveries.pausing or ()):
                if (waited := instance.deliveries.resume(entry)) is not None:
                    waited.cancel()
        self._pausing.clear()
