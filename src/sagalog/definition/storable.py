"""Which types can be stored: the whole type is walked when it is declared, down to the last field.

The codec itself finds unions whose members look the same in JSON. This walk adds what a codec takes without a word and
can never give back: containers of another class, `object`, keys of a dict that JSON turns into texts for good.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import types
import typing
import weakref
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import msgspec
from msgspec import inspect as described

from ..errors import DefinitionError

_CONTAINERS = {
    "defaultdict": "declare a dict, and use setdefault()",
    "Counter": "declare a dict[str, int]",
    "OrderedDict": "declare a dict, which keeps its order",
    "deque": "declare a list",
    "object": "declare the type it has, or Any for plain JSON (None, bool, int, float, str, list, dict)",
}
_KEYS = (
    described.AnyType,
    described.StrType,
    described.IntType,
    described.EnumType,
    described.LiteralType,
    described.DateTimeType,
    described.DateType,
    described.TimeType,
    described.TimeDeltaType,
    described.UUIDType,
    described.DecimalType,
    described.BytesType,
)
_TEXT_KEYS = tuple(kind for kind in _KEYS if kind not in (described.IntType, described.AnyType))
_PYDANTIC_TEXTS = frozenset({"str", "date", "datetime", "time", "timedelta", "UUID", "Decimal", "bytes", "Path"})
_storable: weakref.WeakSet[type] = weakref.WeakSet()  # known to be: each runner asks for the same ones
_PLAIN = "declare it with plain fields: a dataclass, a msgspec Struct, attrs or a pydantic model, or text and numbers"

_PRIVATE = (
    "is left out of the JSON, because its name begins with an underscore: name it without one, or give it init=False and "
    "compute it in __attrs_post_init__"
)


def check_storable(cls: Any, what: str, *, final: bool = True) -> None:
    """Raise DefinitionError if values of `cls` could not be read back. The error names class, field and remedy.

    `final=False`: a name that cannot be resolved yet is passed over, for classes may refer to later ones.
    """
    if isinstance(cls, type) and cls in _storable:
        return
    try:
        found = described.type_info(cls)
        msgspec.json.Decoder(cls)
    except NameError as error:
        if not final:
            return
        raise DefinitionError(
            f"{what} {type_name(cls)}: the name {error.name or '?'!r} in an annotation cannot be resolved where the "
            "class is defined, so its values could not be read "
            "back: import it at run time, and define the class in a module"
        ) from None
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DefinitionError(_union(cls, what, error)) from None
    for path, problem in _problems(found, type_name(cls), set()):
        raise DefinitionError(f"{what} {type_name(cls)}: {path} {problem}")
    if isinstance(cls, type):
        _storable.add(cls)


def type_name(cls: Any) -> str:
    """Return how `cls` is called in messages."""
    return cls.__name__ if isinstance(cls, type) and get_origin(cls) is None else str(cls).replace("typing.", "")


def _union(cls: Any, what: str, error: Exception) -> str:
    path = _deepest(cls, type_name(cls), set()) or type_name(cls)
    remedy = "use one type there"
    if "InitVar" in str(error):
        remedy = "make it a field, or remove it from the constructor"
    elif "dataclass" in str(error) or "Struct" in str(error) or "dict-like" in str(error):
        remedy = "make them msgspec Structs with tag=True, which stores which of them it is"
    elif "str-like" in str(error):
        remedy = "declare one of them; text and a date are both strings in JSON"
    elif "array-like" in str(error):
        remedy = "declare one of them; a list and a set are both an array in JSON"
    elif "custom type" in str(error):
        remedy = "declare one type, alone or with None"
    reason = str(error).split(" - type ")[0]
    return f"{what} {type_name(cls)}: {path} cannot be read back from JSON: {reason}. To fix it, {remedy}"


def _deepest(cls: Any, path: str, seen: set[Any]) -> str | None:
    """Return the path of the innermost part that the codec refuses by itself, for the error."""
    try:
        if cls in seen:
            return None
        seen.add(cls)
    except TypeError:  # unhashable: Annotated with a list
        return None
    with contextlib.suppress(Exception):
        msgspec.json.Decoder(cls)
        return None
    origin = get_origin(cls)
    plain = origin if isinstance(origin, type) else cls
    parts: list[tuple[str, Any]] = []
    if isinstance(plain, type) and hasattr(plain, "__annotations__"):
        try:
            parts = [(f"{path}.{name}", hint) for name, hint in typing.get_type_hints(plain).items()]
        except Exception:  # whatever an annotation may raise when it is evaluated
            return path
    elif origin not in (typing.Union, types.UnionType):
        parts = [(f"{path}[]", part) for part in get_args(cls)]
    else:
        parts = [(path, part) for part in get_args(cls)]
    for where, part in parts:
        deeper = _deepest(part, where, seen)
        if deeper is not None:
            return deeper
    return path


def _problems(node: Any, path: str, seen: set[int]) -> Iterator[tuple[str, str]]:
    """Yield what cannot be read back under `node`: where, and why with the remedy."""
    if id(node) in seen:
        return
    seen.add(id(node))
    match node:
        case described.CustomType(cls=cls):
            yield from _of_class(cls, path)
        case described.UnionType(types=members):
            for member in members:
                yield from _problems(member, path, seen)
        case described.DictType(key_type=key, value_type=value):
            problem = _key_problem(key)
            if problem:
                yield path, problem
            yield from _problems(value, f"{path}[]", seen)
        case described.TupleType(item_types=items):
            for index, item in enumerate(items):
                yield from _problems(item, f"{path}[{index}]", seen)
        case described.CollectionType(item_type=item):
            yield from _problems(item, f"{path}[]", seen)
        case _:
            made = getattr(node, "cls", None)
            for attribute in getattr(get_origin(made) or made, "__attrs_attrs__", ()):
                if attribute.init and attribute.name.startswith("_"):
                    yield f"{path}.{attribute.name}", _PRIVATE
            for field in getattr(node, "fields", ()):
                yield from _problems(field.type, f"{path}.{field.name}", seen)


def _key_problem(key: Any) -> str:
    members = key.types if isinstance(key, described.UnionType) else (key,)
    if not all(isinstance(member, _KEYS) for member in members):
        return "is a dict whose keys are not strings in JSON: use str, int, UUID or an Enum as key, or a list of pairs"
    if len(members) > 1 and any(not isinstance(member, _TEXT_KEYS[:1]) for member in members):
        return "is a dict with keys of several types, but in JSON every key is a string: use one type of key"
    return ""


def _of_class(cls: Any, path: str) -> Iterator[tuple[str, str]]:
    plain = get_origin(cls) or cls
    name = getattr(plain, "__name__", str(plain))
    if hasattr(plain, "model_fields") and callable(getattr(plain, "model_validate", None)):
        yield from _of_model(plain, path, set())
    elif name in _CONTAINERS and plain in (
        object,
        collections.defaultdict,
        collections.Counter,
        collections.OrderedDict,
        collections.deque,
    ):
        yield path, f"is a {name}, which JSON does not give back: {_CONTAINERS[name]}"
    elif isinstance(plain, type) and issubclass(plain, (dict, list, set, frozenset, tuple, str, int, float, bytes)):
        base = next(b for b in (dict, list, set, frozenset, tuple, str, int, float, bytes) if issubclass(plain, b))
        yield path, f"is a {name}, which comes back as a plain {base.__name__}: declare a {base.__name__}"
    else:
        yield path, f"is of type {name}, which has no JSON form: {_PLAIN}"


def _of_model(model: Any, path: str, seen: set[Any]) -> Iterator[tuple[str, str]]:
    if model in seen:
        return
    seen.add(model)
    by_name = model.model_config.get("populate_by_name") or model.model_config.get("validate_by_name")
    for name, field in model.model_fields.items():
        where = f"{path}.{name}"
        if field.exclude:
            yield where, "is excluded from the model's JSON: remove exclude=True"
        alias = field.validation_alias or field.alias
        if alias is not None and alias != name and not by_name:
            yield where, "is stored by its name and read by its alias: set populate_by_name=True in model_config"
        yield from _of_hint(field.annotation, where, seen)


def _of_hint(hint: Any, path: str, seen: set[Any]) -> Iterator[tuple[str, str]]:
    """Yield what a field of a pydantic model cannot give back."""
    if isinstance(hint, type) and get_origin(hint) is None:
        if hint is object:
            yield path, f"is an object: {_CONTAINERS['object']}"
        elif hasattr(hint, "model_fields"):
            yield from _of_model(hint, path, seen)
        return
    arguments = get_args(hint)
    if get_origin(hint) in (typing.Union, types.UnionType):
        texts = [one.__name__ for one in arguments if getattr(one, "__name__", "") in _PYDANTIC_TEXTS]
        if (len(texts) > 1 and not set(texts) <= {"str", "UUID"}) or set(texts) == {"str", "UUID"}:
            yield path, f"may be {' or '.join(texts)}, which are the same string in JSON: declare one of them"
        arrays = [one for one in arguments if (get_origin(one) or one) in (list, set, frozenset, tuple)]
        if len(arrays) > 1:
            yield path, "may be one of several containers, which are the same array in JSON: declare one of them"
    for part in arguments:
        if part is not type(None):
            yield from _of_hint(part, path, seen)


@functools.cache
def takes_anything(hint: Any) -> bool:
    """Say whether a part of `hint` is given back as plain JSON, because it names no type: Any, or a bare container."""
    if hint is Any or isinstance(hint, typing.TypeVar) or hint in (dict, list, tuple, set, frozenset):
        return True
    return any(takes_anything(part) for part in get_args(hint) if _hashable(part))


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True
