"""What a user's function raised: is it ours to pass on, does another attempt mend it, and where was it raised?"""

from __future__ import annotations

import asyncio
import traceback
from pathlib import PurePath

from ..errors import CodecError, DefinitionError, InvalidEventError

# What the same call would raise again: mistakes in code, and values that can never be taken. Trying again would repeat
# the effects that the function had before it raised.
_PERMANENT = (TypeError, NameError, NotImplementedError, DefinitionError, CodecError, InvalidEventError)
_OURS = __name__.rpartition(".")[0].rpartition(".")[0]  # the package


def passes_through(error: BaseException) -> bool:
    """Say whether `error` is no failure of a user's function, but ends the task or the program that runs it.

    A CancelledError counts only where this task was asked to end; anybody may raise one. Any other exception that is no
    `Exception` (a Rust panic, say) is a failure as the others are.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return isinstance(error, (KeyboardInterrupt, SystemExit))


def is_permanent(error: BaseException) -> bool:
    """Say whether another attempt would fail in the same way."""
    return isinstance(error, _PERMANENT)


def where(error: BaseException) -> str:
    """Return the place in the user's code that raised: file, line and function; empty if there is none.

    These hold no values, so they may be logged and stored.
    """
    frames = traceback.extract_tb(error.__traceback__)
    names = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame, name in zip(reversed(frames), reversed(names), strict=True):
        if not (name == _OURS or str(name).startswith(f"{_OURS}.")):
            return f"{PurePath(frame.filename).name}:{frame.lineno} in {frame.name}"
    return ""


def described(error: BaseException) -> str:
    """Return the type of an error and where it was raised, without its message, which may quote payloads."""
    place = where(error)
    return f"{type(error).__name__} at {place}" if place else type(error).__name__
