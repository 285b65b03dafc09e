"""Forgets reservations of unique keys that nobody holds any more, some at a time.

    due ─► [sweeping] ─► journal

A step that gives a key up, or ends a life, writes nothing but itself: its reservation is worth nothing from then on, and
the next instance that wants the key takes it over. So that the others do not pile up, each is checked once a retention.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from ..journal.reservations import Reservations
from ..logs import about, log
from .engine import Engine
from .failures import passes_through, told_of_store

_MOST = timedelta(hours=1)  # between two sweeps
_SHARE = 10  # sweeps in one retention


class Sweeper:
    """Looks for reservations that are due, beside the scan for due work."""

    def __init__(self, engine: Engine, saga: str, reservations: Reservations | None) -> None:
        self._engine = engine
        self._saga = saga
        self._reservations = reservations
        self._every = min(_MOST, engine.retention / _SHARE)
        self._next: datetime | None = None
        self._running = False

    def look(self) -> None:
        """Begin to sweep, if it is time to."""
        if self._reservations is None or self._running:
            return
        now = self._engine.now()
        if self._next is not None and now < self._next:
            return
        self._next = now + self._every
        self._running = True
        self._engine.spawn(self._run(self._reservations))

    async def _run(self, reservations: Reservations) -> None:
        try:
            while not self._engine.stopping.is_set() and await reservations.sweep():
                pass
        except BaseException as error:  # they come up as due again
            if passes_through(error):
                raise
            log.warning(
                "saga %s: reservations of keys could not be swept: %s",
                self._saga,
                told_of_store(error),
                extra=about(saga=self._saga),
            )
        finally:
            self._running = False
