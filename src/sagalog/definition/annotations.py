"""What a saga's own code says about its types: the annotations of a handler, and the message classes it names."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterable
from typing import Any, get_origin, get_type_hints

from ..errors import DefinitionError
from .context import StepContext

_EVENT_NAMES = ("event", "ev", "evt", "message")


def takes_context(saga: str, function: Any) -> bool:
    """Say whether a handler takes the context of its step as third parameter, whatever its name.

    Raises DefinitionError if it can be called neither as (self, state, event) nor as (self, state, event, context).
    """
    name = getattr(function, "__name__", type(function).__name__)
    if not callable(function):
        raise DefinitionError(f"{saga}.{name} must be a method that takes (self, state, event)")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return False
    parameters = list(signature.parameters.values())
    given = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [one for one in parameters if one.kind in given]
    required = [one for one in positional if one.default is one.empty]
    several = any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in parameters)
    keywords = [one for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY and one.default is one.empty]
    if keywords or len(required) > 4 or (len(positional) < 3 and not several):
        raise DefinitionError(
            f"{saga}.{name}() must take (self, state, event) or (self, state, event, context), and takes "
            f"({', '.join(str(one) for one in parameters)})"
        )
    if len(positional) < 4:
        return False
    fourth = positional[3]
    # A fourth with a default is some setting of the handler's own, unless it says that it is the context.
    return fourth.default is fourth.empty or fourth.name == "context" or "StepContext" in str(fourth.annotation)


def check_acting(saga: str, function: Any, state: type | None) -> bool:
    """Say whether a method of `on_enter` or `on_leave` takes the context of its step behind the state.

    Raises DefinitionError if it can be called neither as (self, state) nor as (self, state, context).
    """
    parameters = list(inspect.signature(function).parameters.values())
    given = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [one for one in parameters if one.kind in given]
    required = [one for one in positional if one.default is one.empty]
    keywords = [one for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY and one.default is one.empty]
    if keywords or len(required) > 3 or len(positional) < 2:
        raise DefinitionError(
            f"{saga}.{function.__name__}() must take (self, state) or (self, state, context), and takes "
            f"({', '.join(str(one) for one in parameters)})"
        )
    check_annotations(saga, function, state, None)
    takes_it = len(required) == 3 or (len(positional) > 2 and positional[2].name == "context")
    if takes_it and wants_event(function, positional[2].name):
        raise DefinitionError(
            f"{saga}.{function.__name__}() must take (self, state) or (self, state, context), and takes "
            f"({', '.join(str(one) for one in parameters)}): it has no event of its own"
        )
    return takes_it


def wants_event(function: Any, parameter: str) -> bool:
    """Say whether a parameter in the place of the context is meant for an event, by its name or its annotation."""
    if parameter in _EVENT_NAMES:
        return True
    try:
        declared = get_type_hints(function).get(parameter, Any)
    except Exception:  # whatever an annotation may raise when it is evaluated
        return False
    plain = get_origin(declared) or declared
    if plain is Any or plain is types.UnionType or not isinstance(plain, type):
        return False
    return not issubclass(StepContext, plain)


def check_of_one(what: str, function: Any, takes: str) -> None:
    """Raise DefinitionError for a function that is async, yields, or cannot be called with what it `takes` alone."""
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise DefinitionError(f"{what} is a plain function of {takes}, and may not be async")
    if inspect.isgeneratorfunction(function):
        raise DefinitionError(f"{what} is a plain function of {takes}, and may not yield")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of some builtins
        return
    try:
        signature.bind(None)
    except TypeError:
        raise DefinitionError(f"{what} takes only {takes}, but is written to take {signature}") from None


def check_annotations(saga: str, function: Any, state: Any, event: type | None) -> None:
    """Raise DefinitionError if a handler is annotated with another state or event type than it will get.

    Annotations that cannot be resolved yet (local types, names imported for type checkers only) are passed over.
    """
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return
    names = code.co_varnames[1 : code.co_argcount]
    if not names:
        return
    try:
        hints = get_type_hints(function)
    except Exception:  # whatever an annotation may raise when it is evaluated
        return
    for name, actual, what in zip(names, (state, event), ("state", "event"), strict=False):
        declared = hints.get(name, Any)
        plain = get_origin(declared) or declared
        if not isinstance(plain, type) or declared is Any or actual is None or declared == actual:
            continue
        real = get_origin(actual) or actual
        if isinstance(real, type) and plain is not types.UnionType and not issubclass(real, plain):
            raise DefinitionError(
                f"{saga}.{function.__name__}() is annotated to take a {plain.__name__} as {what}, but gets a "
                f"{real.__name__}"
            )


def named_types(function: Any) -> Iterable[type]:
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
            if isinstance(candidate, type) and is_message(candidate):
                yield candidate


def is_message(cls: type) -> bool:
    """Say whether `cls` has fields to be stored: a dataclass, a msgspec Struct, attrs, or a pydantic model."""
    if (cls.__module__ or "").partition(".")[0] == "sagalog":
        return False
    return any(
        hasattr(cls, mark) for mark in ("__dataclass_fields__", "__struct_fields__", "__attrs_attrs__", "model_fields")
    )


def attributes(cls: type) -> set[str]:
    """Return the names of the attributes that instances of a class have, as far as it declares them."""
    names: set[str] = set()
    for base in cls.__mro__[:-1]:
        names.update(n for n in base.__dict__.get("__annotations__", {}) if not n.startswith("__"))
        names.update(n for n, v in base.__dict__.items() if isinstance(v, property))
        slots = base.__dict__.get("__slots__", ())
        names.update(n for n in ([slots] if isinstance(slots, str) else slots) if not n.startswith("__"))
    return names
