"""Checks of what sources and sinks are made with."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from ..errors import DefinitionError

LONGEST = timedelta(days=1)


def check_name(what: str, value: Any, *, also: str) -> None:
    """Raise DefinitionError unless it is a text of ASCII letters, digits and `also`."""
    if not isinstance(value, str) or not value or not value.isascii():
        raise DefinitionError(f"{what}= must be a name, not {value!r}")
    plain = value.translate({ord(c): None for c in also})
    if plain and not plain.isalnum():
        raise DefinitionError(f"{what}= may have letters, digits and any of {also!r}, not {value!r}")
