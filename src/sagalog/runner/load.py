"""What a runner has on its hands at the moment, for gauges. Looking costs a walk over the instances in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from .dispatch import Dispatcher
    from .hosted import Hosted
    from .receive import Receiver


class SagaLoad(msgspec.Struct, frozen=True):
    """One saga's share. `undelivered`: by correlation id, the first command that is ours to deliver, by its entry id."""

    name: str
    cached: int = 0
    mailbox_messages: int = 0
    undelivered: dict[str, str] = {}


class Load(msgspec.Struct, frozen=True):
    """Events inside `handle`, instances that wait for a free place to deliver, and what each saga has."""

    in_flight: int = 0
    dispatch_waiting: int = 0
    sagas: tuple[SagaLoad, ...] = ()


def load_of(receiver: Receiver, dispatcher: Dispatcher, hosted: list[Hosted]) -> Load:
    """Look; may be called from another thread than the runner's."""
    return Load(receiver.in_flight, dispatcher.backlog, tuple(_of(one) for one in hosted))


def _of(hosted: Hosted) -> SagaLoad:
    waiting, undelivered = 0, {}
    instances = list(hosted.instances.values())
    for instance in instances:
        waiting += len(instance.mailbox) + len(instance.waiting)
        if instance.owned and (entry := instance.undelivered()) is not None and entry.id in instance.owned:
            undelivered[instance.correlation_id] = entry.id
    return SagaLoad(hosted.name, len(instances), waiting, undelivered)
