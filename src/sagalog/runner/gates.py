"""What a command passes before it leaves: whether its type is paused, its receiver away, or its rate used up.

    deliver, beside ─► [gates] ─► attempt ─► command handler
                          └─► a line: each leaves in the order it came, once it may

What waits at its gate is no failed attempt, and no place is taken by it. It stays its worker's: the lease is prolonged by
moving `due_at` alone, less and less often, as while a receiver is away. What has waited for long is read again before it
leaves: an operator may have dropped it meanwhile.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ..decision.controls import CommandPause, Controls, reasons_of
from ..decision.entries import Command
from ..errors import BrokerError, SagalogError
from ..journal import Journal
from ..logs import about, log
from .answers import AnswerError
from .commands import CommandHandlers, CommandPolicy
from .engine import STRETCH_SECONDS, Engine
from .envelope import Envelope, Maintenance
from .failures import is_permanent
from .gate import Gate, InLine
from .hooks import CircuitChange
from .instance import Instance
from .lease import MAX_LEASES, Leases

if TYPE_CHECKING:
    from .circuit_reports import CircuitReports
    from .shared_rate import SharedRate

_TURN_SECONDS = 0.05  # until turns have ended in whose middle something cannot be read again


class Gates:
    """The gates of all command types. `again`, `again_beside`: called for what may leave now."""

    def __init__(self, engine: Engine, leases: Leases, handlers: CommandHandlers, journal: Journal | None) -> None:
        self._engine = engine
        self._journal = journal
        self._reports: CircuitReports | None = None  # once any circuit has opened
        self._leases = leases
        self._handlers = handlers
        self._gates: dict[str, Gate] = {}
        self._controls = Controls()
        self._renewals: list[tuple[float, int, InLine]] = []
        self._renewing: asyncio.TimerHandle | None = None
        self._number = 0
        self.active: bool = handlers.gated  # else there is nothing to pass
        self.again: Callable[[Instance], None]
        self.again_beside: Callable[[Instance, Command], None]

    def all(self) -> list[Gate]:
        """Return the gates that were used so far."""
        return list(self._gates.values())

    @property
    def moving(self) -> bool:
        """Something is about to leave a line."""
        return any(gate.advancing for gate in self._gates.values())

    def reasons(self) -> Iterator[str]:
        """Yield why commands do not leave, a sentence for each type."""
        yield from reasons_of(self._controls)
        for name, since, failures, error in self._open():
            yield (
                f"commands {name} wait, because their receiver has been away since {since:%Y-%m-%d %H:%M:%S} UTC: "
                f"{failures} "
                f"attempts in a row have failed, the last with {error}"
            )

    def controlled(self, controls: Controls) -> None:
        """Hear what operators have said: from now on nothing leaves that is paused."""
        self._controls = controls
        self.active = self.active or bool(controls.paused)  # and stays so: what was let through has still to pass
        for gate in self._gates.values():
            gate.pause = controls.pause_of(gate.name)
            if gate.pause is None:
                self._advance_soon(gate)
            else:
                for waiter in gate.line:
                    waiter.stale = True

    def _gate(self, instance: Instance, entry: Command) -> Gate | None:
        name = entry.command.type
        gate = self._gates.get(name)
        if gate is None:
            pause = self._controls.pause_of(name)
            cls = instance.runtime.registry.get(name)
            handler = None if cls is None else self._handlers.get(cls)
            policy = None if handler is None or not handler.policy.gated else handler.policy
            if (pause is None and policy is None) or entry.family:
                return None
            gate = self._gates[name] = self._made(name, policy, pause)
        return gate

    def _made(self, name: str, policy: CommandPolicy | None, pause: CommandPause | None) -> Gate:
        engine, shared = self._engine, None
        journal = None if engine.alone else self._journal  # a log is no shared work
        if policy is not None and policy.shared_rate is not None and journal is not None:
            from .shared_rate import SharedRate  # few need it

            shared = SharedRate(journal, name, policy.shared_rate, engine.now, engine.loop.time)
        return Gate(name, policy, pause, shared, engine.loop.time())

    def _open(self) -> Iterator[tuple[str, datetime, int, str]]:
        """Yield the open circuits: of which type, since when, after how many failures, and what was raised last."""
        for gate in self._gates.values():
            if gate.circuit is not None and gate.circuit.is_open and gate.away is not None:
                yield gate.name, gate.away[0], gate.circuit.failures, gate.away[1]

    def shut(self, instance: Instance, entry: Command) -> bool:
        """Say whether a command waits now, through no fault of a worker."""
        if not self.active or entry.family:
            return False
        gate = self._gate(instance, entry)
        return gate is not None and gate.shut

    def passes(self, instance: Instance, entry: Command, *, beside: bool = False) -> bool:
        """Say whether a command leaves now. If not, it stands in line, and `again` is called for it later."""
        gate = None if entry.family else self._gate(instance, entry)
        if gate is None:
            return True
        through = entry.id in instance.deliveries.let_through
        if through:
            if not instance.cached.loaded:  # it is being read, and released again then
                return False
            instance.deliveries.let_through -= {entry.id}
            if not gate.shut or (gate.pause is None and gate.is_probe(instance, entry)):
                return True
        elif not gate.line and not gate.shut and gate.wait_seconds(self._engine.loop.time()) == 0.0:
            gate.take(instance, entry)
            return True
        self._stand(gate, instance, entry, beside=beside)
        return False

    def stops(self, instance: Instance, entry: Command) -> bool:
        """Say whether the type of a command that has passed was paused since; then it stands in line again."""
        gate = None if entry.family else self._gates.get(entry.command.type)
        if gate is None or gate.pause is None:
            return False
        self._stand(gate, instance, entry, beside=False)
        return True

    def _stand(self, gate: Gate, instance: Instance, entry: Command, *, beside: bool) -> None:
        waiter = InLine(gate, instance, entry, self._engine.loop.time(), beside=beside)
        gate.line[waiter] = None
        if beside:
            instance.deliveries.pause(entry.id, waiter)
        else:
            instance.deliveries.wait(waiter)
        self._renew_later(waiter, self._lease_seconds_left(instance) - self._engine.seconds.lease / 2)
        self._advance_soon(gate)

    def withdraw_outdated(self, instance: Instance) -> bool:
        """Take what an instance has in a line out of there if it is not its next command any more; say whether it was."""
        waiter = instance.deliveries.retry
        if not isinstance(waiter, InLine) or waiter.entry == instance.undelivered():
            return False
        waiter.cancel()
        instance.deliveries.end_pause()
        return True

    def told(self, entry: Command, outcome: str, error: BaseException | None) -> None:
        """Hear what became of an attempt."""
        gate = self._gates.get(entry.command.type)
        if gate is None or gate.circuit is None:
            return
        if outcome != "failed" or isinstance(error, AnswerError):
            if gate.circuit.answered():
                gate.away = None
                self._changed(gate, "closed", "")
                self._advance_soon(gate)
        elif error is not None and _is_receivers(error):
            raised = type(error).__name__
            if gate.circuit.failed(self._engine.loop.time()):
                gate.away = self._engine.now(), raised
                self._changed(gate, "open", raised)
            elif gate.away is not None:
                gate.away = gate.away[0], raised
            self._advance_soon(gate)

    def _changed(self, gate: Gate, state: str, error: str) -> None:
        failures = 0 if gate.circuit is None else gate.circuit.failures
        if error:
            log.warning(
                "commands %s wait: %d attempts in a row failed, the last with %s",
                gate.name,
                failures,
                error,
                extra=about(),
            )
        else:
            log.warning("commands %s leave again: their receiver has answered", gate.name, extra=about())
        self._engine.hooks.tell("circuit_changed", CircuitChange(gate.name, state, failures, error))
        if self._reports is None:
            from .circuit_reports import CircuitReports  # few need it

            self._reports = CircuitReports(self._engine, self._journal, self._open)
        self._reports.changed()

    def _advance_soon(self, gate: Gate) -> None:
        if not gate.advancing and gate.line and not self._engine.stopping.is_set():
            gate.advancing = True
            self._engine.loop.call_soon(self._advance, gate)

    def _advance(self, gate: Gate) -> None:
        """Let through as many as may leave now, and look again when the next one may."""
        gate.advancing = False
        if gate.timer is not None:
            gate.timer.cancel()
            gate.timer = None
        loop = self._engine.loop
        give_way_at = loop.time() + STRETCH_SECONDS
        while gate.line and not self._engine.stopping.is_set():
            now = loop.time()
            seconds = gate.wait_seconds(now)
            if seconds is None:
                if gate.shared is not None and gate.must_ask:
                    gate.shared.asking = True
                    self._engine.spawn(self._ask(gate, gate.shared))
                return
            if seconds > 0:
                gate.timer = loop.call_later(seconds, self._advance, gate)
                return
            if now > give_way_at:
                self._advance_soon(gate)
                return
            waiter = next((one for one in gate.line if self._can_leave(one, now)), None)
            if waiter is None:
                gate.timer = loop.call_later(_TURN_SECONDS, self._advance, gate)
                return
            waiter.cancel()
            self._let_through(waiter)

    async def _ask(self, gate: Gate, shared: SharedRate) -> None:
        try:
            await shared.ask(len(gate.line))
        finally:
            shared.asking = False
            self._advance_soon(gate)

    def _must_be_read(self, waiter: InLine, now: float) -> bool:
        return waiter.stale or now - waiter.since > self._engine.seconds.lease / 2

    def _can_leave(self, waiter: InLine, now: float) -> bool:
        """Say whether it can be read again where it must be: not in the middle of a turn."""
        return not waiter.instance.under_way or not self._must_be_read(waiter, now)

    def _let_through(self, waiter: InLine) -> None:
        instance, entry = waiter.instance, waiter.entry
        if entry.id in instance.deliveries.owned:
            waiter.gate.take(instance, entry)
            instance.deliveries.let_through |= {entry.id}
        if self._must_be_read(waiter, self._engine.loop.time()):
            instance.read_again()  # what is not loaded does not leave
            instance.poke(Envelope(Maintenance.RECORD))
        if waiter.beside:
            self.again_beside(instance, entry)
        else:
            self.again(instance)

    def _lease_seconds_left(self, instance: Instance) -> float:
        """Return how many seconds of its lease are left."""
        end = instance.deliveries.lease_end
        return 0.0 if end is None else (end - self._engine.now()).total_seconds()

    def _renew_later(self, waiter: InLine, seconds: float) -> None:
        if self._engine.alone:
            return
        self._number += 1
        at = self._engine.loop.time() + max(seconds, 0.0)
        heapq.heappush(self._renewals, (at, self._number, waiter))
        if self._renewals[0][2] is waiter:
            if self._renewing is not None:
                self._renewing.cancel()
            self._renewing = self._engine.loop.call_at(at, self._renew)

    def _renew(self) -> None:
        """Prolong the leases that end soon, of what waits still."""
        self._renewing = None
        loop, lease = self._engine.loop, self._engine.seconds.lease
        give_way_at = loop.time() + STRETCH_SECONDS
        again: list[tuple[InLine, float]] = []
        while self._renewals and self._renewals[0][0] <= loop.time() <= give_way_at:
            waiter = heapq.heappop(self._renewals)[2]
            instance = waiter.instance
            if waiter not in waiter.gate.line:
                continue
            if waiter.entry.id not in instance.deliveries.owned:  # another worker has claimed it
                waiter.cancel()
                self._let_through(waiter)
                continue
            left = self._lease_seconds_left(instance)
            if left > lease * 0.6:
                again.append((waiter, left - lease / 2))
                continue
            # For as long as it has waited: what waits for a moment is soon another's if we die, and what waits for days
            # costs no write a lease.
            waits = min(max(loop.time() - waiter.since, lease), MAX_LEASES * lease)
            instance.deliveries.lease_from(self._engine.now() + timedelta(seconds=waits))
            self._leases.prolong(instance)
            again.append((waiter, lease / 4))  # the journal may not take it
        for waiter, seconds in again:
            self._renew_later(waiter, seconds)
        if self._renewals and self._renewing is None and not self._engine.stopping.is_set():
            self._renewing = loop.call_at(self._renewals[0][0], self._renew)

    def stop(self) -> None:
        """Let nothing more through."""
        if self._renewing is not None:
            self._renewing.cancel()
            self._renewing = None
        self._renewals.clear()
        if self._reports is not None:
            self._reports.stop()
        for gate in self._gates.values():
            if gate.timer is not None:
                gate.timer.cancel()
                gate.timer = None


def _is_receivers(error: BaseException) -> bool:
    """Say whether an attempt failed at its receiver: not by a mistake in code, and not at what we do with the answer."""
    return not is_permanent(error) and (isinstance(error, BrokerError) or not isinstance(error, SagalogError))
