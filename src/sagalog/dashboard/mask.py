"""Payload fields that nobody is to see: replaced by dots wherever a state, a command or an event is shown."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from ..errors import DefinitionError

MASKED = "••••"


class Mask:
    """Replaces the values of named fields.

    A pattern is a field's name, at any depth, or a path whose last part is the field: `password`, `card.*`,
    `*_token`. Case does not matter; `*`, `?` and `[...]` are as in file names; lists add nothing to a path.
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self.patterns = tuple(patterns)
        self._parts = [pattern.lower().split(".") for pattern in self.patterns]
        for pattern, parts in zip(self.patterns, self._parts, strict=True):
            if not all(parts):
                raise DefinitionError(f"a mask is a field's name or a path such as card.number, not {pattern!r}")

    def __bool__(self) -> bool:
        return bool(self._parts)

    def hides(self, path: tuple[str, ...]) -> bool:
        """Say whether the field at that path is masked."""
        for parts in self._parts:
            if len(parts) <= len(path):
                tail = path[len(path) - len(parts) :]
                if all(fnmatchcase(name.lower(), part) for name, part in zip(tail, parts, strict=True)):
                    return True
        return False

    def apply(self, value: Any, path: tuple[str, ...] = ()) -> Any:
        """Return decoded JSON with the masked fields replaced; the value itself is not changed."""
        if not self._parts:
            return value
        if isinstance(value, dict):
            return {
                name: MASKED if self.hides((*path, name)) else self.apply(inner, (*path, name))
                for name, inner in value.items()
            }
        if isinstance(value, list):
            return [self.apply(inner, path) for inner in value]
        return value
