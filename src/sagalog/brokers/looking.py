"""Asks the broker how much lies before a source, again and again. That also shows a broker that answers to nothing: a
source that waits for messages cannot tell it from one that has none.
"""

from __future__ import annotations

import asyncio
import time

from ..errors import BrokerRefusedError, BrokerUnavailableError
from ..logs import about, log
from ..waiting import is_set_within, start_task
from .counts import SourceCounts
from .message import Backlog
from .protocol import Source
from .trouble import SourceTrouble

_FIRST_SECONDS = 0.5  # till the source is open
_SECONDS = 5.0  # between two looks, and so long an answer is waited for before it is missed


class Looking:
    """What lies before a source, as the broker has said last."""

    def __init__(self, source: Source, trouble: SourceTrouble, counts: SourceCounts, closing: asyncio.Event) -> None:
        self.backlog: Backlog = Backlog()
        self._source = source
        self._trouble = trouble
        self._counts = counts
        self._closing = closing

    async def run(self) -> None:
        """Ask until closed and cancelled."""
        seconds = _FIRST_SECONDS
        while not await is_set_within(self._closing, seconds):
            await self._ask()
            if self.backlog.messages is not None or self._trouble.text:
                seconds = _SECONDS

    async def _ask(self) -> None:
        """Ask once. A client that lets its caller wait for ever is asked nothing else meanwhile."""
        since = time.monotonic()
        asking = start_task(self._source.backlog())
        try:
            while not (await asyncio.wait([asking], timeout=_SECONDS))[0]:
                self._missed(BrokerUnavailableError("its broker does not answer"), since)
        finally:
            asking.cancel()
        try:
            self.backlog = asking.result()
        except BrokerRefusedError as error:  # whoever may read need not be allowed to ask this
            self._counts.broker_errors += 1
            log.debug("source %s: %s", self._source.name, error, extra=about())
        except Exception as error:
            self._counts.broker_errors += 1
            self._missed(error, since)
        else:
            self._trouble.is_over("looking")

    def _missed(self, error: Exception, since: float) -> None:
        if not self._trouble.has("reading"):  # which tells more
            self._trouble.is_(error, "looking", since)
