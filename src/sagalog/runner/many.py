"""Many events in one call. All are tried, and each has its own receipt or error."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

from ..errors import SagalogError
from .receipt import Incoming, Receipt


async def handle_all(
    handle: Callable[[Incoming], Awaitable[Receipt]], events: Iterable[Any] | AsyncIterable[Any], at_once: int
) -> list[Receipt]:
    """Return the receipts in the order of the events. Raises an ExceptionGroup of all errors, each with a note."""
    window = asyncio.Semaphore(at_once)
    notes: dict[int, list[str]] = {}  # of the errors, by their ids, before they had one of ours
    receipts: list[Receipt | None] = []
    errors: list[Exception] = []

    async def one(number: int, incoming: Incoming) -> None:
        try:
            receipts[number] = await handle(incoming)
        except Exception as error:
            errors.append(_noted(error, f"event {number + 1}, message id {incoming.message_id!r}", notes))
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


def _noted(error: Exception, note: str, notes: dict[int, list[str]]) -> Exception:
    """Return an error with one more note. Events of one step have the same error: from the second one on, it is a copy."""
    before = notes.get(id(error))
    if before is None:
        notes[id(error)] = list(getattr(error, "__notes__", ()))
    elif isinstance(error, SagalogError):
        cause, traceback = error.__cause__, error.__traceback__
        error = copy.copy(error)
        error.__cause__, error.__traceback__, error.__notes__ = cause, traceback, before[:]
    error.add_note(note)
    return error


async def _aiter(events: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(events, AsyncIterable):
        async for event in events:
            yield event
    else:
        for event in events:
            yield event
