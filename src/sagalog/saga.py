"""The definition of one process: a class with typed handlers, checked when the class is made.

`correlation_id`, `handle`, `encode_state` and `decode_state` are what the engine calls. The decorators `starts`, `on`
and `on_refused` fill in the first two; a class may override all of them directly instead.
"""

from __future__ import annotations

import re
import types
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar, get_args, get_origin
from uuid import UUID

from . import codec
from .actions import Action, Compensate, Refused
from .errors import DefinitionError, InvalidEventError

S = TypeVar("S")
E = TypeVar("E")
F = TypeVar("F", bound=Callable[..., Any])

Actions: TypeAlias = (
    Action | Iterable[Action] | AsyncIterable[Action] | Awaitable["Action | Iterable[Action] | None"] | None
)
Key: TypeAlias = "str | Callable[[E], str | int | UUID | None]"

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


def starts(
    event: type[E], *, key: Key[E], while_compensating: bool = False
) -> Callable[[Callable[[Any, S, E], Actions]], Callable[[Any, S, E], Actions]]:
    """Handle `event`, and let it start a saga where none is live. `key`: attribute with the correlation id, or a function."""
    return _route(event, key, starts=True, while_compensating=while_compensating)


def on(
    event: type[E], *, key: Key[E], while_compensating: bool = False
) -> Callable[[Callable[[Any, S, E], Actions]], Callable[[Any, S, E], Actions]]:
    """Handle `event` for a live saga. Events that come while it compensates are ignored unless asked for."""
    return _route(event, key, starts=False, while_compensating=while_compensating)


def on_refused(command: type[E]) -> Callable[[F], F]:
    """Handle the refusal of a `command` that this saga sent: the handler receives `Refused[command]`."""

    def mark(function: F) -> F:
        if not isinstance(command, type):
            raise DefinitionError(f"@on_refused takes a command type, not {command!r}")
        function.__dict__.setdefault("__sagalog_refused__", []).append(command)
        return function

    return mark


def _route(event: Any, key: Any, *, starts: bool, while_compensating: bool) -> Callable[[F], F]:
    if not isinstance(event, type):
        raise DefinitionError(f"an event is declared by its type, not by {event!r}")
    if isinstance(key, str):
        if key not in _attributes(event):
            have = ", ".join(sorted(_attributes(event))) or "none"
            raise DefinitionError(f"{event.__name__} has no attribute {key!r} to use as key (it has: {have})")
        read: Callable[[Any], Any] = attrgetter(key)
    elif callable(key):
        read = key
    else:
        raise DefinitionError(f"key must be the name of an attribute of {event.__name__} or a function, not {key!r}")

    def mark(function: F) -> F:
        route = Route(event, read, key if isinstance(key, str) else None, starts, while_compensating, function.__name__)
        function.__dict__.setdefault("__sagalog_routes__", []).append(route)
        return function

    return mark


def _attributes(cls: type) -> set[str]:
    names: set[str] = set()
    for base in cls.__mro__[:-1]:
        names.update(n for n in base.__dict__.get("__annotations__", {}) if not n.startswith("__"))
        names.update(n for n, v in base.__dict__.items() if isinstance(v, property))
        names.update(n for n in base.__dict__.get("__slots__", ()) if not n.startswith("__"))
    return names


class Saga(Generic[S]):
    """Base of a durable saga with state `S`: subclass it as `class OrderSaga(Saga[OrderState])`.

    `name` is stored with every instance and must not change (`[A-Za-z0-9_.-]+`). `messages` lists types that appear in
    stored data and that the handlers do not name themselves: commands built elsewhere, events of timers.
    """

    name: ClassVar[str]
    messages: ClassVar[tuple[type, ...]] = ()

    __routes: ClassVar[dict[type, Route]] = {}
    __refusals: ClassVar[dict[type, str]] = {}
    __state: ClassVar[type | None] = None

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
                routes[route.event] = route
            for command in getattr(function, "__sagalog_refused__", ()):
                if command in refusals:
                    raise DefinitionError(
                        f"{cls.__name__} handles the refusal of {command.__name__} twice: in {refusals[command]}() "
                        f"and in {attribute}(); keep one"
                    )
                refusals[command] = attribute
        cls.__routes, cls.__refusals = routes, refusals
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
        return state()  # type: ignore[no-any-return]

    def correlation_id(self, event: Any) -> str | None:
        """Return which instance `event` is for, or None if it is not for this saga."""
        route = self.__routes.get(type(event))
        if route is None:
            return None
        value = route.key(event)
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
        return codec.type_version(cls.__state) if cls.__state is not None else 1

    @classmethod
    def event_types(cls) -> tuple[type, ...]:
        """Return the event types that decorated handlers take."""
        return tuple(cls.__routes)

    @classmethod
    def registry(cls) -> codec.TypeRegistry:
        """Return the types that may stand in stored data of this saga.

        These are the decorated events, `messages`, and the message classes that the handlers' own code names
        (`Send(ShipOrder(...))` declares ShipOrder). All come from code; stored names are only looked up here.
        """
        registry = codec.TypeRegistry()
        for known in (*cls.__routes, *cls.__refusals, *cls.messages):
            registry.add(known)
        for attribute in dir(cls):
            function = getattr(cls, attribute, None)
            if isinstance(function, types.FunctionType) and not hasattr(Saga, attribute) or attribute == "handle":
                for named in _named_types(function):
                    registry.add(named)
        return registry


def correlation_text(value: Any, event: type, saga: str) -> str | None:
    """Return a key as text: str, int and UUID are keys; None means "not for this saga". Others are refused."""
    if type(value) is str:
        if not value:
            raise InvalidEventError(f"{event.__name__} for saga {saga!r} has an empty key; nothing was stored")
        return value
    if value is None:
        return None
    if isinstance(value, (str, int, UUID)) and not isinstance(value, bool):
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


def _named_types(function: Any) -> Iterable[type]:
    """Yield the message classes that the code of `function` names: globals, closure cells, attributes of modules."""
    code = getattr(function, "__code__", None)
    if code is None:
        return
    cells: dict[str, Any] = {}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        try:
            cells[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    pending = [code]
    names: set[str] = set()
    while pending:
        current = pending.pop()
        names.update(current.co_names, current.co_freevars)
        pending.extend(c for c in current.co_consts if isinstance(c, types.CodeType))
    for name in names:
        value = cells.get(name, function.__globals__.get(name))
        if isinstance(value, types.ModuleType):
            candidates = [value.__dict__.get(n) for n in names]
        else:
            candidates = [value]
        for candidate in candidates:
            if isinstance(candidate, type) and _is_message(candidate):
                yield candidate


def _is_message(cls: type) -> bool:
    if (cls.__module__ or "").partition(".")[0] == "sagalog":
        return False
    return any(
        hasattr(cls, mark) for mark in ("__dataclass_fields__", "__struct_fields__", "__attrs_attrs__", "model_fields")
    )


