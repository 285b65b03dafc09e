"""The decorator that makes a method an activity of a saga, and what is noted on it. itinerary.py checks them together."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from datetime import timedelta
from types import MethodType
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, overload

import msgspec

from ..errors import DefinitionError
from .routes import Actions, CorrelationKey

H = TypeVar("H")
S = TypeVar("S")
HOOKS = "__sagalog_activity__"  # on a function: what it is to which activity


class Call(msgspec.Struct, frozen=True, gc=False):
    """One call of an activity or its undo: the third parameter of the method.

    `id` is the same however often it is called: the receiver's key against duplicates. `attempt` counts from 1, in this
    worker. `of`: for an undo, the `id` under which the activity was called that it takes back, also where nobody knows
    whether that was carried out. `reminder`: for an activity that waits for an event, how often it was called before to
    ask for it.
    """

    id: str
    saga: str
    correlation_id: str
    attempt: int
    of: str = ""
    reminder: int = 0


class Retry(Protocol):
    """How often and when to try again; `RetryPolicy` is one."""

    @property
    def attempts(self) -> int | None: ...

    def wait_seconds(self, failures: int) -> float | None:
        """Return how long to wait after so many failures; None: that was the last attempt."""
        ...


class Opens(Protocol):
    """When calls wait because their receiver is away; `Circuit` is one."""

    @property
    def failures(self) -> int: ...

    @property
    def probe_after(self) -> timedelta: ...

    @property
    def probe_cap(self) -> timedelta: ...


OTHER_MARKS = ("__sagalog_routes__", "__sagalog_refused__", "__sagalog_join__", "__sagalog_children__")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What `activity` was given; see there."""

    after: Any = None
    when: Callable[[Any], bool] | None = None
    timeout: timedelta | None = None
    within: timedelta | None = None
    retry: Retry | None = None
    places: int | None = None
    rate: float | None = None
    shared_rate: float | None = None
    circuit: Opens | None = None
    optional: bool = False
    parks: bool = False
    pivot: bool = False
    until: type | None = None
    unless: type | None = None
    key: Any = None
    remind: timedelta | None = None


class Activity(Generic[H, S]):
    """What `activity` makes of a method. Its own decorators add what belongs to it: `undo`, `then` and `failed`."""

    def __init__(self, function: Callable[[H, S, Call], Any], options: Options) -> None:
        _check_function(function)
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            raise DefinitionError(
                f"activity {function.__name__}() yields; an activity returns its result and sends nothing"
            )
        if any(hasattr(function, mark) for mark in OTHER_MARKS):
            raise DefinitionError(
                f"{function.__name__}() is an activity, which handles no event: remove @activity or @on"
            )
        self.function = function
        self.options = options
        self.name: str = function.__name__
        self.__doc__ = function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self.function, instance)

    def undo(self, function: Callable[[H, S, Call], Any]) -> Callable[[H, S, Call], Any]:
        """Let the decorated method take back what this activity did: the saga compensates, and it was, or may be, done."""
        self._mark("undo", function)
        return function

    def then(self, function: Callable[[H, S], Actions]) -> Callable[[H, S], Actions]:
        """Call the decorated method in the step that records the result: it may change the state, and returns actions."""
        self._mark("then", function)
        return function

    def failed(self, function: Callable[[H, S, str], Actions]) -> Callable[[H, S, str], Actions]:
        """Call the decorated method, with the reason, in the step that records the failure; it returns actions."""
        self._mark("failed", function)
        return function

    def _mark(self, what: str, function: Any) -> None:
        if not inspect.isfunction(function):
            raise DefinitionError(f"@{self.name}.{what} decorates a method, not {type(function).__name__}")
        function.__dict__.setdefault(HOOKS, []).append((what, self))


After: TypeAlias = (
    "Activity[Any, Any] | Callable[..., Any] | str | Iterable[Activity[Any, Any] | Callable[..., Any] | str]"
)


class Decorates(Protocol):
    """What `activity` with options gives: it takes the method."""

    def __call__(self, function: Callable[[H, S, Call], Any], /) -> Activity[H, S]: ...


@overload
def activity(function: Callable[[H, S, Call], Any], /) -> Activity[H, S]: ...


@overload
def activity(
    *,
    after: After | None = None,
    when: Callable[[Any], bool] | None = None,
    timeout: timedelta | None = None,
    within: timedelta | None = None,
    retry: Retry | None = None,
    places: int | None = None,
    rate: float | None = None,
    shared_rate: float | None = None,
    circuit: Opens | None = None,
    optional: bool = False,
    parks: bool = False,
    pivot: bool = False,
    until: type | None = None,
    unless: type | None = None,
    key: CorrelationKey[Any] | None = None,
    remind: timedelta | None = None,
) -> Decorates: ...


def activity(function: Any = None, /, **options: Any) -> Any:
    """Make a method an activity: a call to the outside, carried out at least once, always under the same `call.id`.

    It takes (self, state, call), is async unless it never waits, runs outside of the step, in any worker that has the
    saga, and gets the state as it is stored then; what it changes there is lost. What it returns is checked, and stored
    in the state's field of the activity's name, in the step that records that it is done. `CommandRefused` means no for
    ever; any other error is tried again as `retry` says (default: `dispatch_retry` of the runner, without end).

    `after`: activities, or their names, that have to end before; in an ItinerarySaga, without it: the one defined before;
    (): none. In any other saga, one without `after` begins by `Run(name)`. `when`: of the state, whether it is needed.
    `timeout`: how long one attempt may take. `within`: how long it may take in all; then it has failed. `places`: how many
    run at once in a worker. `rate`: how many calls a second a worker makes, `shared_rate`: all workers on one journal
    together. `circuit`: when calls wait because their receiver is away. An undo has the same bounds, by itself.

    What has failed stops what has not begun; what runs comes to its end, and then all that was done is undone. With
    `optional`, the saga continues without it; with `parks`, it waits for an operator. `pivot`: once it is done, nothing is
    undone any more, and what comes after is tried until it succeeds.

    `until`: it is done when such an event comes (failed, when an `unless` comes), found by `key` (default: the saga's);
    the method asks for it, and is called again each `remind`.
    """
    if function is not None:
        return Activity(function, Options())
    try:
        given = Options(**options)
    except TypeError:
        known = ", ".join(f"{name}=" for name in Options.__struct_fields__)
        raise DefinitionError(f"@activity takes {known}, and is given {', '.join(options)}") from None

    def mark(function: Any) -> Activity[Any, Any]:
        return Activity(function, given)

    return mark


def _belongs_to_one(what: str) -> Any:
    def refuse(function: Any) -> Any:
        raise DefinitionError(
            f"@activity.{what} does not say for which activity: write @flight.{what} for the activity named flight"
        )

    return refuse


for _what in ("undo", "then", "failed"):
    setattr(activity, _what, _belongs_to_one(_what))


def _check_function(function: Any) -> None:
    if not inspect.isfunction(function):
        raise DefinitionError(
            f"@activity decorates a method that takes (self, state, call), not {type(function).__name__}; its options "
            "are given by name"
        )
