"""Which types may stand in the stored data of a saga: those that its handlers take, declare and name, and what these reach.

saga ─► [stored_types] ─► codec.TypeRegistry
"""

from __future__ import annotations

import types
from typing import Any

from . import codec
from .annotations import named_types
from .children import child_classes
from .making import has_own_codec
from .reach import declared, reached
from .schema import check_upcasters
from .storable import check_storable


def registry_of(
    cls: Any, state: type | None, handled: tuple[type, ...], instance: Any, saga: Any
) -> codec.TypeRegistry:
    """Return the types that may stand in stored data of a saga; see `Saga.registry`. `handled`: events and commands."""
    if state is not None:
        check_upcasters(state)  # again: they may have been registered since the class was made
        if not has_own_codec(cls, saga):
            check_storable(state, f"{cls.__name__}: the state")
    registry = codec.TypeRegistry()
    handled = (*handled, *declared(cls.messages, cls.__name__))
    for known in handled:
        registry.add(known)
    named: list[type] = []
    for attribute in dir(cls):
        function = getattr(cls, attribute, None)
        if isinstance(function, types.FunctionType) and function is not getattr(saga, attribute, None):
            named.extend(named_types(function))
    for own in cls.activities.types() if cls.activities is not None else ():
        registry.add(own)
    registry.add_named(named)
    registry.add_reached((*handled, *named))
    registry.add_reached(reached(cls, instance))
    for child in child_classes(cls):  # their results
        registry.add_reached(reached(child))
    return registry
