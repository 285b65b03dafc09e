"""An event loop whose time is virtual: when nothing is ready, it is already later."""

from __future__ import annotations

import asyncio
import selectors
from contextvars import Context, ContextVar
from typing import Any

# Set in the context of all that a worker's own code does: says whether its process still is there.
process: ContextVar[asyncio.Event | None] = ContextVar("process", default=None)


class _NoSelector(selectors.BaseSelector):
    """Waits for nothing: moves the loop's clock on by as long as it was to wait."""

    def __init__(self) -> None:
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("nothing will ever happen: every task waits, and no timer is set")
        if timeout > 0:
            self.now += timeout
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, 0, None)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self.register(fileobj, events, data)

    def get_map(self) -> dict[Any, selectors.SelectorKey]:
        return {}

    def close(self) -> None: ...


async def _nothing() -> None: ...


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs what is ready in the order it became so, and otherwise skips to the next timer. No input or output."""

    ending = False  # what is cancelled at the end starts nothing new

    def __init__(self) -> None:
        self._virtual = _NoSelector()
        super().__init__(self._virtual)
        # asyncio takes as due what is nearer than this; a nanosecond is less than a float can tell after 194 days.
        self._clock_resolution = 1e-6

    def create_task(self, coro: Any, **keywords: Any) -> asyncio.Task[Any]:
        if self.ending:
            coro.close()
            coro = _nothing()
        return super().create_task(coro, **keywords)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        dead = process.get()
        if dead is not None and dead.is_set():  # a dead process sets no timers, also not those that set themselves anew
            return asyncio.TimerHandle(when, callback, args, self, context)
        return super().call_at(when, callback, *args, context=context)

    def time(self) -> float:
        return self._virtual.now
