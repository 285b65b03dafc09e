"""What a saga class is made of: its decorated methods put into tables, and all that is wrong with them told at once.

    class OrderSaga(Saga[...]) ─► [making] ─► the tables that a saga looks things up in

Every DefinitionError about a class comes from here, when it is made, except for types that cannot be resolved yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, get_args, get_origin

import msgspec

from ..errors import DefinitionError
from .children import SAGA_NAME, children_of
from .indexing import IndexTable, index_table
from .itinerary import ActivityTable, activity_table
from .joins import Join, joins_of
from .keys import Key, key_table
from .legs import Legs, legs_of
from .methods import check_roles, methods_of
from .phase_table import PhaseTable, phase_table
from .reach import declared
from .routes import Route, merged
from .schema import check_upcasters
from .sequences import Numbering, numberings
from .storable import check_storable


class Made(msgspec.Struct, frozen=True):
    """The tables of a saga class."""

    all_routes: tuple[Route, ...]
    routes: dict[type, Route]  # one for each event: the one that starts the saga, or the first
    refusals: dict[type, str]
    legs: dict[str, Legs]
    children: dict[str, str]  # methods that hear of the end of children, by the name of their saga
    joins: tuple[Join, ...]
    contextual: frozenset[str]  # methods that take the context of their step
    activities: ActivityTable | None
    key_table: Mapping[str, Key]
    phase_table: PhaseTable | None
    numberings: dict[type, Numbering]
    indexed: IndexTable | None  # None: to be made when the types of the state can be resolved


def made_of(cls: Any, state: type | None, saga: Any) -> Made:
    """Return the tables of a saga class with that state type. Raises DefinitionError. `saga`: the base of all sagas."""
    own_handle = cls.handle is not saga.handle
    check_roles(cls)
    several, refusals, contextual, acting = methods_of(cls, state, saga)
    for route in cls.implied_routes():
        several.setdefault(route.event, [route])
    activities = activity_table(cls, getattr(cls, "name", None), state, automatic=cls.automatic)
    if activities is not None:
        for route in activities.routes(cls, several):
            several[route.event] = [route]
        if own_handle:
            raise DefinitionError(
                f"{cls.__name__} overrides handle(), which its activities need: decorate handlers instead"
            )
    all_routes = tuple(route for routes in several.values() for route in routes)
    made = Made(
        all_routes=all_routes,
        key_table=key_table(cls.__name__, cls.keys, all_routes),
        phase_table=phase_table(cls, all_routes, acting),
        numberings=numberings(
            cls.__name__, {event: tuple(one.sequence for one in routes) for event, routes in several.items()}
        ),
        routes={event: merged(cls.__name__, routes) for event, routes in several.items()},
        legs=legs_of(cls),
        children=children_of(cls, saga, state),
        joins=joins_of(cls, several, state),
        refusals=refusals,
        contextual=frozenset(contextual),
        activities=activities,
        indexed=None,
    )
    for known in (*several, *refusals, *declared(cls.messages, cls.__name__)):
        check_upcasters(known)
        check_storable(known, f"{cls.__name__}: the message type", final=False)
    if state is not None:
        check_upcasters(state)
        if not has_own_codec(cls, saga):
            check_storable(state, f"{cls.__name__}: the state", final=False)
    _check_remembered(cls)
    made = msgspec.structs.replace(made, indexed=index_table(cls.__name__, cls.index, state, cls.phases))
    if "name" in cls.__dict__ or several:  # else an abstract base
        _check_name(cls)
        if not own_handle and not any(route.starts for route in all_routes):
            raise DefinitionError(f"{cls.__name__} has no starting event: decorate one handler with @starts(...)")
    return made


def _check_name(cls: Any) -> None:
    name = getattr(cls, "name", None)
    if name is None and "name" not in cls.__dict__:
        raise DefinitionError(
            f"{cls.__name__} has handlers but no name: write name = '...' in it. Handlers that several sagas share belong "
            "in a plain class: class Shared, then class OrderSaga(Shared, Saga[...])"
        )
    if not isinstance(name, str) or not SAGA_NAME.match(name):
        raise DefinitionError(
            f"{cls.__name__}.name may have letters, digits, '_', '.' and '-', but is {name!r}: it is part of every "
            "persistence id"
        )


def _check_remembered(cls: Any) -> None:
    most, window = cls.remembered_messages, cls.remembered_for
    if type(most) is not int or most < 1:
        raise DefinitionError(f"{cls.__name__}.remembered_messages must be a whole number, 1 or more")
    if not isinstance(window, timedelta) or window <= timedelta():
        raise DefinitionError(f"{cls.__name__}.remembered_for must be a timedelta above zero")


def has_own_codec(cls: Any, saga: Any) -> bool:
    """Say whether a saga class stores its state in a form of its own."""
    return cls.encode_state is not saga.encode_state or cls.decode_state is not saga.decode_state


def state_type_of(cls: type, saga: type) -> type | None:
    """Return the state type that a saga class names, `Saga[OrderState]`; None where it names none."""
    for base in cls.__mro__:
        for original in base.__dict__.get("__orig_bases__", ()):
            origin = get_origin(original)
            if isinstance(origin, type) and issubclass(origin, saga):
                (argument,) = get_args(original)[:1]
                if isinstance(argument, type):
                    return argument
                if get_origin(argument) is not None:
                    return argument  # type: ignore[no-any-return]  # dict[str, int] and the like
    return None
