"""Messages that have been delivered so often that one of them may be what kills its workers.

All that a worker holds when it dies is delivered once more, so whatever lay beside such a message is counted like it.
Therefore the last delivery that is allowed is an attempt alone, without another suspect beside it. The innocent ones are
done after it. The guilty one kills its worker once more, and is the first of those over the limit that the next worker
gets: that one goes to the dead letters untried. Only one does so in the life of a worker; the others are tried alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from .in_order import Arrival


class Suspects:
    """The suspects of one source, one after the other. `most`: deliveries that are allowed; None: any number."""

    def __init__(
        self,
        most: int | None,
        stopping: asyncio.Event,
        take: Callable[[Arrival], None],
        reject: Callable[[Arrival, str], None],
    ) -> None:
        self._most = most
        self._stopping = stopping
        self._take = take
        self._reject = reject
        self._waiting: deque[Arrival] = deque()
        self._current: Arrival | None = None
        self._some = asyncio.Event()
        self._ended = asyncio.Event()
        self._rejected = False

    def is_one(self, arrival: Arrival) -> bool:
        """It has been delivered as often as is allowed, and more than once."""
        return self._most is not None and arrival.message.deliveries >= max(2, self._most)

    def put(self, arrival: Arrival) -> None:
        """Let this one wait for its turn."""
        self._waiting.append(arrival)
        self._some.set()

    def ended(self, arrival: Arrival) -> None:
        """The broker was told what became of this one, or has refused to put it among the dead letters."""
        if arrival is self._current:
            self._ended.set()

    async def run(self) -> None:
        """Let one after the other have its turn, until this is cancelled or the source stops."""
        while not self._stopping.is_set():
            await self._some.wait()
            self._some.clear()
            while self._waiting and not self._stopping.is_set():
                await self._turn(self._waiting.popleft())

    async def _turn(self, arrival: Arrival) -> None:
        assert self._most is not None
        deliveries = arrival.message.deliveries
        if deliveries > self._most and not self._rejected:
            # The next one may kill this worker, and what is not among the dead letters by then is the first one again.
            self._rejected = True
            self._current = arrival
            self._ended.clear()
            self._reject(arrival, f"it was delivered {deliveries} times, and no worker finished it")
            await self._ended.wait()
            return
        self._current = arrival
        self._ended.clear()
        self._take(arrival)
        await self._ended.wait()
