"""`on_child`: the method that hears how a child ended, and what `StartChild` says about the child before it is started."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, TypeVar, overload

import msgspec

from ..errors import DefinitionError
from .actions import StartChild
from .annotations import check_annotations
from .context import StepContext
from .routes import Actions

SAGA_NAME = re.compile(r"[A-Za-z0-9_.-]+\Z")
H = TypeVar("H")
S = TypeVar("S")

ChildOutcome: TypeAlias = Literal["completed", "compensated", "cancelled", "failed"]


class ChildEnded(msgspec.Struct, frozen=True):
    """How a child ended, for the method that `on_child` decorates.

    `saga` and `id` name the child: its saga, and its correlation id. `outcome`: it "completed", with the `result` of its
    `Complete(result)`; it was "compensated" or "cancelled"; or it has "failed" to start, and `reason` says why.
    """

    saga: str
    id: str
    outcome: ChildOutcome
    result: Any = None
    reason: str = ""


class OnChild:
    """What `on_child` gives: it marks the method that it decorates."""

    def __init__(self, saga: Any) -> None:
        self.saga = saga

    @overload
    def __call__(self, function: Callable[[H, S, ChildEnded], Actions]) -> Callable[[H, S, ChildEnded], Actions]: ...

    @overload
    def __call__(
        self, function: Callable[[H, S, ChildEnded, StepContext], Actions]
    ) -> Callable[[H, S, ChildEnded, StepContext], Actions]: ...

    def __call__(self, function: Any) -> Any:
        """Mark `function`. Raises DefinitionError for what is no plain method."""
        if not callable(function) or isinstance(function, (type, staticmethod, classmethod)):
            raise DefinitionError("@on_child decorates a method that takes (self, state, ended)")
        function.__dict__.setdefault("__sagalog_children__", []).append(self.saga)
        return function


def on_child(saga: type | str) -> OnChild:
    """Call the method when a child of that saga has ended: it takes (self, state, ended), and the context if it wants it.

    It runs once for each child, in the life that started it, while that runs: how the child ended is a `ChildEnded`.
    `saga` is the class, or its name where that is not defined yet: the saga's own, or one that names this one.
    """
    if inspect.isfunction(saga):
        raise DefinitionError(
            f"@on_child(ParcelSaga) names the saga whose children {saga.__name__}() handles the end of: pass its class"
        )
    return OnChild(saga)


def children_of(cls: type, saga: type, state: Any) -> dict[str, str]:
    """Return the methods of a class that hear of children, by the name of their saga. Raises DefinitionError.

    `saga`: the class of which all sagas are.
    """
    found: dict[str, str] = {}
    for method in dir(cls):
        function = getattr(cls, method, None)
        for child in getattr(function, "__sagalog_children__", ()):
            name = _name_of(cls, child, saga)
            if name in found:
                raise DefinitionError(
                    f"{cls.__name__} handles the end of its children of saga {name!r} twice: in {found[name]}() and "
                    f"in {method}(); "
                    "keep one"
                )
            found[name] = method
            check_annotations(cls.__name__, function, state, ChildEnded)
    return found


def child_classes(cls: type) -> list[type]:
    """Return the classes of which a class hears, as far as it names them by their class."""
    marks = (getattr(getattr(cls, method, None), "__sagalog_children__", ()) for method in dir(cls))
    return [child for several in marks for child in several if isinstance(child, type)]


def _name_of(cls: type, child: Any, saga: type) -> str:
    if isinstance(child, str) and SAGA_NAME.match(child):
        return child
    if not isinstance(child, type) or not issubclass(child, saga):
        shown = child.__name__ if isinstance(child, type) else repr(child)
        raise DefinitionError(f"{cls.__name__}: @on_child takes a saga class, or the name of a saga, not {shown}")
    name = getattr(child, "name", None)
    if not isinstance(name, str):
        raise DefinitionError(f"{cls.__name__}: @on_child takes a saga with a name, and {child.__name__} has none")
    return name


def address_of(action: StartChild, parent: str, saga: type) -> tuple[str, str]:
    """Return the name of a child's saga, and its correlation id. Raises DefinitionError for what is no child.

    `parent`: the name of the saga that starts it; `saga`: the class of which all sagas are.
    """
    child, event = action.saga, action.event
    what = f"saga {parent!r}: StartChild"
    if isinstance(child, str):
        raise DefinitionError(f"{what}({child!r}) takes the class, not its name: import it inside the handler")
    if not isinstance(child, type) or not issubclass(child, saga):
        shown = child.__name__ if isinstance(child, type) else type(child).__name__
        raise DefinitionError(f"{what} takes a saga class and its starting event, not {shown} first")
    if isinstance(event, type):
        shown = event.__name__
        raise DefinitionError(f"{what}({child.__name__}, {shown}) takes the event, {shown}(...), not its class")
    name: Any = getattr(child, "name", None)
    if not isinstance(name, str):
        raise DefinitionError(f"{what}({child.__name__}, ...): that class has no name")
    bare: Any = object.__new__(child)  # how an event is found needs no parts of the saga
    told = f"{what}({child.__name__}, {type(event).__name__}(...))"
    if not bare.may_start(event):
        raise DefinitionError(
            f"{told}: {child.__name__} is not started by that event: no @starts({type(event).__name__})"
        )
    try:
        correlation_id = bare.correlation_id(event)
    except Exception as error:
        raise DefinitionError(f"{told}: finding the id of the child raised {type(error).__name__}: {error}") from error
    if not isinstance(correlation_id, str) or not correlation_id:
        raise DefinitionError(f"{told}: the event has no id for the child")
    return name, correlation_id
