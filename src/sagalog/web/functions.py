"""Functions of the application that a request calls: they may be `async`, and what they raise is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from inspect import isawaitable
from typing import Any

from starlette.exceptions import HTTPException

from ..errors import SagalogError
from ..logs import about, log, trace_of
from .problems import ProblemError, refuse


class CancelledByItselfError(Exception):
    """A function raised CancelledError, and nobody had cancelled the request."""


async def call(function: Callable[..., Any], *values: Any) -> Any:
    """Return what the function returns, or what it is awaited for."""
    try:
        made = function(*values)
        return await made if isawaitable(made) else made
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise CancelledByItselfError().with_traceback(error.__traceback__) from None


async def event_of(function: Callable[..., Any], posted: Any) -> Any:
    """Return the event that a function makes of a request.

    A LookupError or ValueError tells of a body that is not as the function expects, and is the sender's to mend: 422. What
    else it raises is a mistake of the application, or goes away, so the sender should send the event again: 500.
    """
    try:
        return await call(function, posted)
    except (ProblemError, HTTPException, SagalogError):
        raise
    except (LookupError, ValueError) as error:
        name = type(error).__name__
        log.warning(
            "a request was answered with 422: no event could be made of it: %s",
            name,
            exc_info=trace_of(error),
            extra=about(),
        )
        raise refuse(422, f"no event can be made of the body ({name}); nothing was stored") from None
