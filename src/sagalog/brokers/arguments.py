"""Checks of what sources and sinks are made with."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from ..errors import DefinitionError
from ..text import given

LONGEST = timedelta(days=1)


def check_name(what: str, value: Any, *, also: str) -> None:
    """Raise DefinitionError unless it is a text of ASCII letters, digits and `also`."""
    if not isinstance(value, str) or not value or not value.isascii():
        raise DefinitionError(f"{what}= must be a name, not {value!r}")
    plain = value.translate({ord(c): None for c in also})
    if plain and not plain.isalnum():
        raise DefinitionError(f"{what}= may have letters, digits and any of {also!r}, not {value!r}")


def text_or(what: str, value: Any, otherwise: str) -> str:
    """Return a text that was given, or `otherwise` for None. Raises DefinitionError for anything else."""
    if value is None:
        return otherwise
    if not isinstance(value, str) or not value or any("\ud800" <= c <= "\udfff" for c in value):
        raise DefinitionError(f"{what}= must be a name, or None, not {given(value)}")
    return value


def letters_of(value: Any, otherwise: str, *read: str) -> str:
    """Return where dead letters go: what was given, or `otherwise` for None. Raises DefinitionError for what is `read`."""
    letters = text_or("dead_letters", value, otherwise)
    if letters in read:
        raise DefinitionError(
            f"dead_letters= must not be what the source reads ({letters!r}): each dead letter would be read again"
        )
    return letters


def options_of(options: Any) -> dict[str, Any]:
    """Return a copy of `options=`, whose values may be secrets. Raises DefinitionError unless it is a mapping of names."""
    if options is None:
        return {}
    if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
        raise DefinitionError(f"options= must be a mapping from names to values, not {type(options).__name__}")
    return dict(options)
