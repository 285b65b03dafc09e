"""Tells the broker which messages are done: as many at once as have come together meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..waiting import Attempts
from .counts import SourceCounts
from .in_order import PAUSES
from .message import SourceMessage
from .protocol import Source
from .trouble import SourceTrouble


class Done(Protocol):
    """What is done, and holds its message."""

    @property
    def message(self) -> SourceMessage:
        """As the source gave it."""


class Accepting:
    """Accepts what is put here, again and again if the broker does not answer. A lost acknowledgement costs a duplicate."""

    def __init__(self, source: Source, trouble: SourceTrouble, counts: SourceCounts, closing: asyncio.Event) -> None:
        self._source = source
        self._trouble = trouble
        self._counts = counts
        self._closing = closing
        self._done: list[Any] = []
        self._some = asyncio.Event()
        self._none = asyncio.Event()
        self._none.set()

    def put(self, done: Done) -> None:
        """Accept this soon."""
        self._done.append(done)
        self._some.set()
        self._none.clear()

    async def run(self, told: Callable[[Sequence[Any]], None]) -> None:
        """Accept until closed and cancelled; `told` hears of what the broker knows."""
        attempts = Attempts(PAUSES)
        while not self._closing.is_set():
            await self._some.wait()
            some, self._done = self._done, []
            self._some.clear()
            try:
                await self._source.accept([one.message for one in some])
            except Exception as error:
                self._counts.broker_errors += 1
                self._trouble.is_(error, "accepting")
                self._done = [*some, *self._done]
                self._some.set()
                await attempts.wait()
                continue
            attempts.reset()
            self._trouble.is_over("accepting")
            self._counts.accepted += len(some)
            told(some)
            if not self._done:
                self._none.set()

    async def flush(self, seconds: float) -> None:
        """Return when the broker was told of everything, or after so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._none.wait()
        except TimeoutError:
            return
