"""The definition of one process: a class with typed handlers, checked when the class is made.

`correlation_id`, `handle`, `encode_state` and `decode_state` are what the engine calls. The decorators `starts`, `on`
and `on_refused` fill in the first two; a class may override all of them directly instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from enum import Enum
from typing import Any, ClassVar, Generic, TypeVar

from ..errors import CodecError, DefinitionError, InvalidEventError
from . import codec
from .actions import Compensate, Refused
from .children import ChildEnded
from .context import StepContext
from .indexing import IndexTable, index_table
from .itinerary import ActivityTable
from .joins import Join
from .keys import Key, correlation_text, key_text, lone_surrogate
from .legs import Legs
from .making import made_of, state_type_of
from .phase_table import PhaseTable
from .phases import Unexpected
from .routes import Actions, Again, Route
from .schema import schema_of, to_current
from .sequences import Numbering
from .stored_types import registry_of

S = TypeVar("S")


class Saga(Generic[S]):
    """Base of a durable saga with state `S`: subclass it as `class OrderSaga(Saga[OrderState])`.

    `name` is stored with every instance and must not change (`[A-Za-z0-9_.-]+`). `messages` declares types that appear
    in stored data and that the handlers do not name themselves: commands built elsewhere, events of timers. It holds
    types, unions of types, and modules, which stand for all message classes that they define.

    A living instance knows a sender's message again for `remembered_for` at least, unless more than
    `remembered_messages` came after it. All that are remembered are written with every step.

    `phases` is an Enum of the states that the saga goes through; a new instance is in `initial_phase`, by default the
    first. `unexpected` says what becomes of an event in a phase that does not expect it, where its handler says nothing.
    Events that are kept wait in the record: `most_kept` at once, beyond that their sender is told by an error.

    `keys` declares texts besides the correlation id by which instances are reached: `AddKey` and `by=` name them.

    `index` names fields of the state, and `phase`, by which `runner.find` finds live instances. Each is stored once more
    with the instance, as a text.
    """

    name: ClassVar[str]
    messages: ClassVar[Any] = ()
    remembered_messages: ClassVar[int] = 1000
    remembered_for: ClassVar[timedelta] = timedelta(days=7)
    phases: ClassVar[type[Enum] | None] = None
    initial_phase: ClassVar[Enum | None] = None
    unexpected: ClassVar[Unexpected] = "raise"
    most_kept: ClassVar[int] = 1000
    index: ClassVar[tuple[str, ...]] = ()
    keys: ClassVar[tuple[Key, ...]] = ()

    phase_table: ClassVar[PhaseTable | None] = None  # made of the above and the handlers, with the class
    has_joins: ClassVar[bool] = False  # some of its methods run when several events have come
    activities: ClassVar[ActivityTable | None] = None  # made of the methods that `activity` decorates, with the class
    numberings: ClassVar[dict[type, Numbering]] = {}  # of the events whose senders number them
    key_table: ClassVar[Mapping[str, Key]] = {}  # made of `keys`, with the class
    waits: ClassVar[bool] = False  # some of its messages may come before their moment
    automatic: ClassVar[bool] = False  # its activities begin and end it by themselves

    __all_routes: ClassVar[tuple[Route, ...]] = ()
    __routes: ClassVar[dict[type, Route]] = {}  # one for each event: the one that starts the saga, or the first
    __refusals: ClassVar[dict[type, str]] = {}
    __own_refused: ClassVar[bool] = False  # it overrides `refused`, which is more than a handler of that name
    __legs: ClassVar[dict[str, Legs]] = {}
    __children: ClassVar[dict[str, str]] = {}  # methods that hear of the end of children, by the name of their saga
    __joins: ClassVar[tuple[Join, ...]] = ()
    __contextual: ClassVar[frozenset[str]] = frozenset()  # methods that take the context of their step
    __takes_context: ClassVar[bool] = False  # some do, or depend on their phase
    __state: ClassVar[type | None] = None
    __state_version: ClassVar[int] = 1
    __index: ClassVar[IndexTable | None] = None  # None: to be made when the types of its state can be resolved

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__state = state_type_of(cls, Saga)
        made = made_of(cls, cls.__state, Saga)
        cls.activities = made.activities
        cls.phase_table, cls.numberings, cls.key_table = made.phase_table, made.numberings, made.key_table
        cls.waits = made.phase_table is not None or bool(made.numberings)
        cls.has_joins = bool(made.joins)
        cls.__all_routes, cls.__routes = made.all_routes, made.routes
        cls.__refusals, cls.__legs, cls.__children, cls.__joins = made.refusals, made.legs, made.children, made.joins
        cls.__own_refused = cls.refused is not Saga.refused and "refused" not in made.refusals.values()
        cls.__contextual = made.contextual
        cls.__takes_context = bool(made.contextual) or made.phase_table is not None
        cls.__state_version = 1 if cls.__state is None else schema_of(cls.__state).version
        cls.__index = made.indexed

    @classmethod
    def implied_routes(cls) -> tuple[Route, ...]:
        """Return routes that no decorator declares. None, but for an ItinerarySaga."""
        return ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    def initial_state(self) -> S:
        """Return the state of a new instance: the state type without arguments, unless overridden.

        An overriding method may return the same object each time: each instance is given a copy (`fresh_state`).
        """
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

    def fresh_state(self) -> S:
        """Return the state of a new instance as an object that nobody else holds.

        Raises CodecError for an initial state that could not be read back.
        """
        state = self.initial_state()
        if type(self).initial_state is Saga.initial_state:
            return state
        return self.decode_state(self.pack_state(state))

    def correlation_id(self, event: Any) -> str | None:
        """Return which instance `event` is for, or None if it is not for this saga."""
        route = self.__routes.get(type(event))
        if route is None or route.by:
            return None
        value = self.__key(route, event)
        if route.sequence is not None and value is not None:
            self.numberings[type(event)].place(event)  # a wrong number is refused here, before anything is stored
        return correlation_text(value, type(event), type(self).name)

    def key_of(self, event: Any) -> tuple[Key, str] | None:
        """Return the key by which `event` reaches instances, and the text of its value; None where it is by none."""
        route = self.__routes.get(type(event))
        if route is None or not route.by:
            return None
        value = self.__key(route, event)
        if value is None:
            return None
        text = key_text(value)
        if lone_surrogate(value):
            raise InvalidEventError(
                f"{type(event).__name__} for saga {type(self).name!r}: its key holds a lone surrogate, which is not valid "
                "Unicode; nothing was stored"
            )
        if text is None:
            correlation_text(value, type(event), type(self).name)  # says what is wrong with it
        return self.key_table[route.by], text or ""

    def __key(self, route: Route, event: Any) -> Any:
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
        return value

    def may_start(self, event: Any) -> bool:
        """Say whether `event` may start a new instance. Every event may, for a class that overrides `handle`."""
        route = self.__routes.get(type(event))
        return route.starts if route is not None else type(self).handle is not Saga.handle

    def again(self, event: Any) -> Again:
        """Say what a starting `event` means for a life that an event of its type has started or met already.

        "handle": it is handled like any other; "ignore": it changes nothing; "raise": its sender is told.
        """
        route = self.__routes.get(type(event))
        return "handle" if route is None else route.again

    def handles_event(self, event: Any) -> bool:
        """Say whether a handler takes events of this type. A class that overrides `handle` is asked when it comes."""
        if type(event) in self.__routes or type(self).handle is not Saga.handle:
            return True
        return self.activities is not None and type(event) in self.activities.events

    def accepts_while_compensating(self, event: Any) -> bool:
        """Say whether `event` is handled while the instance compensates; otherwise it is ignored then."""
        return self.accepts_type_while_compensating(type(event))

    def accepts_type_while_compensating(self, event: type) -> bool:
        """Say whether events of that type are handled while the instance compensates."""
        route = self.__routes.get(event)
        return route is not None and route.while_compensating

    def handle(self, state: S, event: Any) -> Actions:
        """Change `state` and return the actions: an iterable, one, none, or an awaitable or async iterable of them.

        A handler that takes the context of its step is given one through `handle_in`.
        """
        route = self.__routes.get(type(event))
        if route is not None and self.phase_table is None and route.method not in self.__contextual:  # mostly
            return getattr(self, route.method)(state, event)  # type: ignore[no-any-return]
        if route is None and self.activities is not None and type(event) in self.activities.events:
            return self.activities.told(self, state, event)
        return self.__call(self.__method(event, None), state, event, None)

    def awaited(self, state: S, event: Any) -> None:
        """Take an event that an activity waits for, where no handler of this saga does. The engine calls this."""

    def handle_in(self, state: S, event: Any, context: StepContext) -> Actions:
        """Handle `event` as `handle` does, and give `context` to a handler that takes it. The engine calls this."""
        cls = type(self)
        if cls.handle is not Saga.handle:
            override: Any = self.handle
            return override(state, event, context) if "handle" in cls.__contextual else override(state, event)  # type: ignore[no-any-return]
        if self.activities is not None and type(event) in self.activities.events:
            return self.activities.told(self, state, event)
        return self.__call(self.__method(event, context), state, event, context)

    def refused(self, state: S, refused: Refused[Any]) -> Actions:
        """Decide what a refused command means: the handler of `on_refused`, else compensate."""
        method = self.__refusals.get(type(refused.command))
        return self.__call(method, state, refused, None) if method else Compensate()

    def refused_in(self, state: S, refused: Refused[Any], context: StepContext | None) -> Actions:
        """Decide as `refused` does, and give `context` to a handler that takes it. The engine calls this."""
        cls = type(self)
        if self.__own_refused:
            override: Any = self.refused
            return override(state, refused, context) if "refused" in cls.__contextual else override(state, refused)  # type: ignore[no-any-return]
        method = self.__refusals.get(type(refused.command))
        return self.__call(method, state, refused, context) if method else Compensate()

    def child_ended(self, state: S, ended: ChildEnded, context: StepContext) -> Actions:
        """Tell the method that hears of such children; where there is none, nothing follows. The engine calls this."""
        method = self.__children.get(ended.saga)
        if method is None:
            return None
        handler = getattr(self, method)
        return handler(state, ended, context) if method in self.__contextual else handler(state, ended)  # type: ignore[no-any-return]

    @classmethod
    def takes_context(cls) -> bool:
        """Say whether any handler takes the context of its step, or depends on its phase; else it need not be made."""
        return cls.__takes_context

    def phase_of(self, state: S) -> Enum:
        """Return the phase of an instance that was stored before the saga had phases: the initial one, unless overridden.

        Nothing is entered by that.
        """
        table = self.phase_table
        if table is None:
            raise DefinitionError(f"saga {type(self).name!r} has no phases: declare phases = an Enum")
        return table.initial

    def acts(self, phase: Enum, state: S, context: StepContext, *, entering: bool) -> Actions:
        """Return what is declared to act when a phase is entered, or left. The engine calls this."""
        assert self.phase_table is not None
        method = (self.phase_table.entering if entering else self.phase_table.leaving).get(phase.name)
        if method is None:
            return None
        function = getattr(self, method)
        return function(state, context) if method in self.__contextual else function(state)  # type: ignore[no-any-return]

    def __method(self, event: Any, context: StepContext | None) -> str:
        route, table = self.__routes.get(type(event)), self.phase_table
        if route is None:
            raise DefinitionError(f"saga {type(self).name!r} has no handler for {type(event).__name__}")
        if table is None:
            return route.method
        if context is None or context.phase is None:
            if sum(other.event is route.event for other in self.__all_routes) == 1:
                return route.method
            raise DefinitionError(
                f"saga {type(self).name!r} handles {type(event).__name__} by its phase: call handle_in(state, event, "
                "StepContext(..., phase=...)), or the method itself"
            )
        method = table.method(type(event), context.phase)
        if method is None:
            raise DefinitionError(
                f"saga {type(self).name!r} has no handler for {type(event).__name__} during {context.phase.name}"
            )
        return method

    def __call(self, method: str, state: S, message: Any, context: StepContext | None) -> Actions:
        handler = getattr(self, method)
        if method not in self.__contextual:
            return handler(state, message)  # type: ignore[no-any-return]
        if context is None:
            raise DefinitionError(
                f"{type(self).__name__}.{method}() takes the context of its step: call handle_in(state, event, "
                "StepContext(...)), or the method itself"
            )
        return handler(state, message, context)  # type: ignore[no-any-return]

    def encode_state(self, state: S) -> bytes:
        """Return the stored form of `state`: JSON, unless overridden."""
        return codec.encode(state)

    def decode_state(self, payload: bytes) -> S:
        """Return the state that `payload` holds. Raises CodecError, which parks the instance."""
        state = self.__state
        if state is None:
            raise DefinitionError(f"{type(self).__name__} does not name its state type: Saga[YourState]")
        return codec.decode(payload, state)

    def pack_state(self, state: S) -> bytes:
        """Return what `encode_state` gives, once `decode_state` has read it: what cannot be read is never stored.

        Raises CodecError, which names type and field and holds no values. With the saga's own pair of methods, it has
        to be decodable; without, it has to come back equal.
        """
        kind, cls = self.__state, type(self)
        if kind is not None and cls.encode_state is Saga.encode_state and cls.decode_state is Saga.decode_state:
            return codec.encode_readable(state, kind)
        payload = self.encode_state(state)
        if type(payload) is not bytes:
            raise DefinitionError(
                f"saga {type(self).name!r}: encode_state must return bytes, not {type(payload).__name__}"
            )
        try:
            self.decode_state(payload)
        except CodecError:
            raise
        except Exception as error:  # the user's own decoder; its message may quote the state
            raise CodecError(
                f"the state of saga {type(self).name!r} cannot be stored, because it could not be read back: decode_state "
                f"raised {type(error).__name__}"
            ) from error
        return payload

    @classmethod
    def index_table(cls) -> IndexTable:
        """Return the fields that instances are found by. Raises DefinitionError for a type that is not known."""
        if cls.__index is None:
            cls.__index = index_table(cls.__name__, cls.index, cls.__state, cls.phases)
        if cls.__index is None:
            raise DefinitionError(
                f"{cls.__name__}.index: an annotation of its state cannot be resolved where it is defined"
            )
        return cls.__index

    @classmethod
    def state_type(cls) -> Any:
        """Return the state type; None where the class does not name it."""
        return cls.__state

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
        return cls.__all_routes

    @classmethod
    def joins(cls) -> tuple[Join, ...]:
        """Return the methods that run when several events have come, in the order in which they are written."""
        return cls.__joins

    @classmethod
    def legs(cls) -> dict[str, Legs]:
        """Return the methods that make the legs of large gathers, by the gather's name."""
        return cls.__legs

    @classmethod
    def children(cls) -> dict[str, str]:
        """Return the names of the sagas whose children a decorated method hears of, and that method's name."""
        return dict(cls.__children)

    @classmethod
    def refusals(cls) -> dict[type, str]:
        """Return the command types whose refusal a decorated method handles, and that method's name."""
        return dict(cls.__refusals)

    @classmethod
    def registry(cls, instance: Saga[Any] | None = None) -> codec.TypeRegistry:
        """Return the types that may stand in stored data of this saga; `instance` adds what its parts bring.

        Declared are the decorated events, `messages`, and the message classes that the handlers' own code names
        (`Send(ShipOrder(...))` declares ShipOrder). Beyond these, whatever the saga's modules and the helpers they import
        can reach is accepted. All come from code; stored names are only looked up here.

        Raises DefinitionError if one type's values could not be read back, or two declared types have one name.
        """
        if cls.index:
            cls.index_table()
        return registry_of(cls, cls.__state, (*cls.__routes, *cls.__refusals), instance, Saga)


def may_take(saga: type[Saga[Any]], event: type) -> bool:
    """Say whether events of this class may be for a saga: a handler takes them, or `correlation_id` of its own decides."""
    return event in saga.event_types() or saga.correlation_id is not Saga.correlation_id


def check_taken(sagas: Iterable[Saga[Any]], types: Mapping[str, type], what: str) -> None:
    """Raise DefinitionError if `what` names a class, under whichever name, whose events are for none of the sagas."""
    known = [type(saga) for saga in sagas]
    for name, event in types.items():
        if not any(may_take(saga, event) for saga in known):
            raise DefinitionError(
                f"{what} reads {name!r} as {event.__name__}, and no saga of its runner takes events of that class: give "
                f"the class of an event that one of them handles ({', '.join(saga.name for saga in known)})"
            )
