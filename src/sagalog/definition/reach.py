"""Which message classes the code of a saga can get at: what its own modules name, and the helpers that they import.

A saga's commands are often built elsewhere: by its base class, an imported function, a table, a policy object. Those
classes are found by following names from module to module, in code only; nothing that is stored leads here.
"""

from __future__ import annotations

import dis
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, get_args

from ..errors import DefinitionError
from .annotations import is_message

_INSTALLED = ("site-packages", "dist-packages")


def declared(messages: Any, saga: str) -> tuple[Any, ...]:
    """Return the types that `messages` names: types, unions of types, modules (all that they define), or lists of these.

    Raises DefinitionError for anything else.
    """
    if isinstance(messages, types.ModuleType):
        return tuple(
            value
            for value in vars(messages).values()
            if isinstance(value, type) and is_message(value) and value.__module__ == messages.__name__
        )
    if isinstance(messages, type):
        return (messages,)
    if isinstance(messages, (tuple, list, set, frozenset)):
        return tuple(dict.fromkeys(known for part in messages for known in declared(part, saga)))
    members = get_args(messages)
    if members and not isinstance(messages, str):
        return tuple(dict.fromkeys(known for part in members for known in declared(part, saga)))
    raise DefinitionError(
        f"{saga}.messages takes message types, unions of them, and modules that define them, not {type(messages).__name__}"
    )


def reached(saga: type, instance: Any = None) -> Iterator[type]:
    """Yield every message class that can be reached from the code of `saga`, and from the parts of `instance`.

    The modules of the class, its bases, and the objects given to the instance are looked through, and from there those
    of all functions, classes and modules they name. Installed packages of others are looked into, not through.
    """
    start = [base.__module__ for base in saga.__mro__ if base is not object]
    if instance is not None:
        start += [_module_of(part) for part in _parts(vars(instance).values())]
    own = {name.partition(".")[0] for name in start}
    pending = list(dict.fromkeys(start))
    for method in vars(saga).values():
        pending += _imported_inside(method)
    seen: set[str] = set()
    found: set[type] = set()
    while pending:
        name = pending.pop()
        module = sys.modules.get(name)
        top = name.partition(".")[0]
        if name in seen or module is None or top == "sagalog" or top in sys.stdlib_module_names - {"__main__"}:
            continue
        seen.add(name)
        deeper = top in own or not any(part in (getattr(module, "__file__", "") or "") for part in _INSTALLED)
        for value in list(vars(module).values()):
            for cls in _classes(value):
                if cls not in found:
                    found.add(cls)
                    yield cls
            if deeper:
                pending.append(_module_of(value))


def _classes(value: Any) -> Iterator[type]:
    if isinstance(value, type):
        if is_message(value):
            yield value
        for inner in list(vars(value).values()):
            if isinstance(inner, type) and is_message(inner):
                yield inner
    elif isinstance(value, (dict, list, tuple, set, frozenset)) and len(value) <= 10_000:
        for part in [*value, *value.values()] if isinstance(value, dict) else value:
            if isinstance(part, type) and is_message(part):
                yield part


def _parts(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, dict):
            yield from value.values()
        elif isinstance(value, (list, tuple, set, frozenset)):
            yield from value
        else:
            yield value


def _module_of(value: Any) -> str:
    if isinstance(value, types.ModuleType):
        return value.__name__
    if isinstance(value, (type, types.FunctionType, types.MethodType)):
        name = getattr(value, "__module__", "")
    else:
        name = getattr(type(value), "__module__", "")
    return name if isinstance(name, str) else ""


def _imported_inside(method: Any) -> list[str]:
    """Return the modules that a method imports when it runs, imported now: what comes from them is to be known before."""
    code = getattr(getattr(method, "__func__", method), "__code__", None)
    if code is None:
        return []
    package = getattr(method, "__globals__", {}).get("__package__") or ""
    found = []
    for name, level in _imports(code):
        try:
            full = importlib.util.resolve_name("." * level + name, package) if level else name
            importlib.import_module(full)
        except Exception:  # noqa: S112  (then the handler cannot import it either, and says so)
            continue
        found.append(full)
    return found


@lru_cache(4096)  # a test, or a simulation, makes many runners of the same sagas
def _imports(code: types.CodeType) -> tuple[tuple[str, int], ...]:
    """Return the names, and levels, of the import statements within a function and those inside it."""
    found: list[tuple[str, int]] = []
    level = 0
    constants: list[Any] = []
    for step in dis.get_instructions(code):
        if step.opname == "IMPORT_NAME":
            level = next((c for c in reversed(constants[-2:]) if isinstance(c, int)), 0)
            found.append((step.argval, level))
        elif step.opname in ("LOAD_CONST", "LOAD_SMALL_INT"):
            constants.append(step.argval)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            found += _imports(inner)
    return tuple(found)
