"""Many calls at once, but never more than a server can queue."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

_A = TypeVar("_A")
_T = TypeVar("_T")


async def gather_bounded(call: Callable[[_A], Awaitable[_T]], items: Sequence[_A], at_once: int) -> list[_T]:
    """Return `await call(item)` of each item, in their order, with at most `at_once` under way.

    The first error is raised; what is under way is then cancelled, and what has not begun never does.
    """
    found: list[Any] = [None] * len(items)
    places = iter(range(len(items)))

    async def work() -> None:
        for place in places:
            found[place] = await call(items[place])

    workers = [asyncio.ensure_future(work()) for _ in range(min(at_once, len(items)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
    return found
