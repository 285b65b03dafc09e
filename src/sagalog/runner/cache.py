"""The instances of one saga that are in memory: bounded, and forgotten when they have nothing to do.

    receive, due, repair ─► [cache] ─► an instance, made where there is none
    a round that an instance has left ─► [cache] ─► queue, if it has more work

What is idle can be forgotten at any time: its record is in the store.
"""

from __future__ import annotations

from collections.abc import Iterator

from .envelope import Envelope, Maintenance
from .instance import Instance
from .queue import Queue
from .quiet import tell_quiet
from .runtime import SagaRuntime
from .starting import wake_later


class InstanceCache:
    """The instances of one saga that are in memory, least recently used first."""

    def __init__(self, runtime: SagaRuntime, queue: Queue[Instance]) -> None:
        self.runtime = runtime
        self.queue = queue
        self.instances: dict[str, Instance] = {}
        self._cache_size = runtime.engine.settings.cache_size
        self._cache_bytes = runtime.engine.settings.cache_bytes
        self._bytes = 0  # the sizes of all in memory

    def instance(self, correlation_id: str) -> Instance:
        """Return the instance of that id. One that is not in memory is made, and not loaded yet."""
        instances = self.instances
        found = instances.pop(correlation_id, None)
        if found is None:
            found = Instance(self, correlation_id)
        instances[correlation_id] = found
        return found

    def done(self, instance: Instance) -> None:
        """Let an instance leave its round: it joins the next one if it has work, and is forgotten if it holds nothing."""
        self.queue.leave(instance)
        instance.cached.grows_old()
        if instance.quieted is not None:
            tell_quiet(instance)
        if instance.unknown is not None and not instance.mailbox:
            instance.put(Envelope(Maintenance.RECORD))
        if instance.waiting:
            wake_later(instance)
        if instance.mailbox:
            self.queue.add(instance)
        elif not (instance.cached.loaded or instance.deliveries.pauses) and instance.idle:
            self.drop(instance)
        if len(self.instances) > self._cache_size or self._bytes > self._cache_bytes:
            self._shrink()

    def _shrink(self) -> None:
        """Forget idle instances beyond the bounds of the cache, least recently used first. Busy ones stay."""
        instances = self.instances
        left = 8  # each turn brings one in, so a few are enough
        while (len(instances) > self._cache_size or self._bytes > self._cache_bytes) and instances and left:
            left -= 1
            oldest, candidate = next(iter(instances.items()))
            del instances[oldest]
            # By itself nobody takes over what waits for its next attempt where no lease runs out.
            if candidate.idle and not (self.runtime.engine.alone and candidate.deliveries.pauses):
                candidate.deliveries.stop_pausing()
                self.set_size(candidate, 0)
            else:
                instances[oldest] = candidate

    def drop(self, instance: Instance) -> None:
        """Take an idle instance out of memory."""
        if self.instances.get(instance.correlation_id) is instance:
            del self.instances[instance.correlation_id]
            self.set_size(instance, 0)

    def set_size(self, instance: Instance, size: int) -> None:
        """Note the size of the record that an instance keeps in memory, in bytes as stored."""
        self._bytes += size - instance.cached.size
        instance.cached.size = size

    def active(self) -> Iterator[Instance]:
        """Yield the instances that still have something to do."""
        return (instance for instance in list(self.instances.values()) if not instance.idle)
