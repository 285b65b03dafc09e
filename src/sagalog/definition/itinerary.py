"""The activities of one saga, checked together: in which order they run, and the types under which they are stored.

An activity is a command of its own type, and so is its undo; its result and its failure are events of their own types.
All are named after the saga and the activity, so that stored data means the same whatever the order in the class.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import msgspec

from ..durations import remedy
from ..errors import DefinitionError
from ..text import given
from .activities import HOOKS, OTHER_MARKS, Activity, Options
from .annotations import check_annotations, check_of_one
from .codec import Typed
from .fields import NO_RESULT, field_of, result_of
from .rates import check_rate
from .routes import Actions, Handles, Route
from .schema import Schema
from .storable import check_storable

_EMPTY = msgspec.Raw(b"{}")
_SPANS = ("timeout", "within", "remind")
_RATES = ("rate", "shared_rate")
_FLAGS = ("optional", "parks", "pivot")


class DefinedActivity:
    """One activity in its table. `after`: the names it waits for; None: it begins by `Run` alone."""

    __slots__ = (
        "after",
        "before",
        "command",
        "done",
        "failed",
        "field",
        "final",
        "methods",
        "name",
        "options",
        "overdue",
        "reminder",
        "stored",
        "stored_undo",
        "undo",
    )

    def __init__(self, name: str, options: Options, after: tuple[str, ...] | None) -> None:
        self.name: str = name
        self.options: Options = options
        self.after: tuple[str, ...] | None = after
        self.before: frozenset[str] = frozenset()  # all that come after it, also indirectly
        self.final: bool = False  # it comes after a pivot
        self.field: bool = False  # the state has a field for its result
        self.methods: dict[str, str] = {}  # "undo", "then", "failed": the method's name
        self.command: type
        self.undo: type | None = None
        self.done: type
        self.failed: type
        self.overdue: type
        self.reminder: type
        self.stored: Typed  # the command
        self.stored_undo: Typed | None = None

    @property
    def too_long(self) -> str:
        """Say why it has failed, where its deadline has passed."""
        if self.options.within is None:  # other code has set the deadline
            return "it took too long"
        return f"it took longer than {self.options.within}"

    @property
    def never_fails(self) -> bool:
        """Whether an operator has to decide about its failure: nothing may be undone, or it is declared so."""
        return self.options.parks or (self.final and not self.options.optional)


class ActivityTable:
    """All activities of a saga, in the order of its class. `automatic`: they are the saga, as in an ItinerarySaga."""

    def __init__(self, saga: type, name: str, state: Any, *, automatic: bool) -> None:
        self.saga: str = saga.__name__
        self.name = name
        self.automatic = automatic
        self.steps: dict[str, DefinedActivity] = {}
        self.events: dict[type, tuple[str, str]] = {}  # of our own: what it says, of which activity
        self.commands: dict[type, tuple[DefinedActivity, bool]] = {}  # and whether it is the undo
        self.by_command: dict[str, DefinedActivity] = {}  # by the stored name of the activity's command
        # By event: the activity that waits for it, and whether it means no.
        self.awaited: dict[type, tuple[DefinedActivity, bool]] = {}
        found = _activities(saga)
        _order(self.saga, found, self.steps, automatic=automatic)
        _check_pivots(self.saga, self.steps)
        for step, activity in zip(self.steps.values(), found.values(), strict=True):
            self._check(step, activity, state, saga)
        self._hooks(saga, found, state)
        self.proceed: type = _made(f"{name}.proceed", saga)
        self.events[self.proceed] = "proceed", ""
        for step in self.steps.values():
            self._name_types(step, found[step.name], state, saga)

    def types(self) -> Iterable[type]:
        """Return all types of ours that may stand in stored data."""
        return (*self.commands, *self.events)

    def routes(self, saga: type, handled: Mapping[type, Any]) -> list[Route]:
        """Return routes for the events that activities wait for, as far as no handler takes them."""
        found = []
        for event, (step, _) in self.awaited.items():
            if event in handled:
                continue
            key = step.options.key if step.options.key is not None else getattr(saga, "key", None)
            what = f"{self.saga}.{step.name} waits for {event.__name__}"
            if key is None:
                raise DefinitionError(
                    f"{what}, and nothing says which instance it is for: pass @activity(key=...), the name of the "
                    "event's attribute that holds the correlation id"
                )
            try:
                handles: Handles[Any] = Handles(event, key, starts=False, while_compensating=False)
            except DefinitionError as error:
                raise DefinitionError(f"{what}: {error}; pass @activity(key=...)") from None
            found.append(handles.route("awaited"))
        return found

    def told(self, saga: Any, state: Any, event: Any) -> Actions:
        """Put the result of an activity into the state, and return what the saga asks for because of it."""
        what, name = self.events[type(event)]
        if what not in ("done", "failed", "overdue"):
            return None
        step = self.steps[name]
        if what == "overdue" and step.never_fails:  # other code has set a deadline
            return None
        if what != "done":
            method, why = step.methods.get("failed"), step.too_long if what == "overdue" else event.reason
            return getattr(saga, method)(state, why) if method is not None else None
        if step.field:
            setattr(state, name, event.result)
        method = step.methods.get("then")
        return getattr(saga, method)(state) if method is not None else None

    def _check(self, step: DefinedActivity, activity: Activity[Any, Any], state: Any, saga: type) -> None:
        name, options = f"{self.saga}.{step.name}", step.options
        check_parameters(name, activity.function, 3, "(self, state, call)")
        check_annotations(self.saga, activity.function, state, None)
        if options.when is not None and not callable(options.when):
            raise DefinitionError(f"{name}: when= must be a function of the state, not {type(options.when).__name__}")
        if options.when is not None:
            check_of_one(f"{name}: when=", options.when, "the state")
        if options.retry is not None and not callable(getattr(options.retry, "wait_seconds", None)):
            raise DefinitionError(f"{name}: retry= must be a RetryPolicy, not {type(options.retry).__name__}")
        if options.places is not None and (type(options.places) is not int or options.places < 1):
            raise DefinitionError(f"{name}: places= must be a whole number of at least 1, not {given(options.places)}")
        for what in _RATES:
            if getattr(options, what) is not None:
                check_rate(f"{name}: {what}=", getattr(options, what), of="an activity", each="calls")
        circuit = options.circuit
        if circuit is not None and (isinstance(circuit, type) or not hasattr(circuit, "probe_after")):
            raise DefinitionError(f"{name}: circuit= must be a Circuit, not {type(circuit).__name__}")
        for what in _SPANS:
            span = getattr(options, what)
            if span is not None and (not isinstance(span, timedelta) or span <= timedelta()):
                shown = span if isinstance(span, timedelta) else given(span)
                raise DefinitionError(
                    f"{name}: {what}= must be a timedelta above zero, not {shown}: {remedy(what, span)}"
                )
        for what in _FLAGS:
            if type(getattr(options, what)) is not bool:
                raise DefinitionError(f"{name}: {what}= must be True or False, not {getattr(options, what)!r}")
        if options.optional and options.parks:
            raise DefinitionError(f"{name}: optional= continues without it, parks= waits for an operator; keep one")
        if options.optional and options.pivot:
            raise DefinitionError(f"{name}: after a pivot nothing is undone any more, so it cannot be optional")
        if step.never_fails and (options.within is not None or options.unless is not None):
            what = "within=" if options.within is not None else "unless="
            why = "it parks" if options.parks else "it comes after a pivot, and is tried until it succeeds"
            raise DefinitionError(f"{name}: {what} lets it fail, but {why}: leave {what} out, or make it optional=True")
        self._check_until(name, step)

    def _check_until(self, name: str, step: DefinedActivity) -> None:
        options = step.options
        if options.until is None:
            for what in ("unless", "key", "remind"):
                if getattr(options, what) is not None:
                    raise DefinitionError(f"{name}: {what}= is for an activity that waits for an event: pass until=")
            return
        for event, refuses in ((options.until, False), (options.unless, True)):
            if event is None:
                continue
            if not isinstance(event, type):
                raise DefinitionError(
                    f"{name}: {'unless' if refuses else 'until'}= must be an event class, not {type(event).__name__}"
                )
            check_storable(event, f"{self.saga}: the message type", final=False)
            if event in self.awaited:
                other = self.awaited[event][0].name
                raise DefinitionError(
                    f"{self.saga}: {other} and {step.name} both wait for {event.__name__}: give each an event of its own"
                )
            self.awaited[event] = step, refuses

    def _hooks(self, saga: type, found: Mapping[str, Activity[Any, Any]], state: Any) -> None:
        for attribute in dir(saga):
            function = getattr(saga, attribute, None)
            for what, activity in getattr(function, HOOKS, ()) if inspect.isfunction(function) else ():
                step = self.steps.get(activity.name)
                here = f"{self.saga}.{attribute}() is @{activity.name}.{what}"
                if step is None:
                    raise DefinitionError(
                        f"{here}, and {self.saga} has no activity {activity.name}: define it, or remove this"
                    )
                if any(hasattr(function, mark) for mark in OTHER_MARKS):
                    raise DefinitionError(f"{here}, so it cannot also handle an event or a refusal: write two methods")
                if what in step.methods:
                    raise DefinitionError(f"{here}, and so is {step.methods[what]}(); keep one")
                if what == "undo" and step.final:
                    raise DefinitionError(
                        f"{here}, but {activity.name} comes after a pivot, so it is never undone: remove it, or move "
                        "the pivot"
                    )
                takes = {"undo": "(self, state, call)", "then": "(self, state)", "failed": "(self, state, reason)"}
                check_parameters(f"{self.saga}.{attribute}", function, takes[what].count(",") + 1, takes[what])
                check_annotations(self.saga, function, state, None)
                if what == "undo" and (inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)):
                    raise DefinitionError(f"{here}, and yields, so it would never run: let it make its call itself")
                if what != "undo" and step.options.until is not None and _is_async(function):
                    raise DefinitionError(
                        f"{here}, which ends by an event; it runs in the step of that event, after its handler: make it a "
                        "plain method"
                    )
                step.methods[what] = attribute

    def _name_types(self, step: DefinedActivity, activity: Activity[Any, Any], state: Any, saga: type) -> None:
        named, here = f"{self.name}.{step.name}", f"{self.saga}.{step.name}"
        waits = step.options.until is not None
        fields: list[Any] = [("reminder", int, 0)] if waits else []
        step.command = _made(named, saga, fields)
        step.stored = Typed(named, _EMPTY)
        self.commands[step.command] = step, False
        self.by_command[named] = step
        if "undo" in step.methods:
            step.undo = _made(f"{named}.undo", saga)
            step.stored_undo = Typed(f"{named}.undo", _EMPTY)
            self.commands[step.undo] = step, True
        result = step.options.until if waits else result_of(activity.function, state, step.name)
        step.field = field_of(here, state, step.name, result, needed=not waits)
        kind = result if step.field and not waits else None
        step.done = _made(f"{named}.done", saga, [] if kind in (None, NO_RESULT) else [("result", kind)])
        step.failed = _made(f"{named}.failed", saga, [("reason", str), ("refused", bool, False)])
        step.overdue = _made(f"{named}.overdue", saga)
        step.reminder = _made(f"{named}.reminder", saga, [("number", int)])
        check_storable(step.done, f"{here}: the result", final=False)
        for what in ("done", "failed", "overdue", "reminder"):
            self.events[getattr(step, what)] = what, step.name


def activity_table(saga: type, name: Any, state: Any, *, automatic: bool) -> ActivityTable | None:
    """Return the table of a saga's activities, checked; None for a saga without. Raises DefinitionError."""
    if not isinstance(name, str):
        return None
    if any(isinstance(getattr(saga, one, None), Activity) for one in dir(saga)):
        return ActivityTable(saga, name, state, automatic=automatic)
    for attribute in dir(saga):
        hooks = getattr(getattr(saga, attribute, None), HOOKS, ())
        if hooks:
            raise DefinitionError(
                f"{saga.__name__}.{attribute}() is @{hooks[0][1].name}.{hooks[0][0]}, and {saga.__name__} has no activity "
                f"{hooks[0][1].name}: define it, or remove this"
            )
    if automatic:
        raise DefinitionError(f"{saga.__name__} has no activities: decorate its methods with @activity")
    return None


def _activities(saga: type) -> dict[str, Activity[Any, Any]]:
    """Return the activities in the order of definition, those of base classes first."""
    found: dict[str, Activity[Any, Any]] = {}
    for base in reversed(saga.__mro__):
        for name, value in base.__dict__.items():
            if not isinstance(value, Activity):
                continue
            if value.name != name:
                raise DefinitionError(f"{saga.__name__}.{name} is the activity {value.name} again: define each once")
            now = getattr(saga, name)
            if isinstance(now, Activity):
                found[name] = now
    return found


def _order(
    saga: str, found: Mapping[str, Activity[Any, Any]], steps: dict[str, DefinedActivity], *, automatic: bool
) -> None:
    previous: tuple[str, ...] = ()
    for name, activity in found.items():
        after: tuple[str, ...] | None = previous if automatic else None
        if activity.options.after is not None:
            after = _names(f"{saga}.{name}", activity.options.after, found)
        steps[name] = DefinedActivity(name, activity.options, after)
        previous = (name,)
    earlier: dict[str, frozenset[str]] = {}

    def all_before(name: str, path: tuple[str, ...]) -> frozenset[str]:
        if name in path:
            circle = " -> ".join((*path[path.index(name) :], name))
            raise DefinitionError(f"{saga}: the activities wait for each other in a cycle: {circle}; remove one after=")
        if name not in earlier:
            direct = steps[name].after or ()
            earlier[name] = frozenset(direct).union(*(all_before(one, (*path, name)) for one in direct))
        return earlier[name]

    for name in steps:
        all_before(name, ())
    for name, step in steps.items():
        step.before = frozenset(other for other, some in earlier.items() if name in some)


def _names(what: str, given: Any, found: Mapping[str, Activity[Any, Any]]) -> tuple[str, ...]:
    several = (given,) if isinstance(given, (str, Activity)) or callable(given) else given
    if not isinstance(several, Iterable):
        raise DefinitionError(
            f"{what}: after= takes activities of this saga, or their names, not {type(given).__name__}"
        )
    names = []
    for one in several:
        name = one if isinstance(one, str) else getattr(one, "name", getattr(one, "__name__", type(one).__name__))
        if name not in found:
            raise DefinitionError(
                f"{what}: after= names {name!r}, which is not an activity of this saga; it has {', '.join(found)}"
            )
        names.append(name)
    return tuple(dict.fromkeys(names))


def _check_pivots(saga: str, steps: Mapping[str, DefinedActivity]) -> None:
    pivots = [step for step in steps.values() if step.options.pivot is True]
    for pivot in pivots:
        for name in pivot.before:
            steps[name].final = True
    for pivot in pivots:
        for name, step in steps.items():
            beside = name != pivot.name and name not in pivot.before and pivot.name not in step.before
            if not beside or step.options.optional is True:
                continue
            if step.options.pivot is True:
                raise DefinitionError(
                    f"{saga} has two pivots on parallel branches, {pivot.name} and {name}: one may be done when the "
                    "other fails; put one after the other"
                )
            raise DefinitionError(
                f"{saga}.{name} runs beside the pivot {pivot.name}, so it may fail when nothing can be undone any more: "
                "let it come before or after (after=), or make it optional=True"
            )


def check_parameters(what: str, function: Any, count: int, takes: str) -> None:
    """Raise DefinitionError for a method that cannot be called with `count` arguments, those that it `takes`."""
    parameters = list(inspect.signature(function).parameters.values())
    positional = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    required = [one for one in parameters if one.default is one.empty and one.kind is not one.VAR_POSITIONAL]
    if len(positional) < count or len([one for one in required if one.kind is not one.VAR_KEYWORD]) > count:
        raise DefinitionError(f"{what}() must take {takes}, but takes ({', '.join(str(one) for one in parameters)})")


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _made(name: str, saga: type, fields: Iterable[Any] = ()) -> type:
    """Return a message type of our own, named as it is stored."""
    return msgspec.defstruct(
        name,
        list(fields),
        frozen=True,
        omit_defaults=True,
        module=saga.__module__,
        namespace={"__sagalog_schema__": Schema(name, 1), "__doc__": f"Made by {saga.__qualname__}."},
    )
