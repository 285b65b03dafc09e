"""The decorated methods of a saga class, collected when the class is made, with their annotations checked."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from ..errors import DefinitionError
from .activities import HOOKS, Activity
from .annotations import check_acting, check_annotations, takes_context
from .routes import Route

_MARKS = frozenset(
    {HOOKS, *(f"__sagalog_{what}__" for what in ["routes", "refused", "children", "enters", "leaves", "join", "leg"])}
)
_WRAPPERS = {staticmethod: "staticmethod", classmethod: "classmethod", property: "property"}
_OWN_WAYS = frozenset(
    [
        "correlation_id",
        "handle",
        "refused",
        "child_ended",
        "encode_state",
        "decode_state",
        "initial_state",
        "phase_of",
        "begin",
        "result",
    ]
)


class Methods(NamedTuple):
    """The handlers of events and of refusals, which methods take the context of their step, and which act on phases."""

    routes: dict[type, list[Route]]
    refusals: dict[type, str]
    contextual: set[str]
    acting: list[str]


def methods_of(cls: type, state: Any, saga: type) -> Methods:
    """Return the decorated methods of a saga class. Raises DefinitionError. `saga`: the class of which all sagas are."""
    found = Methods({}, {}, set(), [])
    for attribute in dir(cls):
        function = getattr(cls, attribute, None)
        if _takes_step(function, saga) and takes_context(cls.__name__, function):
            found.contextual.add(attribute)
        for route in getattr(function, "__sagalog_routes__", ()):
            found.routes.setdefault(route.event, []).append(msgspec.structs.replace(route, method=attribute))
            check_annotations(cls.__name__, function, state, route.event)
        for command in getattr(function, "__sagalog_refused__", ()):
            if command in found.refusals:
                raise DefinitionError(
                    f"{cls.__name__} handles the refusal of {command.__name__} twice: in {found.refusals[command]}() "
                    f"and in {attribute}(); keep one"
                )
            found.refusals[command] = attribute
            check_annotations(cls.__name__, function, state, None)
        if hasattr(function, "__sagalog_enters__") or hasattr(function, "__sagalog_leaves__"):
            found.acting.append(attribute)
            if check_acting(cls.__name__, function, state):
                found.contextual.add(attribute)
    return found


def check_roles(cls: type) -> None:
    """Raise DefinitionError for a decorated method that would not be called, or hides what is called of every saga."""
    bases = [base for base in cls.__mro__ if base is not object]
    ours = {name for base in bases if _is_ours(base) for name in vars(base)}
    for base in bases:
        if _is_ours(base):
            continue
        for name, value in _methods_in(base):
            here = f"{cls.__name__}.{name}()"
            wrapped = getattr(value, "__func__", getattr(value, "fget", None))
            if type(value) in _WRAPPERS and _has_role(wrapped):
                raise DefinitionError(
                    f"{here} is decorated for Sagalog within a {_WRAPPERS[type(value)]}, so it would not be called: remove "
                    f"@{_WRAPPERS[type(value)]}"
                )
            decorated = _has_role(value)
            if name in ours and (decorated or name not in _OWN_WAYS) and not hasattr(value, "__sagalog_refused__"):
                raise DefinitionError(f"{here} hides an attribute that every saga has: give the method another name")
            if not decorated:
                continue
            now = inspect.getattr_static(cls, name)
            if now is not None and type(now) not in _WRAPPERS and not _has_role(now):
                raise DefinitionError(
                    f"{here} overrides a decorated method of {base.__name__} and is not decorated, so it would not "
                    f"be called: decorate it too, or remove both with `{name} = None`"
                )


def _methods_in(base: type) -> Iterator[tuple[str, Any]]:
    kinds = (types.FunctionType, Activity, *_WRAPPERS)
    return ((name, value) for name, value in vars(base).items() if isinstance(value, kinds) and name[:2] != "__")


def _is_ours(base: type) -> bool:
    return base.__module__.partition(".")[0] in ("sagalog", "typing")


def _has_role(value: Any) -> bool:
    return isinstance(value, Activity) or not _MARKS.isdisjoint(getattr(value, "__dict__", ()))


def _takes_step(function: Any, saga: type) -> bool:
    """Say whether the engine calls `function` with a state and a message: it is decorated, or overrides such a method."""
    if any(hasattr(function, f"__sagalog_{mark}__") for mark in ("routes", "refused", "children")):
        return True
    name = getattr(function, "__name__", "")
    return (
        name in ("handle", "refused")
        and isinstance(function, types.FunctionType)
        and (function is not getattr(saga, name))
    )
