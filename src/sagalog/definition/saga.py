"""The definition of one process: a class with typed handlers, checked when the class is made.

`correlation_id`, `handle`, `encode_state` and `decode_state` are what the engine calls. The decorators `starts`, `on`
and `on_refused` fill in the first two; a class may override all of them directly instead.
"""

from __future__ import annotations

import re
import types
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar, get_args, get_origin
from uuid import UUID

from ..errors import CodecError, DefinitionError, InvalidEventError
from . import codec
from .actions import Action, Compensate, Refused
from .annotations import check_annotations, named_types
from .schema import check_upcasters, schema_of, to_current

S = TypeVar("S")
E = TypeVar("E")
H = TypeVar("H")
F = TypeVar("F", bound=Callable[..., Any])

Actions: TypeAlias = (
    Action | Iterable[Action] | AsyncIterable[Action] | Awaitable["Action | Iterable[Action] | None"] | None
)
Key: TypeAlias = str | Callable[[E], str | int | UUID | None]

_NAME = re.compile(r"[A-Za-z0-9_.-]+\Z")


@dataclass(frozen=True, slots=True)
class Route:
    """One decorated handler: which event, how its correlation id is found, and whether it may start the saga."""

    event: type
    key: Callable[[Any], Any]
    attribute: str | None  # that holds the key; None: key is the user's function, whose None means "not for this saga"
    starts: bool
    while_compensating: bool
    method: str


class Handles(Generic[E]):
    """What `starts` and `on` give: it marks the method it decorates as the handler of an event.

    Type checkers see here that the method takes that event. That its state is the saga's, they see with the plugin
    `sagalog.mypy`; classes are checked for both when they are made, as far as annotations can be resolved then.
    """

    def __init__(self, event: type[E], key: Key[E], *, starts: bool, while_compensating: bool) -> None:
        self.event = event
        self.read, self.attribute = _key_reader(event, key)
        self.starts = starts
        self.while_compensating = while_compensating

    def __call__(self, function: Callable[[H, S, E], Actions]) -> Callable[[H, S, E], Actions]:
        route = Route(
            self.event,
            self.read,
            self.attribute,
            self.starts,
            self.while_compensating,
            getattr(function, "__name__", ""),
        )
        function.__dict__.setdefault("__sagalog_routes__", []).append(route)
        return function


def starts(event: type[E], *, key: Key[E], while_compensating: bool = False) -> Handles[E]:
    """Handle `event`, and let it start a saga where none is live. `key`: attribute with the correlation id, or a function.

    Handlers are found by the exact type of an event, not by its base classes.
    """
    return Handles(event, key, starts=True, while_compensating=while_compensating)


def on(event: type[E], *, key: Key[E], while_compensating: bool = False) -> Handles[E]:
    """Handle `event` for a live saga. Events that come while it compensates are ignored unless asked for."""
    return Handles(event, key, starts=False, while_compensating=while_compensating)


def on_refused(command: type[E]) -> Callable[[F], F]:
    """Handle the refusal of a `command` that this saga sent: the handler receives `Refused[command]`."""
    if not isinstance(command, type):
        raise DefinitionError(f"@on_refused takes a command type, not {command!r}")

    def mark(function: F) -> F:
        function.__dict__.setdefault("__sagalog_refused__", []).append(command)
        return function

    return mark


def _key_reader(event: Any, key: Any) -> tuple[Callable[[Any], Any], str | None]:
    if not isinstance(event, type):
        raise DefinitionError(f"an event is declared by its type, not by {event!r}")
    if isinstance(key, str):
        known = _attributes(event)
        if key not in known:
            have = ", ".join(sorted(known)) or "none"
            raise DefinitionError(f"{event.__name__} has no attribute {key!r} to use as key (it has: {have})")
        return attrgetter(key), key
    if callable(key):
        return key, None
    raise DefinitionError(f"key must be the name of an attribute of {event.__name__} or a function, not {key!r}")


def _attributes(cls: type) -> set[str]:
    names: set[str] = set()
    for base in cls.__mro__[:-1]:
        names.update(n for n in base.__dict__.get("__annotations__", {}) if not n.startswith("__"))
        names.update(n for n, v in base.__dict__.items() if isinstance(v, property))
        slots = base.__dict__.get("__slots__", ())
        names.update(n for n in ([slots] if isinstance(slots, str) else slots) if not n.startswith("__"))
    return names


class Saga(Generic[S]):
    """Base of a durable saga with state `S`: subclass it as `class OrderSaga(Saga[OrderState])`.

    `name` is stored with every instance and must not change (`[A-Za-z0-9_.-]+`). `messages` lists types that appear in
    stored data and that the handlers do not name themselves: commands built elsewhere, events of timers.
    """

    name: ClassVar[str]
    messages: ClassVar[tuple[type, ...]] = ()
    remembered_messages: ClassVar[int] = 1000

    __routes: ClassVar[dict[type, Route]] = {}
    __refusals: ClassVar[dict[type, str]] = {}
    __state: ClassVar[type | None] = None
    __state_version: ClassVar[int] = 1

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__state = _state_type(cls)
        routes: dict[type, Route] = {}
        refusals: dict[type, str] = {}
        for attribute in dir(cls):
            function = getattr(cls, attribute, None)
            for route in getattr(function, "__sagalog_routes__", ()):
                if route.event in routes:
                    raise DefinitionError(
                        f"{cls.__name__} handles {route.event.__name__} twice: in {routes[route.event].method}() and "
                        f"in {attribute}(); keep one"
                    )
                routes[route.event] = replace(route, method=attribute)
                check_annotations(cls.__name__, function, cls.__state, route.event)
            for command in getattr(function, "__sagalog_refused__", ()):
                if command in refusals:
                    raise DefinitionError(
                        f"{cls.__name__} handles the refusal of {command.__name__} twice: in {refusals[command]}() "
                        f"and in {attribute}(); keep one"
                    )
                refusals[command] = attribute
                check_annotations(cls.__name__, function, cls.__state, None)
        cls.__routes, cls.__refusals = routes, refusals
        for known in (*routes, *refusals, *cls.messages):
            check_upcasters(known)
        if cls.__state is not None:
            check_upcasters(cls.__state)
            cls.__state_version = schema_of(cls.__state).version
        if "name" not in cls.__dict__ and not routes:
            return  # an abstract base
        name = getattr(cls, "name", None)
        if not isinstance(name, str) or not _NAME.match(name):
            raise DefinitionError(
                f"{cls.__name__}.name must be letters, digits, '_', '.' or '-', and is {name!r}: it is part of every "
                "persistence id"
            )
        if cls.handle is Saga.handle and not any(route.starts for route in routes.values()):
            raise DefinitionError(f"{cls.__name__} has no starting event: decorate one handler with @starts(...)")

    def initial_state(self) -> S:
        """Return the state of a new instance: the state type without arguments, unless overridden."""
        state = self.__state
        if state is None:
            raise DefinitionError(
                f"{type(self).__name__} does not name its state type: write class {type(self).__name__}"
                "(Saga[YourState])"
            )
        try:
            return state()  # type: ignore[no-any-return]
        except TypeError as error:
            raise DefinitionError(
                f"{state.__name__} cannot be made without arguments: give its fields defaults, or override "
                f"initial_state() in {type(self).__name__}"
            ) from error

    def correlation_id(self, event: Any) -> str | None:
        """Return which instance `event` is for, or None if it is not for this saga."""
        route = self.__routes.get(type(event))
        if route is None:
            return None
        try:
            value = route.key(event)
        except Exception as error:
            raise InvalidEventError(
                f"{type(event).__name__} for saga {type(self).name!r}: finding its key raised {type(error).__name__}; "
                "nothing was stored"
            ) from error
        if value is None and route.attribute is not None:
            raise InvalidEventError(
                f"{type(event).__name__} for saga {type(self).name!r} has no key: its {route.attribute} is None; nothing "
                "was stored"
            )
        return correlation_text(value, type(event), type(self).name)

    def may_start(self, event: Any) -> bool:
        """Say whether `event` may start a new instance. Every event may, for a class that overrides `handle`."""
        route = self.__routes.get(type(event))
        return route.starts if route is not None else type(self).handle is not Saga.handle

    def handles_event(self, event: Any) -> bool:
        """Say whether a handler takes events of this type. A class that overrides `handle` is asked when it comes."""
        return type(event) in self.__routes or type(self).handle is not Saga.handle

    def accepts_while_compensating(self, event: Any) -> bool:
        """Say whether `event` is handled while the instance compensates; otherwise it is ignored then."""
        route = self.__routes.get(type(event))
        return route is not None and route.while_compensating

    def handle(self, state: S, event: Any) -> Actions:
        """Change `state` and return the actions: an iterable, one, none, or an awaitable or async iterable of them."""
        route = self.__routes.get(type(event))
        if route is None:
            raise DefinitionError(f"saga {type(self).name!r} has no handler for {type(event).__name__}")
        return getattr(self, route.method)(state, event)  # type: ignore[no-any-return]

    def refused(self, state: S, refused: Refused[Any]) -> Actions:
        """Decide what a refused command means: the handler of `on_refused`, else compensate."""
        method = self.__refusals.get(type(refused.command))
        return getattr(self, method)(state, refused) if method else Compensate()

    def encode_state(self, state: S) -> bytes:
        """Return the stored form of `state`: JSON, unless overridden."""
        return codec.encode(state)

    def decode_state(self, payload: bytes) -> S:
        """Return the state that `payload` holds. Raises CodecError, which parks the instance."""
        state = self.__state
        if state is None:
            raise DefinitionError(f"{type(self).__name__} does not name its state type: Saga[YourState]")
        return codec.decode(payload, state)

    @classmethod
    def state_version(cls) -> int:
        """Return the schema version of the state type."""
        return cls.__state_version

    @classmethod
    def upcast_state(cls, payload: bytes, version: int) -> bytes:
        """Return what `encode_state` gave in another schema version as today's `decode_state` takes it.

        Raises CodecError, which parks the instance: a newer version, one that no upcaster takes, or not JSON.
        """
        if cls.__state is None:
            raise CodecError(
                f"the state is stored with schema version {version}, and {cls.__name__} names no state type"
            )
        return to_current(payload, cls.__state, version)

    @classmethod
    def event_types(cls) -> tuple[type, ...]:
        """Return the event types that decorated handlers take."""
        return tuple(cls.__routes)

    @classmethod
    def routes(cls) -> tuple[Route, ...]:
        """Return the decorated handlers of events."""
        return tuple(cls.__routes.values())

    @classmethod
    def refusals(cls) -> dict[type, str]:
        """Return the command types whose refusal a decorated method handles, and that method's name."""
        return dict(cls.__refusals)

    @classmethod
    def registry(cls) -> codec.TypeRegistry:
        """Return the types that may stand in stored data of this saga.

        These are the decorated events, `messages`, and the message classes that the handlers' own code names
        (`Send(ShipOrder(...))` declares ShipOrder). All come from code; stored names are only looked up here.
        """
        if cls.__state is not None:
            check_upcasters(cls.__state)  # again: they may have been registered since the class was made
        registry = codec.TypeRegistry()
        for known in (*cls.__routes, *cls.__refusals, *cls.messages):
            registry.add(known)
        for attribute in dir(cls):
            function = getattr(cls, attribute, None)
            if isinstance(function, types.FunctionType) and function is not getattr(Saga, attribute, None):
                for named in named_types(function):
                    registry.add(named)
        return registry


def correlation_text(value: Any, event: type, saga: str) -> str | None:
    """Return a key as text: str, int and UUID are keys; None means "not for this saga". Others are refused."""
    if isinstance(value, str):
        if not value:
            raise InvalidEventError(f"{event.__name__} for saga {saga!r} has an empty key; nothing was stored")
        return str(value) if type(value) is not str else value
    if value is None:
        return None
    if isinstance(value, (int, UUID)) and not isinstance(value, bool):
        return str(value)
    raise InvalidEventError(
        f"{event.__name__} for saga {saga!r} has a key of type {type(value).__name__}: use str, int or UUID; nothing "
        "was stored"
    )


def _state_type(cls: type) -> type | None:
    for base in cls.__mro__:
        for original in base.__dict__.get("__orig_bases__", ()):
            origin = get_origin(original)
            if isinstance(origin, type) and issubclass(origin, Saga):
                (argument,) = get_args(original)[:1]
                if isinstance(argument, type):
                    return argument
                if get_origin(argument) is not None:
                    return argument  # type: ignore[no-any-return]  # dict[str, int] and the like
    return None
