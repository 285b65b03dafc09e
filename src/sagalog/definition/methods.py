"""The decorated methods of a saga class, collected when the class is made, with their annotations checked."""

from __future__ import annotations

import types
from typing import Any, NamedTuple

import msgspec

from ..errors import DefinitionError
from .annotations import check_acting, check_annotations, takes_context
from .routes import Route


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
