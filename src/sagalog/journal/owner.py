"""Who may use a connection: the process and the event loop that opened it, and nobody else."""

from __future__ import annotations

import asyncio
import os

from ..errors import DefinitionError


class Owner:
    """Remembers the process and the event loop that made it; made when a journal is opened.

    Sockets, futures and tasks belong to one event loop of one process. Using them from another thread's loop, or in the
    child after os.fork(), hangs or crashes inside of drivers.
    """

    __slots__ = ("_loop", "_pid")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()

    def check(self) -> None:
        """Raise DefinitionError, with the remedy, where another process or another event loop runs; nothing was stored."""
        if os.getpid() != self._pid:
            raise DefinitionError(
                "this journal was opened before the process forked: open a journal of its own in each process, after "
                "os.fork(). Nothing was stored."
            )
        if asyncio._get_running_loop() is not self._loop:
            raise DefinitionError(
                "this journal was opened in another event loop: use it there (from other threads through "
                "asyncio.run_coroutine_threadsafe), or open another one here. Nothing was stored."
            )


__all__ = ["Owner"]
