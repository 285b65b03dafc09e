"""Durations as users give them: always a timedelta, and turned into seconds here, once, when settings are made."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from .errors import DefinitionError

LONGEST = timedelta(seconds=1_000_000_000)  # some 31 years: what is longer is a mistake, and would not fit into moments


def seconds_of(name: str, value: Any, *, zero: bool = False, most: timedelta = LONGEST) -> float:
    """Return the seconds of an argument called `name`, which is more than 0 (or 0, if `zero`) and at most `most`.

    Raises DefinitionError, which names the argument and shows how it is written.
    """
    if not isinstance(value, timedelta):
        raise DefinitionError(f"{name} must be a timedelta, not {_shown(value)}: {remedy(name, value)}")
    if value < timedelta(0) or not (value or zero):
        raise DefinitionError(f"{name} must {'not be negative' if zero else 'be greater than 0'}, and is {value}")
    if value > most:
        raise DefinitionError(f"{name} must be at most {most.total_seconds():,.0f} seconds ({most}), and is {value}")
    return value.total_seconds()


def remedy(name: str, value: Any) -> str:
    """Return how such an argument is written, in seconds: `lease=timedelta(seconds=5)`."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= LONGEST.total_seconds()
    return f"{name.partition(' ')[0].rstrip('=')}=timedelta(seconds={value if number else 5})"


def _shown(value: Any) -> str:
    """Say what was given instead, without its value, which may be a secret."""
    return str(value) if value is None or value is True or value is False else type(value).__name__
