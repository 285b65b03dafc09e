"""The one logger, `sagalog`, and the fields that each of its records carries, whatever it tells.

`saga`, `correlation_id`, `sequence_nr`, `message_id` and `command_id`: None where there is none, so that a format may
name them. Payloads, and the messages of errors that may quote one, are never logged.
"""

from __future__ import annotations

import logging
from types import TracebackType

from .errors import SagalogError
from .text import line

log: logging.Logger = logging.getLogger("sagalog")
_FIELDS = ("saga", "correlation_id", "message_id", "command_id")


class OneLine(logging.Filter):
    """Makes what a record quotes fit for one line: an id may hold a line break, and then a line of its own making."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(one if isinstance(one, (int, float)) else line(str(one)) for one in record.args)
        for name in _FIELDS:
            value = getattr(record, name, None)
            if isinstance(value, str):
                setattr(record, name, line(value))
        return True


log.addFilter(OneLine())


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
    said = str(error) if isinstance(error, SagalogError) else "its message is withheld, because it may quote a payload"
    shown = WithheldError(line(f"{type(error).__name__}: {said}"))
    return type(shown), shown, error.__traceback__
