"""Tells the journal which circuits of this worker are open, for `sagalog doctor` and the dashboard.

    gates ─► [circuit reports] ─► journal: one record for all workers

Circuits are in memory; this is only what others see of them. It is written when one opens or closes, once a second at most,
and once a minute while any is open: a worker that says nothing any more has died.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from uuid import uuid4

from ..decision.circuits import OpenCircuit
from ..journal import Journal
from ..journal.circuits import report_circuits
from ..logs import about, log
from .engine import Engine
from .failures import passes_through, told_of_store

Open = Callable[[], Iterable[tuple[str, datetime, int, str]]]

_SOONEST_SECONDS = 1.0
_AGAIN_SECONDS = 60.0
_GOOD_FOR = timedelta(seconds=2.5 * _AGAIN_SECONDS)


class CircuitReports:
    """What this worker says about its open circuits. `opened` yields them."""

    def __init__(self, engine: Engine, journal: Journal | None, opened: Open) -> None:
        self._engine = engine
        self._journal = journal
        self._opened = opened
        self._timer: asyncio.TimerHandle | None = None
        self._earliest = 0.0
        self._said = False  # the journal may hold something of this worker
        self._worker = f"{socket.gethostname()}:{os.getpid()} {uuid4().hex[:4]}"

    def changed(self) -> None:
        """One has opened or closed."""
        if self._journal is not None and not self._engine.alone and not self._engine.stopping.is_set():
            self._later(max(0.0, self._earliest - self._engine.loop.time()))

    def _later(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._engine.loop.call_later(seconds, self._begin)

    def _begin(self) -> None:
        self._timer = None
        self._earliest = self._engine.loop.time() + _SOONEST_SECONDS
        self._engine.spawn(self._report())

    async def _report(self, *, last: bool = False) -> None:
        assert self._journal is not None
        now = self._engine.now()
        opened = [] if last else list(self._opened())
        mine = [OpenCircuit(name, self._worker, at, now + _GOOD_FOR, many, error) for name, at, many, error in opened]
        if not mine and not self._said:
            return
        self._said = True
        try:
            await report_circuits(self._journal, self._worker, mine, now)
        except BaseException as error:  # nothing depends on it
            if passes_through(error):
                raise
            log.warning("telling the journal of open circuits failed: %s", told_of_store(error), extra=about())
        else:
            self._said = bool(mine)
        if self._said and self._timer is None and not self._engine.stopping.is_set():
            self._later(_AGAIN_SECONDS)

    def stop(self) -> None:
        """Say that none is open here any more, if any was said to be."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._said:
            self._said = False
            self._engine.spawn(self._report_none())

    async def _report_none(self) -> None:
        self._said = True
        await self._report(last=True)
        self._said = False
