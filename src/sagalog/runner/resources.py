"""What handlers need for as long as a runner runs: an HTTP client, a pool. Opened at its start, closed at its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from ..errors import DefinitionError
from ..waiting import start_task

MakeResources = Callable[[Any], AbstractAsyncContextManager[Any]]  # of the runner


class Resources:
    """Holds an asynchronous context manager open.

    One task enters and leaves it, whichever tasks start and stop the runner.
    """

    def __init__(self, make: MakeResources | None) -> None:
        if make is not None and not callable(make):
            raise DefinitionError(
                "lifespan= takes a function of the runner that returns an asynchronous context manager, e.g. one with "
                f"@asynccontextmanager, not {type(make).__name__}"
            )
        self.make = make
        self.value: Any = None
        self._closing: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self, runner: Any) -> None:
        """Open what handlers need. Raises what its context manager raises."""
        if self.make is None:
            return
        manager = self.make(runner)
        if not isinstance(manager, AbstractAsyncContextManager):
            raise DefinitionError(
                "lifespan= takes a function that returns an asynchronous context manager, but this one returned a "
                f"{type(manager).__name__}: decorate it with @asynccontextmanager"
            )
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[Any] = loop.create_future()
        self._closing = asyncio.Event()
        self._task = task = start_task(self._hold(manager, opened, self._closing))
        try:
            self.value = await opened
        except BaseException:
            task.cancel()
            await asyncio.wait([task])
            self._task = None
            raise

    async def close(self) -> None:
        """Close it. Calling it again has no effect."""
        task, self._task, self.value = self._task, None, None
        if task is not None and self._closing is not None:
            self._closing.set()
            await task

    @staticmethod
    async def _hold(
        manager: AbstractAsyncContextManager[Any], opened: asyncio.Future[Any], closing: asyncio.Event
    ) -> None:
        try:
            async with manager as value:
                if not opened.done():
                    opened.set_result(value)
                await closing.wait()
        except BaseException as error:
            if opened.done():
                raise
            if isinstance(error, asyncio.CancelledError):
                opened.cancel()
            else:
                opened.set_exception(error)
