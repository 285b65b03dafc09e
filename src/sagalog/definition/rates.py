"""The bounds of a rate: how many commands, or calls of an activity, may leave in a second."""

from __future__ import annotations

from typing import Any

from ..errors import DefinitionError
from ..text import given

MAX_RATE = 1e6  # a second
MIN_RATE = 1e-5  # about one a day


def check_rate(name: str, value: Any, *, of: str = "a command", each: str = "commands") -> None:
    """Raise DefinitionError unless `value` is a number of commands a second that can be kept to."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise DefinitionError(f"{name} of {of} must be a number of {each} a second, not {type(value).__name__}")
    if not MIN_RATE <= value <= MAX_RATE:  # nan, too, is not; and no number is made a float, which may be too large
        raise DefinitionError(
            f"{name} of {of} must be from {MIN_RATE:g} (about one a day) to {MAX_RATE:,.0f} a second, not {given(value)}"
        )
