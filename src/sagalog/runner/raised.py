"""What a user's code raised: its own failure, whatever its class, or something that is meant for this program.

A CancelledError may come from anything that a handler awaits, GeneratorExit from a mistake, and extensions in other
languages raise classes of their own that are no Exception (a Rust panic through PyO3). All of these are failures of the
handler. Only a cancellation of the task that runs it, and the end of the program, are not.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from ..errors import SagalogError


def ends_program(error: BaseException) -> bool:
    """Say whether `error` is meant to end the program, and not just a handler."""
    return isinstance(error, (KeyboardInterrupt, SystemExit)) and threading.current_thread() is threading.main_thread()


def cancellations() -> int:
    """Return how often the current task was asked to end so far, to be given to `passes_through`."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def passes_through(error: BaseException, cancelled_before: int = 0) -> bool:
    """Say whether what came out of an `await` of a user's code is not that code's failure: let it pass."""
    if isinstance(error, asyncio.CancelledError):
        return cancellations() > cancelled_before
    if isinstance(error, GeneratorExit):
        return _task() is None  # the loop is gone, and its coroutines are being closed
    return ends_program(error)


def _task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def as_exception(error: BaseException, what: str) -> Exception:
    """Return `error`, or an error of ours in place of one that is no Exception and would end whoever is told of it."""
    if isinstance(error, Exception):
        return error
    told = SagalogError(f"{what} raised {type(error).__name__}, which is no Exception; nothing was stored")
    told.__cause__ = error
    return told
