"""Payload fields that nobody is to see: replaced by dots wherever a state, a command or an event is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from ..errors import DefinitionError

MASKED = "••••"
DEEPEST = 60


class Hidden:
    """A masked value: it can be told from another one, and shows nothing."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hidden) and self._value == other._value

    __hash__: ClassVar[None]  # type: ignore[assignment]

    def __str__(self) -> str:
        return MASKED

    __repr__ = __str__


class Mask:
    """Replaces the values of named fields.

    A pattern is a field's name, at any depth, or a path whose last part is the field: `password`, `card.*`,
    `*_token`. Case does not matter; `*`, `?` and `[...]` are as in file names; lists add nothing to a path.
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        if isinstance(patterns, (str, bytes)) or not isinstance(patterns, Iterable):
            raise DefinitionError(f"masks= must be a list of field names: masks=[...], not {type(patterns).__name__}")
        self.patterns: tuple[str, ...] = tuple(patterns)
        if not all(isinstance(pattern, str) for pattern in self.patterns):
            raise DefinitionError("masks= must be a list of field names, each a string")
        self._parts = [pattern.lower().split(".") for pattern in self.patterns]
        for pattern, parts in zip(self.patterns, self._parts, strict=True):
            if not all(parts):
                raise DefinitionError(f"a mask must be a field's name or a path such as card.number, not {pattern!r}")

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

    def apply(self, value: Any) -> Any:
        """Return decoded JSON with the masked fields replaced by dots; the value itself is not changed.

        With a mask, what is nested deeper than DEEPEST is left out: a masked field may be in it.
        """
        return self._replaced(value, (), 0, lambda hidden: MASKED)

    def veiled(self, value: Any) -> Any:
        """Return decoded JSON with the masked fields as Hidden, so that a change of one is still seen."""
        return self._replaced(value, (), 0, Hidden)

    def _replaced(self, value: Any, path: tuple[str, ...], depth: int, hide: Callable[[Any], Any]) -> Any:
        if not self._parts or not isinstance(value, (dict, list)):
            return value
        if depth > DEEPEST:
            return hide(value)
        if isinstance(value, list):
            return [self._replaced(inner, path, depth + 1, hide) for inner in value]
        return {
            name: hide(inner) if self.hides((*path, name)) else self._replaced(inner, (*path, name), depth + 1, hide)
            for name, inner in value.items()
        }
