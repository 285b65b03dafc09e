"""`when_all`: a method that runs once several events have been handled, whatever their order."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, get_origin, get_type_hints, overload

import msgspec

from ..errors import DefinitionError
from .annotations import wants_event
from .context import StepContext
from .routes import Actions
from .schema import schema_of

H = TypeVar("H")
S = TypeVar("S")


class Join(msgspec.Struct, frozen=True):
    """One method that runs when all its legs have come. `name` stands in stored records, as do the legs' names."""

    name: str
    legs: tuple[str, ...]
    method: str
    takes_context: bool


class WhenAll:
    """What `when_all` gives: it marks the method that it decorates."""

    def __init__(self, events: tuple[type, ...], name: str | None) -> None:
        self.events = events
        self.name = name

    @overload
    def __call__(self, function: Callable[[H, S], Actions]) -> Callable[[H, S], Actions]: ...

    @overload
    def __call__(self, function: Callable[[H, S, StepContext], Actions]) -> Callable[[H, S, StepContext], Actions]: ...

    def __call__(self, function: Any) -> Any:
        """Mark `function`. Raises DefinitionError for what is no plain method, or is marked already."""
        if not inspect.isfunction(function):
            raise DefinitionError(
                f"@when_all decorates a method that takes (self, state), not {type(function).__name__}"
            )
        if hasattr(function, "__sagalog_join__"):
            raise DefinitionError(f"{function.__name__}() is decorated with @when_all twice: write two methods")
        if hasattr(function, "__sagalog_routes__") or hasattr(function, "__sagalog_refused__"):
            raise DefinitionError(f"{function.__name__}() has no event of its own: remove @when_all or @on")
        function.__dict__["__sagalog_join__"] = self
        return function


def when_all(*events: type, name: str | None = None) -> WhenAll:
    """Run the method once in the life of an instance: after the handler of the last of these events, in its step.

    Each event has a handler of its own. The method takes (self, state), or (self, state, context), and its actions come
    after those of that handler; where those end the saga, it does not run. `name` is what progress is stored under, the
    method's name if it is not given.
    """
    if len(events) < 2:
        raise DefinitionError("@when_all takes at least two event types: @when_all(PaymentReceived, StockReserved)")
    for event in events:
        if not isinstance(event, type) or get_origin(event) is not None:
            raise DefinitionError(f"@when_all takes event types, not {event!r}")
    if len(set(events)) < len(events):
        raise DefinitionError("@when_all names an event twice: each counts once")
    if name is not None and (not isinstance(name, str) or not name):
        raise DefinitionError("@when_all takes name= as a string that is not empty")
    return WhenAll(events, name)


def joins_of(cls: type, handled: Iterable[type], state: Any) -> tuple[Join, ...]:
    """Return the joins of a saga class, in the order in which they are written. Raises DefinitionError."""
    found: dict[str, Join] = {}
    known = set(handled)
    for method in dict.fromkeys(name for base in reversed(cls.__mro__) for name in vars(base)):
        function = getattr(cls, method, None)
        mark = getattr(function, "__sagalog_join__", None)
        if mark is None:
            continue
        for event in mark.events:
            if event not in known:
                raise DefinitionError(
                    f"{cls.__name__}.{method}() waits for {event.__name__}, which {cls.__name__} does not handle: "
                    f"decorate a method with @on({event.__name__}, key=...)"
                )
        name = mark.name or method
        if name in found:
            raise DefinitionError(
                f"{cls.__name__} has two joins named {name!r}: {found[name].method}() and {method}(); rename one"
            )
        legs = tuple(schema_of(event).name for event in mark.events)
        found[name] = Join(name, legs, method, _takes_context(cls.__name__, function, state))
    return tuple(found.values())


def _takes_context(saga: str, function: Any, state: Any) -> bool:
    parameters = list(inspect.signature(function).parameters.values())
    plain = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    required = [one for one in plain if one.default is one.empty]
    wrong = len(plain) != len(parameters) or len(plain) not in (2, 3) or len(required) < 2
    if wrong or (len(plain) == 3 and wants_event(function, plain[2].name)):
        raise DefinitionError(
            f"{saga}.{function.__name__}() must take (self, state) or (self, state, context), and takes "
            f"({', '.join(str(one) for one in parameters)}): it has no event of its own"
        )
    try:
        hints = get_type_hints(function)
    except Exception:  # whatever an annotation may raise when it is evaluated
        hints = {}
    declared = hints.get(plain[1].name, Any)
    if (
        declared is not Any
        and isinstance(declared, type)
        and isinstance(state, type)
        and not issubclass(state, declared)
    ):
        raise DefinitionError(
            f"{saga}.{function.__name__}() is annotated to take a {declared.__name__} as state, but gets a "
            f"{state.__name__}"
        )
    return len(plain) == 3
