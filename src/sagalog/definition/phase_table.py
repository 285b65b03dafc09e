"""Which handler takes an event during which phase, what becomes of it in the others, and what acts: checked together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from types import MethodType
from typing import Any

from ..errors import DefinitionError
from .annotations import check_of_one
from .phases import POLICIES
from .routes import Route


class PhaseTable:
    """What a saga's phases expect and do; made and checked with its class."""

    def __init__(self, saga: str, phases: Any, initial: Any) -> None:
        if isinstance(phases, type) and issubclass(phases, Enum) and not phases.__members__:
            raise DefinitionError(
                f"{saga}.phases must be an Enum with a member for each phase, but {phases.__name__} has none"
            )
        if not isinstance(phases, type) or not issubclass(phases, Enum):
            raise DefinitionError(f"{saga}.phases must be an Enum with a member for each phase, not {_shown(phases)}")
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
                f"{what}: {_shown(phase)} is not a phase of {self.saga}; its phases are {self.phases.__name__}: {names}"
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
                raise DefinitionError(
                    f"{what}: unexpected= needs during=: without it, the event is expected in every phase"
                )
            self._anywhere[event] = method
        elif event in self._anywhere:
            raise DefinitionError(
                f"{self.saga} handles {event.__name__} twice: {self._anywhere[event]}() takes it during every phase; keep "
                "one, or give each its during="
            )
        declared = self._policies.setdefault(event, {})
        for member, policy in policies.items():
            if declared.setdefault(member.name, policy) != policy:
                raise DefinitionError(f"{what}: unexpected= names {member.name} twice")
        if elsewhere and self._elsewhere.setdefault(event, elsewhere) != elsewhere:
            raise DefinitionError(f"{what}: unexpected= differs from that of the handler before")

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
                        f"{self.saga}: unexpected= of {event.__name__} names {name}, where {self._methods[event][name]}()"
                        " expects it"
                    )

    def expects(self, event: type, phase: Enum) -> bool:
        """Say whether a handler takes the event during that phase. Events without one of their own are always expected."""
        here = self._methods.get(event)
        return not here or phase.name in here

    def depends(self, event: type) -> bool:
        """Say whether a handler takes the event in some phases only."""
        return bool(self._methods.get(event))

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


def phase_table(cls: Any, routes: tuple[Route, ...], acting: list[str]) -> PhaseTable | None:
    """Return the table of a saga's phases, checked; None for one without."""
    name = cls.__name__
    if type(cls.most_kept) is not int or cls.most_kept < 1:
        raise DefinitionError(f"{name}.most_kept must be a whole number, 1 or more")
    if cls.unexpected not in POLICIES:
        raise DefinitionError(
            f'{name}.unexpected must be "raise", "ignore" or "keep" (until a phase expects the event)'
        )
    if cls.phases is None:
        bound = next((route for route in routes if route.during or route.elsewhere or route.policies), None)
        what = f"during= or unexpected= of {bound.method}()" if bound is not None else ""
        what = what or (f"{acting[0]}(), which runs when a phase is entered or left," if acting else "")
        what = what or ("initial_phase" if cls.initial_phase is not None else "")
        if what:
            raise DefinitionError(f"{name} has no phases, so {what} has no effect: declare phases = an Enum of them")
        return None
    check_of_one(f"{name}.phase_of()", MethodType(cls.phase_of, cls), "the state")
    table = PhaseTable(name, cls.phases, cls.initial_phase)
    for route in routes:
        table.add(route.event, route.method, route.during, route.elsewhere, dict(route.policies))
        if route.starts and route.during and table.initial not in route.during:
            raise DefinitionError(
                f"{name}.{route.method}() starts the saga, which is then in {table.initial.name}: name that phase in "
                "during="
            )
    table.close()
    for attribute in acting:
        function = getattr(cls, attribute)
        table.act(attribute, getattr(function, "__sagalog_enters__", ()), getattr(function, "__sagalog_leaves__", ()))
    return table


def _shown(value: Any) -> str:
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    return value.__name__ if isinstance(value, type) else type(value).__name__
