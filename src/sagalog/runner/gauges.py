"""What a runner is busy with at the moment, for gauges. To collect it costs a walk over the instances in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from .cache import InstanceCache
from .engine import Engine
from .gates import Gates
from .receive import Receiver

if TYPE_CHECKING:
    from ..brokers.counts import SourceGauges


class SagaGauges(msgspec.Struct, frozen=True):
    """One saga's share. `undelivered`: by correlation id, the first command that is ours to deliver, by its entry id."""

    name: str
    cached: int = 0
    mailbox_messages: int = 0
    undelivered: dict[str, str] = {}


class CommandGauges(msgspec.Struct, frozen=True):
    """What may have to wait, of one command type: how many do, and whether because it is paused, or its circuit open."""

    name: str
    waiting: int = 0
    paused: bool = False
    circuit_open: bool = False


class Gauges(msgspec.Struct, frozen=True):
    """Events inside `handle`, instances that wait for a free place to deliver, what each saga has, and each source.

    `commands`: by type, where any had to wait since the start.
    """

    in_flight: int = 0
    dispatch_waiting: int = 0
    sagas: tuple[SagaGauges, ...] = ()
    sources: tuple[SourceGauges, ...] = ()
    commands: tuple[CommandGauges, ...] = ()


def gauges_of(receiver: Receiver, engine: Engine, caches: list[InstanceCache], gates: Gates) -> Gauges:
    """Collect the gauges. May be called from another thread than the runner's."""
    commands = tuple(
        CommandGauges(
            gate.name, len(gate.line), gate.pause is not None, gate.circuit is not None and gate.circuit.is_open
        )
        for gate in gates.all()
    )
    return Gauges(receiver.in_flight, engine.backlog, tuple(_of(one) for one in caches), commands=commands)


def _of(cache: InstanceCache) -> SagaGauges:
    waiting, undelivered = 0, {}
    instances = list(cache.instances.values())
    for instance in instances:
        waiting += len(instance.mailbox) + len(instance.waiting)
        ours = instance.deliveries.owned
        if ours and (entry := instance.undelivered()) is not None and entry.id in ours:
            undelivered[instance.correlation_id] = entry.id
    return SagaGauges(cache.runtime.name, len(instances), waiting, undelivered)
