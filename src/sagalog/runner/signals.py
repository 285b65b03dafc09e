"""Waits until a served runner is asked to stop."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary


async def asked_to_stop(stopping: asyncio.Event) -> None:
    """Return at SIGTERM, at SIGINT, or when `stopping` is set, whichever comes first.

    In a thread, and on a loop that knows no signals (Windows), only `stopping` ends it, or its cancellation. Runners that
    are served by one loop hear a signal together. When none is served any more, signals go to whoever had them before.
    """
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    ears = _ears.get(loop) or _ears.setdefault(loop, _Ears(loop))
    ears.asked.append(asked)
    waits = [loop.create_task(asked.wait()), loop.create_task(stopping.wait())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        ears.asked.remove(asked)
        if not ears.asked:
            del _ears[loop]
            ears.give_back()


class _Ears:
    """Hears the signals of one loop, for all runners that it serves."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.asked: list[asyncio.Event] = []
        self._loop = loop
        self._signals: list[tuple[int, Any, Any]] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            with suppress(NotImplementedError, RuntimeError, ValueError):
                before = signal.getsignal(number)
                loop.add_signal_handler(number, self._hear)
                self._signals.append((number, before, signal.getsignal(number)))

    def _hear(self) -> None:
        for asked in self.asked:
            asked.set()

    def give_back(self) -> None:
        """Restore the handlers that were there before, unless another one has been installed meanwhile."""
        for number, before, ours in self._signals:
            now = signal.getsignal(number)
            # This leaves the default handler, for SIGINT also in place of the one of asyncio.run.
            self._loop.remove_signal_handler(number)
            if now is not ours:
                signal.signal(number, now)
            elif before is not None and before is not ours:  # else a handler of the loop, which knows it no more
                signal.signal(number, before)


_ears: WeakKeyDictionary[asyncio.AbstractEventLoop, _Ears] = WeakKeyDictionary()
