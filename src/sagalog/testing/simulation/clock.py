"""A worker's clock in virtual time: wrong by as much as it was told, and it may jump."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

EPOCH = datetime(2030, 1, 1, tzinfo=UTC)


class LoopClock:
    """The loop's virtual time, ahead of it by `ahead` (or behind, if negative).

    `nudge` ends a sleep too early. That stands for the poll of the due loop, which in production comes every second and
    mostly finds nothing; here it comes when there is something to find, so that idle time costs nothing.
    """

    def __init__(self, ahead: timedelta) -> None:
        self.ahead = ahead
        self._sleeping: list[asyncio.Future[None]] = []
        self._nudged = False

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=asyncio.get_running_loop().time()) + self.ahead

    async def sleep_until(self, moment: datetime) -> None:
        left = (moment - self.now()).total_seconds()
        nudged, self._nudged = self._nudged, False
        if left <= 0 or nudged:
            return
        loop = asyncio.get_running_loop()
        woken = loop.create_future()
        timer = loop.call_later(left, _wake, woken)
        self._sleeping.append(woken)
        try:
            await woken
        finally:
            timer.cancel()
            self._sleeping.remove(woken)

    def nudge(self) -> None:
        """Wake whoever sleeps, or let the next sleep be none."""
        self._nudged = not self._sleeping
        for woken in self._sleeping:
            _wake(woken)


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
