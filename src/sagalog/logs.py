"""The one logger, `sagalog`, and the fields that each of its records carries, whatever it tells.

`saga`, `correlation_id`, `sequence_nr`, `message_id` and `command_id`: None where there is none, so that a format may
name them. Payloads, and the messages of errors that may quote one, are never logged.
"""

from __future__ import annotations

import logging
from types import TracebackType

from .errors import SagalogError

log = logging.getLogger("sagalog")


def about(
    *,
    saga: str | None = None,
    correlation_id: str | None = None,
    sequence_nr: int | None = None,
    message_id: str | None = None,
    command_id: str | None = None,
) -> dict[str, str | int | None]:
    """Return the fields of a log record, for `extra=`."""
    return {
        "saga": saga,
        "correlation_id": correlation_id,
        "sequence_nr": sequence_nr,
        "message_id": message_id,
        "command_id": command_id,
    }


class WithheldError(Exception):
    """Stands in a log for an error whose own message may quote a payload."""


def trace_of(error: BaseException) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    """Return an error for `exc_info=`: where it was raised, without what it and its causes say, unless it is ours."""
    said = str(error) if isinstance(error, SagalogError) else "its message is withheld, it may quote a payload"
    shown = WithheldError(f"{type(error).__name__}: {said}")
    return type(shown), shown, error.__traceback__
