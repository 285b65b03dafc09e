"""What a saga's own code says about its types: the annotations of a handler, and the message classes it names."""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Any, get_origin, get_type_hints

from ..errors import DefinitionError


def check_annotations(saga: str, function: Any, state: Any, event: type | None) -> None:
    """Raise DefinitionError if a handler is annotated with another state or event type than it will get.

    Annotations that cannot be resolved yet (local types, names imported for type checkers only) are passed over.
    """
    code = getattr(function, "__code__", None)
    if code is None:
        return
    names = code.co_varnames[1 : code.co_argcount]
    if len(names) != 2:
        raise DefinitionError(
            f"{saga}.{function.__name__}() must take (self, state, event), and takes {code.co_argcount} arguments"
        )
    try:
        hints = get_type_hints(function)
    except Exception:  # whatever an annotation may raise when it is evaluated
        return
    for name, actual, what in ((names[0], state, "state"), (names[1], event, "event")):
        declared = hints.get(name, Any)
        plain = get_origin(declared) or declared
        if not isinstance(plain, type) or declared is Any or actual is None or declared == actual:
            continue
        real = get_origin(actual) or actual
        if isinstance(real, type) and plain is not types.UnionType and not issubclass(real, plain):
            raise DefinitionError(
                f"{saga}.{function.__name__}() is annotated to take a {plain.__name__} as {what}, and gets a "
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
            if isinstance(candidate, type) and _is_message(candidate):
                yield candidate


def _is_message(cls: type) -> bool:
    if (cls.__module__ or "").partition(".")[0] == "sagalog":
        return False
    return any(
        hasattr(cls, mark) for mark in ("__dataclass_fields__", "__struct_fields__", "__attrs_attrs__", "model_fields")
    )
