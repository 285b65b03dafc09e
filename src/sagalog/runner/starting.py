"""Events that wait, for a bounded time, for the event that starts their instance.

outcome ─► [starting] ─► mailbox of the instance, or an error for the caller whose time is up
"""

from __future__ import annotations

from ..errors import NoInstanceError
from .envelope import Envelope, Maintenance
from .instance import Instance


def in_vain(instance: Instance, envelope: Envelope) -> NoInstanceError:
    """Return the error for an event whose starting event did not come in time."""
    assert envelope.message is not None
    return NoInstanceError(instance.runtime.name, instance.correlation_id, type(envelope.message.event).__name__)


def wake_later(instance: Instance) -> None:
    """Set the timer that tells those whose time is up, and that looks into the store now and then."""
    if not instance.waiting or instance.waking is not None:
        return
    loop, poll = instance.runtime.engine.loop, instance.runtime.engine.seconds.due_poll
    first = min(envelope.deadline or 0.0 for envelope in instance.waiting)
    instance.waking = loop.call_at(min(first, loop.time() + poll), _wake, instance)


def _wake(instance: Instance) -> None:
    """Tell those that have waited too long. See whether another worker has handled a starting event."""
    instance.waking = None
    now = instance.runtime.engine.loop.time()
    for envelope in [waiting for waiting in instance.waiting if (waiting.deadline or 0.0) <= now]:
        # A turn that holds it as well passes over it from now on.
        instance.let_wait_no_more(envelope)
        envelope.fail(in_vain(instance, envelope))
    if instance.waiting:
        wake_later(instance)
        if not instance.under_way:
            instance.cached.unload()
            instance.poke(Envelope(Maintenance.RECORD))
    elif instance.idle and not (instance.cached.loaded or instance.deliveries.pauses):
        instance.cache.drop(instance)


def give_up_waiting(instance: Instance, error: Exception) -> None:
    """Tell all that wait for a starting event that the runner stops."""
    for envelope in instance.wait_no_longer():
        envelope.fail(error)
    if instance.waking is not None:
        instance.waking.cancel()
        instance.waking = None
