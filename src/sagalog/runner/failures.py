"""What a user's function raised: whether to pass it on, whether another attempt helps, and where it was raised."""

from __future__ import annotations

import asyncio
import os.path
import threading
import traceback
from collections.abc import Sequence

from ..errors import (
    BrokerRefusedError,
    CodecError,
    CommandRefused,
    ConflictError,
    DefinitionError,
    InstanceFullError,
    InvalidEventError,
    JournalUnavailableError,
    NotAllReachedError,
    OutcomeUnknownError,
    PayloadTooLargeError,
    RunnerStoppedError,
    SagalogError,
    SagaParkedError,
    TooManyKeptError,
)

# The same call would raise these again: mistakes in code, and values that can never be stored. Another attempt would only
# repeat the effects that the function had before it raised.
_PERMANENT = (
    TypeError,
    NameError,
    NotImplementedError,
    DefinitionError,
    CodecError,
    InvalidEventError,
    BrokerRefusedError,
)
# An event that was not taken for one of these may be taken later, sent again under the same message id.
_GO_AWAY = (
    InstanceFullError,
    JournalUnavailableError,
    OutcomeUnknownError,
    RunnerStoppedError,
    SagaParkedError,
    TooManyKeptError,
)
_OURS = __name__.rpartition(".")[0].rpartition(".")[0]  # the package


def ends_program(error: BaseException) -> bool:
    """Say whether `error` is meant to end the program, and not just a user's function."""
    return isinstance(error, (KeyboardInterrupt, SystemExit)) and threading.current_thread() is threading.main_thread()


def most_telling(errors: Sequence[BaseException]) -> BaseException:
    """Return the error to raise where several instances or sagas could not take one event.

    First what is no error of ours, such as a cancellation; then one for which the event is to be sent again, because a
    sender that is told of another does not send it again; then the first.
    """
    for error in errors:
        if not isinstance(error, SagalogError):
            return error
    return next((error for error in errors if _goes_away(error)), errors[0])


def _goes_away(error: BaseException) -> bool:
    return isinstance(error.why if isinstance(error, NotAllReachedError) else error, _GO_AWAY)


def cancellations() -> int:
    """Return how often the current task was asked to end so far, to be given to `passes_through` later."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def passes_through(error: BaseException, cancelled_before: int = 0) -> bool:
    """Say whether `error` is no failure of a user's function, but ends the task or the program that runs it.

    A CancelledError counts only where this task was asked to end (since `cancelled_before`); anybody may raise one. Any
    other exception that is no `Exception` (a Rust panic, say) is a failure as the others are.
    """
    if isinstance(error, asyncio.CancelledError):
        return cancellations() > cancelled_before
    if isinstance(error, GeneratorExit):
        try:
            return asyncio.current_task() is None
        except RuntimeError:  # the event loop is gone, and its coroutines are being closed
            return True
    return ends_program(error)


def as_exception(error: BaseException, what: str) -> Exception:
    """Return `error`, or an error of ours for one that is no Exception and would end the task that is told of it."""
    if isinstance(error, Exception):
        return error
    told = SagalogError(f"{what} raised {type(error).__name__}, which is not an Exception; nothing was stored")
    told.__cause__ = error
    return told


def not_handled() -> RunnerStoppedError:
    """Return the error for the sender of an event that was not handled before the runner stopped."""
    return RunnerStoppedError("the runner stopped before the event was handled; nothing was stored")


def certain(error: BaseException) -> bool:
    """Say whether a write that raised this has certainly stored nothing."""
    return isinstance(error, (ConflictError, JournalUnavailableError, PayloadTooLargeError, InvalidEventError))


def told_of_store(error: BaseException) -> str:
    """Describe what a store raised: the message of our own errors, which name no payloads, or the type of others."""
    return str(error) if isinstance(error, SagalogError) else described(error)


def decisive(error: BaseException) -> BaseException:
    """Return what decides among the errors of a group, as a TaskGroup raises it: a refusal, or else what is permanent.

    Otherwise another attempt would be made at what was refused, with the effects of all that was not.
    """
    if not isinstance(error, BaseExceptionGroup):
        return error
    for kinds in ((CommandRefused,), _PERMANENT):
        if (found := _first(error, kinds)) is not None:
            return found
    return error


def _first(error: BaseException, kinds: tuple[type[BaseException], ...]) -> BaseException | None:
    if not isinstance(error, BaseExceptionGroup):
        return error if isinstance(error, kinds) else None
    return next((found for one in error.exceptions if (found := _first(one, kinds)) is not None), None)


def is_permanent(error: BaseException) -> bool:
    """Say whether another attempt would fail in the same way."""
    return isinstance(error, _PERMANENT)


def where(error: BaseException) -> str:
    """Return the place in the user's code that raised: file, line and function; empty if there is none.

    These hold no values, so they may be logged and stored. The source is not read: many may fail in one round.
    """
    for frame, line in reversed([*traceback.walk_tb(error.__traceback__)]):
        name = str(frame.f_globals.get("__name__", ""))
        if not (name == _OURS or name.startswith(f"{_OURS}.")):
            return f"{os.path.basename(frame.f_code.co_filename)}:{line} in {frame.f_code.co_name}"
    return ""


def described(error: BaseException) -> str:
    """Return the type of an error and where it was raised, without its message, which may quote payloads."""
    place = where(error)
    return f"{type(error).__name__} at {place}" if place else type(error).__name__
