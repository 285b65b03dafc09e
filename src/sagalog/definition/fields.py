"""The field of a state that takes the result of an activity, and the types of both."""

from __future__ import annotations

import sys
import types
from typing import Any, Union, get_args, get_origin, get_type_hints

from ..errors import DefinitionError
from .storable import type_name

NO_RESULT: Any = type(None)


def hints_of(cls: Any) -> dict[str, Any]:
    """Return the fields of a state and their types; Any where an annotation cannot be resolved."""
    plain = get_origin(cls) or cls
    if not isinstance(plain, type):
        return {}
    try:
        return get_type_hints(plain)
    except Exception:  # whatever an annotation may raise when it is evaluated
        found: dict[str, Any] = {}
        for base in reversed(plain.__mro__):
            module = vars(sys.modules.get(base.__module__, types.ModuleType("")))
            for name, hint in base.__dict__.get("__annotations__", {}).items():
                found[name] = _evaluated(hint, module, base)
        return found


def _evaluated(hint: Any, module: dict[str, Any], base: type) -> Any:
    try:
        return get_type_hints(type("One", (), {"__annotations__": {"it": hint}}), module, {base.__name__: base})["it"]
    except Exception:  # a type that is local to a function, say
        return Any


def result_of(function: Any, state: Any, name: str) -> Any:
    """Return the type of an activity's result: its return annotation, or else the type of the state's field."""
    try:
        hint = get_type_hints(function).get("return", Ellipsis)
    except Exception:
        hint = function.__annotations__.get("return", Ellipsis)
        hint = Ellipsis if isinstance(hint, str) else hint
    if hint is Ellipsis:
        return hints_of(state).get(name, NO_RESULT)
    if get_origin(hint) is not None and getattr(get_origin(hint), "__name__", "") in ("Awaitable", "Coroutine"):
        hint = get_args(hint)[-1]
    return NO_RESULT if hint is None else hint


def field_of(what: str, state: Any, name: str, result: Any, *, needed: bool) -> bool:
    """Say whether the state has a field for a result. Raises DefinitionError: none, or one of another type."""
    if result is NO_RESULT:
        return False
    fields = hints_of(state)
    if name not in fields:
        if not needed:
            return False
        raise DefinitionError(
            f"{what} returns a {type_name(result)}, and {type_name(state)} has no field {name!r} for it: add "
            f"`{name}: {type_name(result)} | None = None`, or return None (-> None)"
        )
    declared = fields[name]
    if not _takes(declared, result):
        raise DefinitionError(
            f"{what} returns {type_name(result)}, and {type_name(state)}.{name} is declared as {type_name(declared)}: "
            "declare the same type in both"
        )
    return True


def _takes(declared: Any, result: Any) -> bool:
    if declared is Any or result is Any or declared == result:
        return True
    wanted, given = set(_members(declared)), set(_members(result))
    return Any in wanted or given <= wanted


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
