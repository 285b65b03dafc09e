"""Checks of what sources and sinks are made with."""

from __future__ import annotations

from typing import Any

from ..errors import DefinitionError

MAX_SECONDS = 86_400


def check_name(what: str, value: Any, *, also: str) -> None:
    """Raise DefinitionError unless it is a text of ASCII letters, digits and `also`."""
    if not isinstance(value, str) or not value or not value.isascii():
        raise DefinitionError(f"{what}= is a name, not {value!r}")
    plain = value.translate({ord(c): None for c in also})
    if plain and not plain.isalnum():
        raise DefinitionError(f"{what}= is letters, digits and any of {also!r}, not {value!r}")


def check_seconds(what: str, value: Any) -> None:
    """Raise DefinitionError unless it is a number of seconds over 0, up to a day."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= MAX_SECONDS:
        raise DefinitionError(f"{what}= is a number of seconds over 0, up to {MAX_SECONDS:,}, not {value!r}")
