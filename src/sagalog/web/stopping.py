"""Whether the server stops: what is waited for is answered at once then, and streams end, so that nobody holds it up."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

from ..runner import SagaRunner

_stopping: WeakKeyDictionary[SagaRunner, asyncio.Event] = WeakKeyDictionary()


def stopping_of(runner: SagaRunner) -> asyncio.Event:
    """Return what is set as soon as the server of this runner begins to stop."""
    event = _stopping.get(runner)
    if event is None:
        event = _stopping[runner] = asyncio.Event()
    return event


def begin_anew(runner: SagaRunner) -> asyncio.Event:
    """Return a new event for a runner that starts, maybe in another event loop."""
    _stopping.pop(runner, None)
    return stopping_of(runner)


@contextmanager
def told_by_signals(events: list[asyncio.Event]) -> Iterator[None]:
    """Set the events at SIGTERM and SIGINT, before the server's own handler is called.

    A server waits for open connections before it ends the lifespan, so a stream would wait for it, and it for the stream.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before: dict[int, Any] = {}

    def stop(number: int, frame: FrameType | None) -> None:
        for event in events:
            loop.call_soon_threadsafe(event.set)
        before[number](number, frame)

    for number in (signal.SIGTERM, signal.SIGINT):
        handler = signal.getsignal(number)
        if callable(handler) and handler is not signal.default_int_handler:  # a server's
            before[number] = handler
            signal.signal(number, stop)
    try:
        yield
    finally:
        for known, handler in before.items():
            if signal.getsignal(known) is stop:
                signal.signal(known, handler)
