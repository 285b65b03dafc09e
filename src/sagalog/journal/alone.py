"""A caller's connection carries one call at a time: those that come meanwhile wait for their turn, in order of arrival.

A handler may use the connection of its own call for another one. That one does not wait for the call it is part of, only
for others of the same handler.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar


class _Line:
    """Those who wait for one connection, or for their turn within one call on it."""

    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


class _CarriedCall:
    """A call that a connection carries."""

    __slots__ = ("connection", "outer", "over", "within")

    def __init__(self, connection: object, outer: _CarriedCall | None) -> None:
        self.connection = connection
        self.outer = outer
        self.over = False
        self.within = _Line()


_current: ContextVar[_CarriedCall | None] = ContextVar("sagalog_call_on_connection", default=None)
# By event loop and connection. Not every driver's connection can be referred to weakly, so an entry lives as long as
# somebody uses it, and so does the connection then.
_by_connection: dict[tuple[int, int], _Line] = {}


@asynccontextmanager
async def alone_on(connection: object) -> AsyncIterator[None]:
    """Enter when no other call uses the connection any more."""
    outer = _current.get()
    around = outer
    while around is not None and (around.over or around.connection is not connection):
        around = around.outer
    key = (id(asyncio.get_running_loop()), id(connection))
    line = _by_connection.setdefault(key, _Line()) if around is None else around.within
    line.users += 1
    try:
        async with line.lock:
            call = _CarriedCall(connection, outer)
            token = _current.set(call)
            try:
                yield
            finally:
                call.over = True
                _current.reset(token)
    finally:
        line.users -= 1
        if around is None and not line.users:
            del _by_connection[key]
