"""Places for events at work, given in the order in which they were asked for.

A place that is left is handed to whoever has waited longest: no newcomer takes it in between, and nobody else is woken.
"""

from __future__ import annotations

import asyncio
from collections import deque

from .engine import Engine

LOOK_SECONDS = 0.05  # the backlog of commands shrinks without anybody leaving here


class Places:
    """So many places; those who find none stand in line."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._most = engine.settings.max_in_flight
        self._line: deque[asyncio.Future[None]] = deque()
        self._alarm: asyncio.TimerHandle | None = None
        self.taken = 0

    @property
    def free(self) -> bool:
        """Nobody stands in line, and a place is free."""
        return not self._line and self._some

    @property
    def _some(self) -> bool:
        return self.taken < self._most and self._engine.backlog <= self._most

    async def wait(self) -> None:
        """Return with a place taken. Once the runner stops, with one that is there to tell so."""
        place = self._engine.loop.create_future()
        self._line.append(place)
        self._look()
        try:
            await place
        except BaseException:
            if not place.cancelled():  # it was handed over, and its caller withdrew in the same moment
                self.leave()
            raise

    def leave(self) -> None:
        """Give a place back."""
        self.taken -= 1
        if self._line:
            self._look()

    def _look(self) -> None:
        while self._line and (self._line[0].done() or self._some or self._engine.stopping.is_set()):
            place = self._line.popleft()
            if not place.done():  # else its caller has withdrawn
                self.taken += 1
                place.set_result(None)
        if self._line and self._alarm is None:
            self._alarm = self._engine.loop.call_later(LOOK_SECONDS, self._look_again)

    def _look_again(self) -> None:
        self._alarm = None
        self._look()

    def close(self) -> None:
        """Let all in who stand in line: the runner stops, and they are told so."""
        if self._line:
            self._look()
