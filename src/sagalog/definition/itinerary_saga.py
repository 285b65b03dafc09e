"""A saga that is its activities: the event that starts it begins them, and when all have ended it completes."""

from __future__ import annotations

from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any, ClassVar, TypeVar

from ..errors import DefinitionError
from .fields import hints_of
from .itinerary import check_parameters
from .routes import Actions, CorrelationKey, Handles, Route
from .saga import Saga
from .storable import type_name

S = TypeVar("S")


class ItinerarySaga(Saga[S]):
    """Base of a saga that is a list or graph of calls: subclass it, and decorate its methods with `@activity`.

    `starts_with` is the event that starts it, `key` the attribute of it that holds the correlation id, or a function. The
    event is put into the state's field of its type, unless `begin` is overridden. A second such event changes nothing.

    Activities that are ready run together; when all have ended, the saga completes, with `result`. See `activity`.
    """

    automatic = True
    starts_with: ClassVar[type]
    key: ClassVar[CorrelationKey[Any]]
    __request: ClassVar[str | None] = None  # the state's field of the starting event

    @classmethod
    def implied_routes(cls) -> tuple[Route, ...]:
        """Return the route of the starting event. Raises DefinitionError."""
        if not isinstance(getattr(cls, "name", None), str):
            return ()
        event = getattr(cls, "starts_with", None)
        if not isinstance(event, type):
            raise DefinitionError(f"{cls.__name__}.starts_with must be the class of the event that starts it")
        key = getattr(cls, "key", None)
        if key is None:
            raise DefinitionError(
                f"{cls.__name__}.key must be the name of {event.__name__}'s attribute that holds the correlation id"
            )
        cls.__request = _field_for(cls.state_type(), event)
        if cls.begin is ItinerarySaga.begin and cls.__request is None:
            raise DefinitionError(
                f"{cls.__name__}: {type_name(cls.state_type())} has no field for the {event.__name__} that starts it: add "
                f"one (`request: {event.__name__} | None = None`), or override begin(state, event)"
            )
        check_parameters(f"{cls.__name__}.begin", cls.begin, 3, "(self, state, event)")
        check_parameters(f"{cls.__name__}.result", cls.result, 2, "(self, state)")
        if any(asks(cls.result) for asks in (iscoroutinefunction, isgeneratorfunction, isasyncgenfunction)):
            raise DefinitionError(f"{cls.__name__}.result() must be a plain method: it may neither be async nor yield")
        handles: Handles[Any] = Handles(event, key, starts=True, while_compensating=False, again="ignore")
        return (handles.route("begin"),)

    def begin(self, state: S, event: Any) -> Actions:
        """Take the starting event into the state: into the field of its type, unless overridden. May return actions."""
        if self.__request is not None:
            setattr(state, self.__request, event)
        return None

    def result(self, state: S) -> Any:
        """Return what the saga completes with, as in `Complete(result)`; None, unless overridden."""
        return None


def _field_for(state: Any, event: type) -> str | None:
    """Return the one field of a state that takes such an event, if there is one."""
    found = [name for name, hint in hints_of(state).items() if hint is event or event in getattr(hint, "__args__", ())]
    if not found:  # an event that is local to a function cannot be resolved
        found = [
            name
            for base in getattr(state, "__mro__", ())
            for name, hint in base.__dict__.get("__annotations__", {}).items()
            if isinstance(hint, str) and event.__name__ in (part.strip() for part in hint.split("|"))
        ]
    return found[0] if len(found) == 1 else None
