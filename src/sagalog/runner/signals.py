"""Hears signals, and waits until a served runner is asked to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary


def hear(number: int, callback: Callable[..., object], *arguments: Any) -> None:
    """Let the running event loop call something at a signal; a process that is forked from this one does not hear it so.

    There, the handler from before is back. Otherwise a child that is told to end (`Process.terminate`, the end of a pool)
    would not end, and its parent would stop instead: a loop hears signals over a socket, which both of them have.
    (Python itself closes that way since 3.12, but the child still does not end.)

    Raises as `add_signal_handler` of the loop does.
    """
    before = signal.getsignal(number)
    asyncio.get_running_loop().add_signal_handler(number, callback, *arguments)
    ours = signal.getsignal(number)
    if before is not ours:
        _heard[number] = ours, before


def _forking() -> None:
    _mask.before = signal.pthread_sigmask(signal.SIG_BLOCK, _heard)  # a child that is told at once waits for `_forked`


def _forked() -> None:
    for number, (ours, before) in _heard.items():
        if signal.getsignal(number) is ours:
            signal.set_wakeup_fd(-1)
            signal.signal(number, signal.SIG_DFL if before is None else before)
    _go_on()


def _go_on() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _mask.before)


_heard: dict[int, tuple[Any, Any]] = {}  # by signal: the handler of the loop that heard it last, and the one before
_mask = threading.local()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_forking, after_in_parent=_go_on, after_in_child=_forked)


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
                hear(number, self._hear)
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
