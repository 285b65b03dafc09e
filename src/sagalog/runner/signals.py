"""Waiting until somebody asks a served runner to stop."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress


async def asked_to_stop(stopping: asyncio.Event) -> None:
    """Return at SIGTERM, at SIGINT, or when `stopping` is set, whichever comes first.

    In a thread, and on a loop that knows no signals (Windows), only `stopping` ends it, or its cancellation.
    """
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = []
    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, asked.set)
            signals.append(number)
    waits = [loop.create_task(asked.wait()), loop.create_task(stopping.wait())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        for number in signals:
            loop.remove_signal_handler(number)
