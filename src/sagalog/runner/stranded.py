"""Commands of dead workers whose lease ends far in the future, because the clock has been set back since.

    due ─► [stranded] ─► mailbox of each instance (as a takeover)

A lease has a longest length. What is due later than that, and not because of a timer, was written while the clock was
ahead. No living worker prolongs it, because all of them use the same clock.
"""

from __future__ import annotations

from datetime import timedelta

from ..decision.record import decode_record
from ..errors import CodecError
from .cache import InstanceCache
from .engine import Engine
from .envelope import Envelope, Maintenance
from .lease import MAX_LEASES
from .runtime import SagaRuntime

_AHEAD = timedelta(days=2)  # by which a clock may have been set back
_EVERY_SECONDS = 60.0
_PAGE = 500  # of what is due first; the others come up when these are done


class Stranded:
    """Finds, now and then, leases that no worker could have taken by the clock as it is now."""

    def __init__(self, engine: Engine, runtime: SagaRuntime) -> None:
        self._engine = engine
        self._runtime = runtime
        self._next = engine.loop.time()
        settings = engine.settings
        self._longest = max(MAX_LEASES * settings.lease, settings.dispatch_retry.cap) + 2 * settings.lease

    async def take_over(self, cache: InstanceCache) -> None:
        """Take over what is stranded, once a minute at most. Raises what the store raises."""
        engine, runtime = self._engine, self._runtime
        if engine.alone or runtime.journal is None or engine.loop.time() < self._next:
            return
        self._next = engine.loop.time() + _EVERY_SECONDS
        now = engine.now()
        due = await runtime.due.due(now + _AHEAD, limit=_PAGE)
        later = [(key, at) for key, at in due if at > now + self._longest]
        found = await runtime.journal.latest_messages([runtime.prefix + key for key, _ in later])
        for (key, due_at), latest in zip(later, found, strict=True):
            if latest is None or not latest.payload:
                continue
            try:
                record = decode_record(latest.payload)
            except CodecError:
                continue  # whoever reads it reports it
            if record.owes_delivery and due_at != record.next_timer_at:
                instance = cache.instance(key)
                instance.read_again()
                instance.poke(Envelope(Maintenance.TAKE_OVER))
