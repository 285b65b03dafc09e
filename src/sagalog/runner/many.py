"""Many events in one call. All are tried, and each has its own receipt or error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

from .receipt import Incoming, Receipt


async def handle_all(
    handle: Callable[[Incoming], Awaitable[Receipt]], events: Iterable[Any] | AsyncIterable[Any], at_once: int
) -> list[Receipt]:
    """Return the receipts in the order of the events. Raises an ExceptionGroup of all errors, each with a note."""
    window = asyncio.Semaphore(at_once)
    receipts: list[Receipt | None] = []
    errors: list[Exception] = []

    async def one(number: int, incoming: Incoming) -> None:
        try:
            receipts[number] = await handle(incoming)
        except Exception as error:
            error.add_note(f"event {number + 1}, message id {incoming.message_id!r}")
            errors.append(error)
        finally:
            window.release()

    async with asyncio.TaskGroup() as group:
        async for item in _aiter(events):
            await window.acquire()
            incoming = item if isinstance(item, Incoming) else Incoming(item)
            receipts.append(None)
            group.create_task(one(len(receipts) - 1, incoming))
    if errors:
        raise ExceptionGroup(f"{len(errors)} of {len(receipts)} events were not accepted", errors)
    return [receipt for receipt in receipts if receipt is not None]


async def _aiter(events: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(events, AsyncIterable):
        async for event in events:
            yield event
    else:
        for event in events:
            yield event
