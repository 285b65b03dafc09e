"""Whether a value is surely read back as it is, told by the exact types of its parts, without reading its JSON.

A check is made once for each type, from its annotations. It answers True only where nothing can be lost or turned into
something else; where it is not sure, or a type is not as plain as those below, the JSON is read and compared
(sameness.py). So it saves time, and decides nothing.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, Flag
from math import isfinite
from operator import attrgetter, itemgetter
from typing import Any, TypeAlias, get_args, get_origin
from uuid import UUID

import msgspec

Check: TypeAlias = Callable[[Any], bool]
_Kinds: TypeAlias = dict[type, Check | None]  # the exact types that may stand somewhere: None needs no more checks

_MAX_SHAPES = 1000  # combinations of types that are kept for each class; they come from what handlers store

_ATOMS: Mapping[Any, Check | None] = {
    str: None,  # what cannot be written as UTF-8 has failed before, when it was encoded
    int: None,
    bool: None,
    types.NoneType: None,
    UUID: None,
    date: None,
    float: isfinite,
    Decimal: Decimal.is_finite,
    datetime: lambda moment: moment.tzinfo is UTC or (moment.tzinfo is None and not moment.fold),
}
_MIXED = frozenset({str, int, bool, float})  # JSON tells these apart, in one union, by what they look like


def exact_check(kind: Any) -> Check | None:
    """Return a check for values that were encoded, and will be read as `kind`, or None if `kind` is not plain enough.

    The check returns True for a value that is surely read back as it is. It never raises.
    """
    try:
        kinds = _kinds_of(kind, ())
    except TypeError:  # an annotation that has no hash
        return None
    if not kinds:
        return None

    if isinstance(kind, type) and kind in kinds and kind not in _ATOMS and kinds[kind] is not None:
        return kinds[kind]  # of a class with fields: it looks at the type itself, which saves a call

    def check(value: Any) -> bool:
        one = kinds.get(type(value), _never)
        return one is None or one(value)

    return check


def _never(value: Any) -> bool:
    return False


def _kinds_of(hint: Any, within: tuple[Any, ...]) -> _Kinds:
    """Return which exact types of values are given back for `hint`; nothing where that is not sure."""
    if hint is None:
        hint = types.NoneType
    if hint in _ATOMS:
        return {hint: _ATOMS[hint]}
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _of_union(arguments, within)
    if origin is list:
        return _of_items(list, arguments[0], within)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return _of_items(tuple, arguments[0], within)
    if origin is dict and arguments[0] is str:
        return _of_dict(arguments[1], within)
    if origin is not None or not isinstance(hint, type) or hint in within:  # one that holds itself may be too deep
        return {}
    if issubclass(hint, Enum):
        return _of_enum(hint)
    return _of_record(hint, within)


def _of_union(members: tuple[Any, ...], within: tuple[Any, ...]) -> _Kinds:
    others = [member for member in members if member is not types.NoneType]
    if len(others) > 1 and not all(member in _MIXED for member in others):
        return {}
    found: _Kinds = {types.NoneType: None} if len(others) < len(members) else {}
    for member in others:
        kinds = _kinds_of(member, within)
        if not kinds:
            return {}
        found |= kinds
    return found


def _of_items(kind: type, hint: Any, within: tuple[Any, ...]) -> _Kinds:
    kinds = _kinds_of(hint, within)
    return {kind: _all_of(kinds)} if kinds else {}


def _of_dict(hint: Any, within: tuple[Any, ...]) -> _Kinds:
    kinds = _kinds_of(hint, within)
    if not kinds:
        return {}
    all_of = _all_of(kinds)
    return {dict: lambda value: set(map(type, value)) <= {str} and all_of(value.values())}


def _all_of(kinds: _Kinds) -> Check:
    easy = {kind for kind, check in kinds.items() if check is None}

    def check(items: Any) -> bool:
        if set(map(type, items)) <= easy:
            return True
        for item in items:
            one = kinds.get(type(item), _never)
            if one is not None and not one(item):
                return False
        return True

    return check


def _of_enum(kind: type[Enum]) -> _Kinds:
    if issubclass(kind, Flag):  # its members can be put together to more than it lists
        return {}
    try:
        decoder = msgspec.json.Decoder(kind)
        same = all(decoder.decode(msgspec.json.encode(member)) is member for member in kind)
    except (TypeError, msgspec.MsgspecError):
        return {}
    return {kind: None} if same else {}


def _of_record(kind: type, within: tuple[Any, ...]) -> _Kinds:
    names = _plain_fields(kind)
    if not names:
        return {}
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except Exception:  # whatever an annotation may raise when it is evaluated
        return {}
    fields = [_kinds_of(hints.get(name, Any), (*within, kind)) for name in names]
    if not all(fields):
        return {}
    count = len(names) if kind.__dictoffset__ else None
    if issubclass(kind, msgspec.Struct) and count is not None:
        return {}  # dict=True: its fields are beside its dict
    read: Callable[[Any], Any] = attrgetter(*names) if count is None else itemgetter(*names)
    if len(names) == 1:
        return {kind: _of_one_field(kind, fields[0], read, count)}
    shapes: dict[tuple[type, ...], tuple[tuple[int, Check], ...]] = {}

    def check(value: Any) -> bool:
        if type(value) is not kind:
            return False
        if count is not None:
            value = value.__dict__
            if len(value) != count:
                return False  # an attribute that is no field would be lost
        try:
            values = read(value)
        except (KeyError, AttributeError):  # a field that is not set
            return False
        shape = tuple(map(type, values))
        checks = shapes.get(shape)
        if checks is None:
            checks = _checks_of(fields, shape)
            if len(shapes) < _MAX_SHAPES:
                shapes[shape] = checks
        for index, one in checks:  # noqa: SIM110 (a generator takes twice the time)
            if not one(values[index]):
                return False
        return True

    return {kind: check}


def _of_one_field(kind: type, kinds: _Kinds, read: Callable[[Any], Any], count: int | None) -> Check:
    def check(value: Any) -> bool:
        if type(value) is not kind:
            return False
        if count is not None:
            value = value.__dict__
            if len(value) != count:
                return False
        try:
            only = read(value)
        except (KeyError, AttributeError):
            return False
        one = kinds.get(type(only), _never)
        return one is None or one(only)

    return check


def _checks_of(fields: list[_Kinds], shape: tuple[type, ...]) -> tuple[tuple[int, Check], ...]:
    """Return what is to be checked of values of these types, by their place; one that is never true if a type is not
    declared."""
    checks = [(index, fields[index].get(one, _never)) for index, one in enumerate(shape)]
    return tuple((index, check) for index, check in checks if check is not None)


def _plain_fields(kind: type) -> list[str]:
    """Return the fields of a dataclass or Struct that a decoder sets as they are, with no code of the class between."""
    if hasattr(kind, "__post_init__") or hasattr(kind, "__getattr__") or _overrides(kind, "__getattribute__"):
        return []
    if issubclass(kind, msgspec.Struct):
        names = list(kind.__struct_fields__)
        if kind.__setattr__ is not msgspec.Struct.__setattr__ or kind.__init__ is not msgspec.Struct.__init__:
            return []
    elif dataclasses.is_dataclass(kind):
        frozen = kind.__dataclass_params__.frozen  # type: ignore[attr-defined]  # it brings a __setattr__ of its own
        if _overrides(kind, "__new__") or (not frozen and _overrides(kind, "__setattr__")):
            return []
        fields = vars(kind).get("__dataclass_fields__")  # a subclass that is no dataclass itself has none
        listed = dataclasses.fields(kind)
        if fields is None or len(fields) != len(listed) or not all(field.init for field in listed):
            return []  # an InitVar, a ClassVar, a field that the decoder passes over
        names = [field.name for field in listed]
    else:
        return []
    for name in names:
        attribute = inspect.getattr_static(kind, name, None)
        if name.startswith("_") or (
            hasattr(type(attribute), "__get__") and not isinstance(attribute, types.MemberDescriptorType)
        ):
            return []
    return names


def _overrides(kind: type, name: str) -> bool:
    return getattr(kind, name) is not getattr(object, name)
