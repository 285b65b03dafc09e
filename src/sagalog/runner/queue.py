"""Which instances have work, first come first served.

    receive, due, repair, deliver ─► mailbox of an instance ─► [queue] ─► load, decide

An instance takes part in one round at a time (`under_way`); what comes meanwhile waits in its mailbox. That is all the
serialising there is. Instances do not wait for each other.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar


class Queued(Protocol):
    """What stands in a queue: an instance, see instance.py."""

    ready: bool
    under_way: bool


T = TypeVar("T", bound=Queued)
T_contra = TypeVar("T_contra", bound=Queued, contravariant=True)


class Driver(Protocol[T_contra]):
    """What carries instances through a round; see round.py."""

    def wake(self) -> None:
        """Start a round soon: an instance is ready."""

    def idle(self) -> bool:
        """Say whether no round is under way and none was asked for."""

    async def run_lone(self, instance: T_contra) -> None:
        """Carry one instance through a round of its own, in the task of its caller."""


class Queue(Generic[T]):
    """The instances that have work and are in no round."""

    def __init__(self) -> None:
        self.instances: deque[T] = deque()
        self.driver: Driver[T]

    def add(self, instance: T) -> None:
        """Note that an instance has work. Calling it again has no effect."""
        if not (instance.ready or instance.under_way):
            instance.ready = True
            self.instances.append(instance)
            self.driver.wake()

    def take(self) -> T:
        """Return the first instance; it is in a round from now on, until `leave`."""
        instance = self.instances.popleft()
        instance.ready = False
        instance.under_way = True
        return instance

    def take_lone(self, instance: T) -> None:
        """Note that an instance that has just got work is in a round of its own, until `leave`."""
        instance.under_way = True

    def leave(self, instance: T) -> None:
        """Note that an instance is in no round."""
        instance.under_way = False
