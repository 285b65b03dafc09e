"""Checks of what callers give: each raises our own error, which names the argument, before anything is done."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from ..durations import remedy
from ..errors import DefinitionError, SagalogError
from ..text import given

MAX_RETENTION = timedelta(days=365_000)
LAST_YEAR = 8998  # of an event's own time: with the longest retention added, it can still be stored


def check_whole(name: str, value: Any, *, least: int) -> None:
    """Raise DefinitionError unless `value` is an int (no bool) of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise DefinitionError(f"{name} must be a whole number (int), not {_shown(value)}")
    if value < least:
        raise DefinitionError(f"{name} must be {_at_least(least)}, and is {given(value)}")


def check_duration(name: str, value: Any) -> None:
    """Raise DefinitionError unless `value` is a timedelta, not negative, that can be added to any moment of use."""
    if not isinstance(value, timedelta):
        raise DefinitionError(f"{name} must be a timedelta, not {_shown(value)}: {remedy(name, value)}")
    if value < timedelta(0):
        raise DefinitionError(f"{name} must not be negative")
    if value > MAX_RETENTION:
        raise DefinitionError(f"{name} must be at most {MAX_RETENTION.days:,} days (a thousand years), and is {value}")


def check_type(name: str, value: Any, expected: type, what: str) -> None:
    """Raise DefinitionError unless `value` is of the type that is expected, called `what`."""
    if not isinstance(value, expected):
        raise DefinitionError(f"{name} must be {what}, not {_shown(value)}")


def check_text(
    name: str, value: Any, *, empty: bool = False, error: type[SagalogError] = DefinitionError, end: str = ""
) -> None:
    """Raise `error` unless `value` is a text that can be stored."""
    if not isinstance(value, str):
        raise error(f"{name} must be a str, not {_shown(value)}{end}")
    if not value and not empty:
        raise error(f"{name} must not be empty{end}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise error(f"{name} contains a lone surrogate, which is not valid Unicode{end}") from None


def check_moment(name: str, value: Any, error: type[SagalogError] = DefinitionError) -> None:
    """Raise `error` unless `value` is an aware datetime that retention can be added to."""
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise error(f"{name} must be an aware datetime, e.g. datetime.now(UTC), not {_shown(value)}")
    if not 2 <= value.year <= LAST_YEAR:
        raise error(f"{name} must lie in the years 2 to {LAST_YEAR}, not in {value.year}")


def _at_least(least: int) -> str:
    return "greater than 0" if least == 1 else "not negative" if least == 0 else f"at least {least}"


def _shown(value: Any) -> str:
    """Say what was given instead, without its value, which may be a secret."""
    if value is None or value is True or value is False:
        return str(value)
    if isinstance(value, datetime):
        return "a naive one"
    return type(value).__name__
