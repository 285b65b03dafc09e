"""Accepted commands are recorded with the next step of their instance, or by themselves some time later.

attempt, deliver ─► [acceptances] ─► queue
"""

from __future__ import annotations

import asyncio
from collections import deque

from ..decision.entries import FINAL, Status
from .engine import Engine
from .envelope import Envelope, Maintenance
from .instance import Instance
from .quiet import tell_quiet


class Acceptances:
    """Sees to it that accepted commands are recorded in time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._to_record: deque[tuple[float, Instance]] = deque()
        self._tick: asyncio.TimerHandle | None = None

    def record_later(self, instance: Instance) -> None:
        """Record acceptances with the next step, or lazily; at once where the end of the saga depends on it."""
        if instance.quieted is not None:
            self._engine.loop.call_soon(tell_quiet, instance)  # what calls this has not ended yet
        if not instance.deliveries.accepted or instance.cached.record is None:
            return
        if instance.undelivered() is None and (
            instance.cached.record.status in FINAL or instance.cached.record.status is Status.COMPENSATING
        ):
            instance.poke(Envelope(Maintenance.RECORD))
            return
        self._to_record.append((self._engine.loop.time() + self._engine.seconds.ack, instance))
        if self._tick is None:
            self._tick = self._engine.loop.call_later(self._engine.seconds.ack, self._record_due)

    def _record_due(self) -> None:
        self._tick = None
        now = self._engine.loop.time()
        while self._to_record and self._to_record[0][0] <= now:
            _, instance = self._to_record.popleft()
            if instance.deliveries.accepted:
                instance.poke(Envelope(Maintenance.RECORD))
        if self._to_record:
            self._tick = self._engine.loop.call_later(max(0.0, self._to_record[0][0] - now), self._record_due)

    def stop(self) -> None:
        """Cancel the timer that records later."""
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
