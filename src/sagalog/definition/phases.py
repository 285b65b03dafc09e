"""Phases: the declared states of a saga, which events each of them expects, and what acts when one is entered or left.

    phases = Phase             an Enum; a new instance is in its first member, or in `initial_phase`
    @on(Paid, during=...)      the phases that expect the event; `unexpected=`: what the others do with it
    yield Enter(Phase.PAID)    goes on to another phase, in the step at hand
    @on_enter(...) @on_leave(...)

A phase is stored by the name of its member. To rename one, keep the old name as an alias: `ORDERED = PLACED`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from ..errors import DefinitionError

F = TypeVar("F", bound=Callable[..., Any])

Unexpected: TypeAlias = Literal["raise", "ignore", "keep"]
During: TypeAlias = Enum | Iterable[Enum]
Policies: TypeAlias = Unexpected | Mapping[Any, Unexpected]  # of all other phases, or by phase (or tuple of phases)

POLICIES: tuple[str, ...] = get_args(Unexpected)


def on_enter(*phases: Enum) -> Callable[[F], F]:
    """Run the method whenever one of these phases is entered, in the step that enters it.

    It takes (self, state) or (self, state, context), may change the state, and gives actions as a handler does; they take
    the place of the `Enter`. A new instance enters its first phase: that acts, too.
    """
    return _acting("__sagalog_enters__", "@on_enter", phases)


def on_leave(*phases: Enum) -> Callable[[F], F]:
    """Run the method whenever one of these phases is left for another. It may not `Enter` one itself.

    Ending the saga leaves no phase.
    """
    return _acting("__sagalog_leaves__", "@on_leave", phases)


def _acting(mark: str, what: str, phases: tuple[Enum, ...]) -> Callable[[F], F]:
    members = members_of(f"{what}(...)", phases)

    def note(function: F) -> F:
        if not callable(function) or not hasattr(function, "__dict__") or isinstance(function, type):
            raise DefinitionError(f"{what} decorates a method that takes (self, state), not {type(function).__name__}")
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise DefinitionError(f"{what} decorates a plain method: {function.__name__}() may not be async")
        function.__dict__.setdefault(mark, []).extend(members)
        return function

    return note


def members_of(what: str, given: During | None) -> tuple[Enum, ...]:
    """Return the phases that are named: one, or several. Raises DefinitionError for anything that is no Enum's member."""
    if given is None:
        return ()
    members = (given,) if isinstance(given, Enum) else given
    if isinstance(members, (str, bytes, type)) or not isinstance(members, Iterable):
        raise DefinitionError(f"{what} takes one or more phases: members of the saga's Enum")
    found = tuple(members)
    for member in found:
        if not isinstance(member, Enum):
            raise DefinitionError(f"{what} takes phases, members of the saga's Enum, not {type(member).__name__}")
    if not found:
        raise DefinitionError(f"{what} names no phase")
    return found


def policies_of(what: str, given: Policies | None) -> tuple[str, dict[Enum, str]]:
    """Return what is to be done with an unexpected event in all other phases (or nothing), and by phase."""
    if given is None:
        return "", {}
    if isinstance(given, Mapping):
        found: dict[Enum, str] = {}
        for phases, policy in given.items():
            for member in members_of(what, phases):
                found[member] = _checked(what, policy)
        return "", found
    return _checked(what, given), {}


def _checked(what: str, policy: Any) -> str:
    if not isinstance(policy, str) or policy not in POLICIES:
        raise DefinitionError(
            f'{what} must be "raise", "ignore" or "keep" (until a phase expects it), or a mapping of phases to these'
        )
    return policy
