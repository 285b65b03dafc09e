"""Waiting until somebody asks a served runner to stop."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress


async def asked_to_stop(stopping: asyncio.Event) -> None:
    """Return at SIGTERM, at SIGINT, or when `stopping` is set, whichever comes first.

    In a thread, and on a loop that knows no signals (Windows), only `stopping` ends it, or its cancellation. Whoever heard
    them before hears them afterwards.
    """
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = []
    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(NotImplementedError, RuntimeError, ValueError):
            before = signal.getsignal(number)
            loop.add_signal_handler(number, asked.set)
            signals.append((number, before, signal.getsignal(number)))
    waits = [loop.create_task(asked.wait()), loop.create_task(stopping.wait())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        for number, before, ours in signals:
            loop.remove_signal_handler(number)  # which leaves the default: for SIGINT, also in place of asyncio.run's
            if before is not None and before is not ours:  # else a handler of the loop, which knows it no more
                signal.signal(number, before)
