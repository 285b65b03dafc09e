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
    """Let the method act whenever one of these phases is entered, in the step that enters it.

    It takes (self, state) or (self, state, context), may change the state, and gives actions as a handler does; they take
    the place of the `Enter`. A new instance enters its first phase: that acts, too.
    """
    return _acting("__sagalog_enters__", "@on_enter", phases)


def on_leave(*phases: Enum) -> Callable[[F], F]:
    """Let the method act whenever one of these phases is left for another. It may not `Enter` one itself.

    Ending the saga leaves no phase.
    """
    return _acting("__sagalog_leaves__", "@on_leave", phases)


def _acting(mark: str, what: str, phases: tuple[Enum, ...]) -> Callable[[F], F]:
    members = members_of(f"{what}(...)", phases)

    def note(function: F) -> F:
        if not callable(function) or not hasattr(function, "__dict__") or isinstance(function, type):
            raise DefinitionError(
                f"{what} decorates a method that takes (self, state), not a {type(function).__name__}"
            )
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
        raise DefinitionError(f"{what} takes a phase, or several of them: members of the saga's Enum")
    found = tuple(members)
    for member in found:
        if not isinstance(member, Enum):
            raise DefinitionError(f"{what} takes phases, members of the saga's Enum, not a {type(member).__name__}")
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
            f'{what} is "raise", "ignore" or "keep" (until a phase expects it), or says one of them for each phase'
        )
    return policy


class PhaseTable:
    """What a saga's phases expect and do; made and checked with its class."""

    def __init__(self, saga: str, phases: Any, initial: Any) -> None:
        if not isinstance(phases, type) or not issubclass(phases, Enum) or not phases.__members__:
            raise DefinitionError(f"{saga}.phases is an Enum with a member for each phase, not {_shown(phases)}")
        self.saga = saga
        self.phases = phases
        self.initial: Enum = next(iter(phases)) if initial is None else initial
        self.check(f"{saga}.initial_phase", self.initial)
        self._methods: dict[type, dict[str, str]] = {}  # by event and phase: the method that handles it
        self._anywhere: dict[type, str] = {}  # by event: the method that handles it in every phase
        self._policies: dict[type, dict[str, str]] = {}
        self._elsewhere: dict[type, str] = {}
        self.entering: dict[str, str] = {}  # by phase: the method that acts
        self.leaving: dict[str, str] = {}

    def check(self, what: str, phase: Any) -> None:
        """Raise DefinitionError for what is no phase of this saga."""
        if not isinstance(phase, self.phases):
            names = ", ".join(member.name for member in self.phases)
            raise DefinitionError(
                f"{what}: {_shown(phase)} is no phase of {self.saga}; its phases are {self.phases.__name__}: {names}"
            )

    def add(
        self, event: type, method: str, during: tuple[Enum, ...], elsewhere: str, policies: Mapping[Enum, str]
    ) -> None:
        """Note a handler. Raises DefinitionError for a second one in a phase, or two policies for one pair."""
        what = f"{self.saga}.{method}(), for {event.__name__}"
        for member in (*during, *policies):
            self.check(what, member)
        here = self._methods.setdefault(event, {})
        for member in during:
            if member.name in here:
                raise DefinitionError(
                    f"{self.saga} handles {event.__name__} twice during {member.name}: in {here[member.name]}() and in "
                    f"{method}(); keep one"
                )
            here[member.name] = method
        if not during:
            if here or event in self._anywhere:
                raise DefinitionError(
                    f"{self.saga} handles {event.__name__} twice: {method}() takes it during every phase; keep one, or "
                    "give each its during="
                )
            if elsewhere or policies:
                raise DefinitionError(f"{what}: unexpected= without during=, for it is expected during every phase")
            self._anywhere[event] = method
        elif event in self._anywhere:
            raise DefinitionError(
                f"{self.saga} handles {event.__name__} twice: {self._anywhere[event]}() takes it during every phase; keep "
                "one, or give each its during="
            )
        declared = self._policies.setdefault(event, {})
        for member, policy in policies.items():
            if declared.setdefault(member.name, policy) != policy:
                raise DefinitionError(f"{what}: unexpected= says two things of {member.name}")
        if elsewhere and self._elsewhere.setdefault(event, elsewhere) != elsewhere:
            raise DefinitionError(f"{what}: unexpected= says another thing than the handler before")

    def act(self, method: str, enters: Iterable[Enum], leaves: Iterable[Enum]) -> None:
        """Note a method that acts when phases are entered or left."""
        for acting, members, what in ((self.entering, enters, "@on_enter"), (self.leaving, leaves, "@on_leave")):
            for member in members:
                self.check(f"{what} of {self.saga}.{method}()", member)
                other = acting.setdefault(member.name, method)
                if other != method:
                    raise DefinitionError(
                        f"{self.saga} has two {what} for {member.name}: {other}() and {method}(); keep one"
                    )

    def close(self) -> None:
        """Raise DefinitionError for a policy of a phase that expects the event."""
        for event, declared in self._policies.items():
            for name in declared:
                if name in self._methods.get(event, {}):
                    raise DefinitionError(
                        f"{self.saga}: unexpected= of {event.__name__} names {name}, where {self._methods[event][name]}() "
                        "expects it"
                    )

    def expects(self, event: type, phase: Enum) -> bool:
        """Say whether a handler takes the event during that phase. Events without one of their own are always expected."""
        here = self._methods.get(event)
        return not here or phase.name in here

    def method(self, event: type, phase: Enum) -> str | None:
        """Return the method that handles the event during that phase, if it is one of those that were declared."""
        here = self._methods.get(event)
        return here.get(phase.name) if here else self._anywhere.get(event)

    def policy(self, event: type, phase: Enum) -> str:
        """Return what is declared for an event that this phase does not expect; nothing where nothing is."""
        return self._policies.get(event, {}).get(phase.name) or self._elsewhere.get(event, "")

    def phases_of(self, event: type) -> tuple[Enum, ...]:
        """Return the phases that expect the event."""
        return tuple(member for member in self.phases if self.expects(event, member))

    def named(self, name: str) -> Enum | None:
        """Return the phase that is stored under this name: a member's, or an alias of one."""
        return self.phases.__members__.get(name)


def _shown(value: Any) -> str:
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    return value.__name__ if isinstance(value, type) else f"a {type(value).__name__}"
