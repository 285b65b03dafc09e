"""A child that a handler asked for, checked and in stored form.

checked, gathering ─► [planned_child] ─► finish
"""

from __future__ import annotations

from typing import Any

import msgspec

from ..definition.actions import StartChild
from ..definition.children import address_of
from ..definition.codec import Typed, TypeRegistry
from ..definition.saga import Saga
from ..errors import DefinitionError

MOST_LIVE = 1000  # children of one instance that have not ended: they stand in its record


class PlannedChild(msgspec.Struct, frozen=True, gc=False):
    """A StartChild in stored form: its starting event, and who it is."""

    event: Typed
    saga: str
    id: str


def planned_child(action: StartChild, saga: Saga[Any], registry: TypeRegistry) -> PlannedChild:
    """Check a StartChild and put it into stored form. Raises DefinitionError, CodecError."""
    name, correlation_id = address_of(action, saga.name, Saga)
    return PlannedChild(registry.pack(action.event), name, correlation_id)


def check_room(saga: Saga[Any], live: int) -> None:
    """Raise DefinitionError where so many children are too many for the record of their parent."""
    if live > MOST_LIVE:
        raise DefinitionError(
            f"saga {saga.name!r}: StartChild, and {MOST_LIVE:,} children have not ended yet: let a Gather start them "
            "a few at a time, from a method with @leg"
        )
