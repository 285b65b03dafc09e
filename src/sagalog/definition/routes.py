"""The decorators that make a method the handler of an event or of a refusal, and what they note on it."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Generator, Iterable
from enum import Enum
from operator import attrgetter
from typing import Any, Generic, Literal, TypeAlias, TypeVar, get_args, get_origin, overload
from uuid import UUID

import msgspec

from ..errors import DefinitionError
from .actions import Action
from .annotations import attributes
from .context import StepContext
from .phases import During, Policies, members_of, policies_of
from .schema import schema_of
from .sequences import Sequence, sequence_of

S = TypeVar("S")
E = TypeVar("E")
H = TypeVar("H")
F = TypeVar("F", bound=Callable[..., Any])

Actions: TypeAlias = (
    Action
    | Iterable[Action]
    | Generator[Action, Any, "Action | Iterable[Action] | None"]
    | AsyncIterable[Action]
    | Awaitable["Action | Iterable[Action] | AsyncIterable[Action] | None"]
    | None
)
CorrelationKey: TypeAlias = str | Callable[[E], str | int | UUID | None]
Again: TypeAlias = Literal["handle", "ignore", "raise"]


class Route(msgspec.Struct, frozen=True):
    """One decorated handler: which event, how its correlation id is found, and whether it may start the saga."""

    event: type
    key: Callable[[Any], Any]
    attribute: str | None  # that holds the key; None: key is the user's function, whose None means "not for this saga"
    starts: bool
    while_compensating: bool
    method: str
    again: Again = "handle"  # what it means for a life that an event of this type has met already
    during: tuple[Enum, ...] = ()  # the phases that expect it; none are named: all of them
    elsewhere: str = ""  # what becomes of it in any other phase, where that is declared ...
    policies: tuple[tuple[Enum, str], ...] = ()  # ... or phase by phase
    sequence: Sequence | None = None  # in which its sender numbers it
    by: str = ""  # the key of the saga that `key` reads; empty: it reads the correlation id


class Handles(Generic[E]):
    """What `starts` and `on` give: it marks the method it decorates as the handler of an event.

    Type checkers see here that the method takes that event, and the step's context if it takes more. That its state is
    the saga's, they see with the plugin `sagalog.mypy`; classes are checked for both when they are made, as far as
    annotations can be resolved then.
    """

    def __init__(
        self,
        event: type[E],
        key: CorrelationKey[E],
        *,
        starts: bool,
        while_compensating: bool,
        again: Again = "handle",
        during: During | None = None,
        unexpected: Policies | None = None,
        sequence: str | Sequence | None = None,
        by: str | None = None,
    ) -> None:
        self.event = event
        read, attribute = _key_reader(event, key)
        self.read: Callable[[Any], Any] = read
        self.attribute: str | None = attribute
        if not isinstance(while_compensating, bool):
            raise DefinitionError(f"while_compensating must be True or False, not {type(while_compensating).__name__}")
        if again not in get_args(Again):
            raise DefinitionError(
                f'again= of {event.__name__} must be "handle", "ignore" or "raise": what to do with the event if the '
                "saga is started already"
            )
        self.starts = starts
        self.while_compensating = while_compensating
        self.again: Again = again
        self.during: tuple[Enum, ...] = members_of(f"during= of {event.__name__}", during)
        elsewhere, policies = policies_of(f"unexpected= of {event.__name__}", unexpected)
        self.elsewhere: str = elsewhere
        self.policies: dict[Enum, str] = policies
        self.sequence: Sequence | None = sequence_of(event, sequence, schema_of(event).name)
        if self.sequence is not None and again != "handle":
            raise DefinitionError(
                f'again="{again}" of {event.__name__} would skip numbers of its sequence: leave it at "handle"'
            )
        if by is not None and (not isinstance(by, str) or not by):
            raise DefinitionError(f"by= of {event.__name__} must be the name of a key that the saga declares")
        if by is not None and self.sequence is not None:
            raise DefinitionError(
                f"{event.__name__} is numbered for one instance by sequence=, but by={by!r} reaches many: keep one"
            )
        self.by: str = by or ""

    @overload
    def __call__(self, function: Callable[[H, S, E], Actions]) -> Callable[[H, S, E], Actions]: ...

    @overload
    def __call__(
        self, function: Callable[[H, S, E, StepContext], Actions]
    ) -> Callable[[H, S, E, StepContext], Actions]: ...

    def __call__(self, function: Any) -> Any:
        """Mark `function` as the handler. Raises DefinitionError for what is no plain method."""
        _check_method(function, "@starts and @on")
        route = self.route(getattr(function, "__name__", ""))
        function.__dict__.setdefault("__sagalog_routes__", []).append(route)
        return function

    def route(self, method: str) -> Route:
        """Return what is noted of a handler: the method of that name."""
        return Route(
            self.event,
            self.read,
            self.attribute,
            self.starts,
            self.while_compensating,
            method,
            self.again,
            self.during,
            self.elsewhere,
            tuple(self.policies.items()),
            self.sequence,
            self.by,
        )


def starts(
    event: type[E],
    *,
    key: CorrelationKey[E],
    while_compensating: bool = False,
    again: Again = "handle",
    during: During | None = None,
    unexpected: Policies | None = None,
    sequence: str | Sequence | None = None,
) -> Handles[E]:
    """Handle `event`, and let it start an instance if none is live. `key`: the attribute with the id, or a function.

    `again`: what an event of this type means for a saga that one has started already, under another message id. It is
    handled like any other, ignored, or its sender is told by an error. Handlers are found by the exact type of an event,
    not by its base classes. `during` and `unexpected`: as for `on`, for a saga that is live. `sequence`: as for `on`; an
    event that comes before the first number makes an instance, which waits for that.
    """
    return Handles(
        event,
        key,
        starts=True,
        while_compensating=while_compensating,
        again=again,
        during=during,
        unexpected=unexpected,
        sequence=sequence,
    )


def on(
    event: type[E],
    *,
    key: CorrelationKey[E],
    while_compensating: bool = False,
    during: During | None = None,
    unexpected: Policies | None = None,
    sequence: str | Sequence | None = None,
    by: str | None = None,
) -> Handles[E]:
    """Handle `event` for a live saga. Events that come while it compensates are ignored unless asked for.

    `during`: the phase, or phases, that expect it; without, all do. `unexpected`: what becomes of it in any other. Its
    sender is told by an error ("raise"), it is passed over ("ignore"), or it waits in the record for a phase that expects
    it ("keep"). One for all other phases, or a mapping by phase; what is not named does as the saga's `unexpected`.

    `sequence`: the attribute in which its sender numbers such events, from 1 without gaps, or a `Sequence`. They are
    handled in that order; what comes early waits in the record.

    `by`: a key that the saga declares (`keys`). Then `key` is the attribute with its value, and each live instance that
    holds it handles the event.
    """
    return Handles(
        event,
        key,
        starts=False,
        while_compensating=while_compensating,
        during=during,
        unexpected=unexpected,
        sequence=sequence,
        by=by,
    )


def on_refused(command: type[E]) -> Callable[[F], F]:
    """Handle the refusal of a `command` that this saga sent: the handler receives `Refused[command]`.

    It is also called when the saga has completed meanwhile. Once the next incarnation has begun, the state of the one that
    sent the command is gone: then that one is compensated, without the handler, and the next one is left alone.
    """
    if not _is_class(command):
        raise DefinitionError(f"@on_refused takes a command type, not {type(command).__name__}")

    def mark(function: F) -> F:
        _check_method(function, "@on_refused")
        function.__dict__.setdefault("__sagalog_refused__", []).append(command)
        return function

    return mark


def _is_class(value: Any) -> bool:
    return isinstance(value, type) and get_origin(value) is None


def _check_method(function: Any, what: str) -> None:
    if not callable(function) or isinstance(function, (type, staticmethod, classmethod)):
        raise DefinitionError(f"{what} decorate a method that takes (self, state, event), not a {_kind(function)}")
    if not hasattr(function, "__dict__"):
        raise DefinitionError(f"{what} decorate a method written in Python, not a {_kind(function)}")


def _kind(value: Any) -> str:
    return "class" if isinstance(value, type) else type(value).__name__


def _key_reader(event: Any, key: Any) -> tuple[Callable[[Any], Any], str | None]:
    if not _is_class(event):
        raise DefinitionError(f"an event is declared by its class, not by a {type(event).__name__}")
    if isinstance(key, str):
        known = attributes(event)
        if key not in known:
            have = ", ".join(sorted(known)) or "none"
            raise DefinitionError(f"{event.__name__} has no attribute {key!r} to use as key (it has: {have})")
        return attrgetter(key), key
    if callable(key):
        return key, None
    raise DefinitionError(
        f"key= must be the name of an attribute of {event.__name__} or a function, not {type(key).__name__}"
    )


def merged(saga: str, several: list[Route]) -> Route:
    """Return the one route by which an event is found. Raises DefinitionError for handlers that cannot be used together."""
    first = next((route for route in several if route.starts), several[0])
    for route in several:
        if route is first:
            continue
        if not (route.during and first.during):
            raise DefinitionError(
                f"{saga} handles {route.event.__name__} twice: in {first.method}() and in {route.method}(); keep one"
            )
        if route.starts:
            raise DefinitionError(
                f"{saga} is started by {route.event.__name__} twice: in {first.method}() and in {route.method}(); keep one"
            )
        if route.attribute != first.attribute or (route.attribute is None and route.key is not first.key):
            raise DefinitionError(
                f"{saga} finds the correlation id of {route.event.__name__} in two ways: in {first.method}() and in "
                f"{route.method}(); give both the same key="
            )
        if route.by != first.by:
            raise DefinitionError(
                f"{saga} finds the instances for {route.event.__name__} in two ways: in {first.method}() and in "
                f"{route.method}(); give both the same by="
            )
        if route.while_compensating != first.while_compensating:
            raise DefinitionError(
                f"{saga}: while_compensating= of {route.event.__name__} differs between {first.method}() and "
                f"{route.method}()"
            )
    return first
