"""One gate: what commands of one type pass before they leave, and the line of those that wait for it.

A command passes when its type is not paused, its circuit not open (or it is the probe), and both rates have room.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING

from ..decision.controls import CommandPause
from ..decision.entries import Command
from .circuit import CircuitState
from .commands import CommandPolicy
from .instance import Instance
from .rate import Rate

if TYPE_CHECKING:
    from .shared_rate import SharedRate

_PROBE_SECONDS = 1.0  # between two looks at a probe that is under way


class InLine:
    """A command that waits at its gate. `cancel` takes it out of the line, as that of any pause before an attempt."""

    __slots__ = ("beside", "entry", "gate", "instance", "since", "stale")

    def __init__(self, gate: Gate, instance: Instance, entry: Command, since: float, *, beside: bool) -> None:
        self.gate: Gate = gate
        self.instance: Instance = instance
        self.entry: Command = entry
        self.since: float = since
        self.beside: bool = beside
        self.stale: bool = gate.pause is not None  # its record is to be read again before it leaves

    def cancel(self) -> None:
        """Wait no more."""
        self.gate.line.pop(self, None)


class Gate:
    """What commands of one type pass."""

    __slots__ = ("advancing", "away", "circuit", "line", "name", "pause", "rate", "shared", "timer")

    def __init__(
        self,
        name: str,
        policy: CommandPolicy | None,
        pause: CommandPause | None,
        shared: SharedRate | None,
        now: float,
    ) -> None:
        self.name: str = name
        self.pause: CommandPause | None = pause
        circuit = None if policy is None else policy.circuit
        self.circuit: CircuitState | None = None if circuit is None else CircuitState(circuit)
        self.away: tuple[datetime, str] | None = None  # since when its circuit is open, and what was raised last
        self.rate: Rate | None = None if policy is None or policy.rate is None else Rate(policy.rate, now)
        self.shared: SharedRate | None = shared
        self.line: dict[InLine, None] = {}
        self.timer: asyncio.TimerHandle | None = None  # when the next one may leave
        self.advancing: bool = False

    @property
    def shut(self) -> bool:
        """Commands of this type wait, however long that may be."""
        return self.pause is not None or (self.circuit is not None and self.circuit.is_open)

    def wait_seconds(self, now: float) -> float | None:
        """Return how long it is until the next one may leave; 0: it may leave now; None: nobody knows."""
        if self.pause is not None:
            return None
        circuit = self.circuit
        if circuit is not None and circuit.is_open:
            if circuit.probe is not None:
                if _under_way(circuit.probe):
                    return _PROBE_SECONDS
                circuit.probe = None
            if now < circuit.try_at:
                return circuit.try_at - now
        seconds = 0.0 if self.rate is None else self.rate.wait_seconds(now)
        return seconds if seconds > 0 or self.shared is None else self.shared.wait_seconds(now)

    @property
    def must_ask(self) -> bool:
        """What the next one waits for is this worker's part of a shared rate, where nobody knows how long that is."""
        return self.pause is None and self.shared is not None and not self.shared.asking

    def is_probe(self, instance: Instance, entry: Command) -> bool:
        """Say whether this is the one that asks whether the receiver is back."""
        return self.circuit is not None and self.circuit.probe == (instance, entry.id)

    def take(self, instance: Instance, entry: Command) -> None:
        """Let one leave."""
        if self.rate is not None:
            self.rate.take()
        if self.shared is not None:
            self.shared.take()
        if self.circuit is not None and self.circuit.is_open:
            self.circuit.probe = (instance, entry.id)


def _under_way(probe: object) -> bool:
    """Say whether the attempt that asks whether a receiver is back has not ended yet."""
    assert isinstance(probe, tuple)
    instance, entry = probe
    deliveries = instance.deliveries
    if entry in deliveries.answered or (deliveries.beside is not None and entry in deliveries.beside):
        return True
    return deliveries.delivering and (deliveries.attempt is None or deliveries.attempt[0] == entry)
