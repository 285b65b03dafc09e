"""`leg`: the method that makes the commands of a large `Gather`, one by one, as they are sent."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TypeVar

import msgspec

from ..errors import DefinitionError
from ..text import given
from .actions import Send, StartChild

H = TypeVar("H")
S = TypeVar("S")
L = TypeVar("L", bound=Send | StartChild)

MOST_AT_ONCE = 1000


class Legs(msgspec.Struct, frozen=True):
    """The method that makes the commands of a gather of this name, and how many of them may be unanswered."""

    name: str
    method: str
    at_once: int


def leg(name: str, *, at_once: int = 100) -> Callable[[Callable[[H, S, int], L]], Callable[[H, S, int], L]]:
    """Make the commands of `Gather(name, how_many)`: the method takes (self, state, number), from 0, and returns a Send, or
    a StartChild.

    It is called in the step that sends the command: at most `at_once` (up to 1,000) are unanswered at a time. It may be
    called for a number again if that step is tried again.
    """
    if not isinstance(name, str) or not name:
        raise DefinitionError('@leg takes the name of a gather: @leg("parcels")')
    if type(at_once) is not int or not 1 <= at_once <= MOST_AT_ONCE:
        raise DefinitionError(f"@leg({name!r}) takes at_once= from 1 to {MOST_AT_ONCE:,}, not {given(at_once)}")

    def mark(function: Callable[[H, S, int], L]) -> Callable[[H, S, int], L]:
        if not inspect.isfunction(function) or inspect.iscoroutinefunction(function):
            raise DefinitionError(f"@leg({name!r}) decorates a plain method that takes (self, state, number)")
        if len(inspect.signature(function).parameters) != 3:
            raise DefinitionError(f"{function.__name__}() makes a leg: it must take (self, state, number)")
        function.__dict__["__sagalog_leg__"] = Legs(name, function.__name__, at_once)
        return function

    return mark


def legs_of(cls: type) -> dict[str, Legs]:
    """Return the methods of a saga class that make legs, by the gather's name. Raises DefinitionError."""
    found: dict[str, Legs] = {}
    for method in dir(cls):
        mark = getattr(getattr(cls, method, None), "__sagalog_leg__", None)
        if mark is None:
            continue
        if mark.name in found:
            raise DefinitionError(
                f"{cls.__name__} makes the legs of {mark.name!r} twice: in {found[mark.name].method}() and in {method}(); "
                "keep one"
            )
        found[mark.name] = Legs(mark.name, method, mark.at_once)
    return found
