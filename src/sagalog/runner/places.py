"""Places for events at work, given in the order in which they were asked for.

A free place goes to whoever has waited longest. No newcomer can take it first, and nobody else is woken.
"""

from __future__ import annotations

import asyncio
from collections import deque

from .engine import Engine

LOOK_SECONDS = 0.05  # the backlog of commands also shrinks when nobody gives a place back


class Places:
    """A number of places. Whoever finds none free stands in line."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._most = engine.settings.max_in_flight
        self._line: deque[asyncio.Future[None]] = deque()
        self._alarm: asyncio.TimerHandle | None = None
        self.taken: int = 0

    @property
    def free(self) -> bool:
        """A place is free and nobody stands in line for it."""
        return not self._line and self.taken < self._most and self._engine.backlog <= self._most  # as `_some`

    @property
    def _some(self) -> bool:
        return self.taken < self._most and self._engine.backlog <= self._most

    async def wait(self) -> None:
        """Take a place, and wait for one if need be. Once the runner stops, each caller gets one, to be told so."""
        place = self._engine.loop.create_future()
        self._line.append(place)
        self._look()
        try:
            await place
        except BaseException:
            if not place.cancelled():  # it was given a place in the moment in which its caller withdrew
                self.give_back()
            raise

    def give_back(self) -> None:
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
        """Let all callers in: the runner stops, and each is to be told so."""
        if self._line:
            self._look()
