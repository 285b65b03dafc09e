"""Whether what was read back is what was stored, value by value: nothing lost, nothing turned into something else.

Equality alone does not tell: it passes over attributes that are no fields, fields left out of `==`, and classes that
compare themselves in their own way.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import msgspec

from .storable import takes_anything

_ATOMS = frozenset({str, int, float, bool, type(None), bytes, bytearray, UUID, date, timedelta})


class _Record(msgspec.Struct, frozen=True):
    """`fields`: names, and whether each one names no type, so that only plain JSON may stand there."""

    fields: tuple[tuple[str, bool], ...]
    has_dict: bool
    derived: frozenset[str]  # what a cached property keeps in the object: no field, and made again


_RECORDS: dict[type, _Record | None] = {}
_UNSEEN = _Record((), False, frozenset())


def difference(value: Any, back: Any, *, plain: bool) -> str | None:
    """Return where and how `back` differs from `value`, or None. No values are named.

    `plain`: no type is declared here, so only what JSON itself knows comes back: a tuple would come back as a list.
    """
    kind = type(value)
    if kind in _ATOMS:
        if kind is type(back) and value == back:
            return None
        return _of_atoms(value, back, plain=plain)
    record = _RECORDS.get(kind, _UNSEEN)
    if record is _UNSEEN:
        record = _RECORDS[kind] = _record_of(kind)
    if record is not None:
        if kind is not type(back):
            return _comes_back(value, back)
        return _of_records(record, value, back)
    if isinstance(value, dict):
        return _of_dicts(value, back, plain=plain)
    if isinstance(value, (list, tuple)):
        return _of_sequences(value, back, plain=plain)
    if isinstance(value, (set, frozenset)):
        if isinstance(back, (set, frozenset)) and value == back and _same_kinds(value, back):
            return None
        return _comes_back(value, back)
    return _of_atoms(value, back, plain=plain)


def _record_of(kind: type) -> _Record | None:
    names: list[str]
    fields = getattr(kind, "model_fields", None)
    if hasattr(kind, "__dataclass_fields__"):
        names = [field.name for field in dataclasses.fields(kind)]
    elif hasattr(kind, "__struct_fields__"):
        names = list(kind.__struct_fields__)
    elif hasattr(kind, "__attrs_attrs__"):
        names = [attribute.name for attribute in kind.__attrs_attrs__]
    elif isinstance(fields, dict):
        names = [*fields, *getattr(kind, "__private_attributes__", ())]
    elif issubclass(kind, tuple) and hasattr(kind, "_fields"):
        names = list(kind._fields)
    else:
        return None
    try:
        hints = typing.get_type_hints(kind)
    except Exception:  # whatever an annotation may raise when it is evaluated
        hints = {}
    derived = {
        name
        for base in kind.__mro__
        for name, member in vars(base).items()
        if isinstance(member, functools.cached_property)
    }
    has_dict = bool(kind.__dictoffset__) and not issubclass(kind, (tuple, Exception))
    return _Record(tuple((n, takes_anything(hints.get(n, Any))) for n in names), has_dict, frozenset(derived))


def _of_records(record: _Record, value: Any, back: Any) -> str | None:
    for name, plain in record.fields:
        try:
            one, other = getattr(value, name), getattr(back, name)
        except AttributeError:
            if hasattr(value, name) is hasattr(back, name):
                continue
            return f".{name} is not set on both sides"
        if one is other:
            continue
        kind = type(one)
        if kind in _ATOMS and kind is type(other) and one == other:  # mostly; it saves a call
            continue
        found = difference(one, other, plain=plain)
        if found is not None:
            return f".{name}{found}"
    extra = getattr(value, "__pydantic_extra__", None)
    if extra:  # of a model with extra="allow", which declares no types for them
        found = difference(extra, back.__pydantic_extra__, plain=True)
        if found is not None:
            return found
    if record.has_dict and len(value.__dict__) > len(record.fields):
        known = {name for name, _ in record.fields} | record.derived
        for name in value.__dict__:
            if name not in known and _is_lost(name, value, back):
                return f".{name} is not a field, so it would be lost: declare it"
    return None


def _is_lost(name: str, value: Any, back: Any) -> bool:
    if name == "__orig_class__":  # typing's own note of how it was made: `Box[int](3)` is what `Box(3)` is
        return False
    # What __post_init__ makes of the fields is there on both sides. A lock or the like has no equality to ask for.
    one, other = value.__dict__[name], back.__dict__.get(name, _is_lost)
    return type(one) is not type(other) or (_has_equality(one) and bool(one != other))


def _has_equality(value: Any) -> bool:
    return getattr(type(value), "__eq__", None) is not getattr(object, "__eq__", None)


def _of_dicts(value: dict[Any, Any], back: Any, *, plain: bool) -> str | None:
    if not isinstance(back, dict) or (type(value) is not dict and (plain or type(value) is not type(back))):
        return _comes_back(value, back)
    if len(value) != len(back):
        return " comes back with other keys: a key is not a field of its type, or two keys are the same string in JSON"
    for (key, one), (other_key, other) in zip(value.items(), back.items(), strict=True):
        if type(key) is not type(other_key) or key != other_key:
            found = difference(key, other_key, plain=plain)
            if found is not None:
                return f" has a key that{found}" if found.startswith(" ") else " has a key that comes back changed"
        if one is other:
            continue
        found = difference(one, other, plain=plain)
        if found is not None:
            return f"[]{found}"
    return None


def _of_sequences(value: Any, back: Any, *, plain: bool) -> str | None:
    # Where a type is declared, a tuple in a list or the like comes back as declared, with the same items.
    if not isinstance(back, (list, tuple)) or (type(value) is not type(back) and (plain or type(value) not in _PLAIN)):
        return _comes_back(value, back)
    if len(value) != len(back):
        return " comes back with another length"
    for one, other in zip(value, back, strict=True):
        if one is other:
            continue
        found = difference(one, other, plain=plain)
        if found is not None:
            return f"[]{found}"
    return None


_PLAIN = (list, tuple)


def _same_kinds(value: Any, back: Any) -> bool:
    kinds = {item: item for item in back}
    return all(difference(item, kinds[item], plain=False) is None for item in value)


def _of_atoms(value: Any, back: Any, *, plain: bool) -> str | None:
    if isinstance(value, datetime) and isinstance(back, datetime):
        # Two moments of different zones are never equal in Python while clocks are set back, and one of the year 1 or 9999
        # may lie outside of the calendar in UTC: look at what lies between them.
        aware = value.tzinfo is not None
        if aware is not (back.tzinfo is not None):
            return _comes_back(value, back)
        same = not (value - back) if aware else value == back and value.fold == back.fold
        return None if same else " comes back changed"
    # Equality passes over the fold, and over a zone whose offset depends on the day: a time has none there.
    if type(value) is type(back) is time and (value.fold, value.tzinfo is None) != (back.fold, back.tzinfo is None):
        return " comes back changed"
    if isinstance(value, Decimal) and value.is_snan():  # to compare it raises
        return _comes_back(value, back)
    if type(value) is type(back):
        if value == back or (isinstance(value, (memoryview, msgspec.Raw)) and bytes(value) == bytes(back)):
            return None
        return " comes back changed"
    if not plain:
        # A text of a subclass comes back as a text, a whole number in a float field as a float: they stay equal.
        if isinstance(value, type(back)) and not isinstance(value, bool) and value == back:
            return None
        if type(value) is int and type(back) is float and value == back:
            return None
        if isinstance(value, (bytes, bytearray, memoryview)) and isinstance(back, (bytes, bytearray, memoryview)):
            return None if bytes(value) == bytes(back) else " comes back changed"
    return _comes_back(value, back)


def _comes_back(value: Any, back: Any) -> str:
    kind, other = type(value).__name__, type(back).__name__
    if kind == other and not isinstance(value, Enum):
        return f" comes back as another {other}"
    return f" holds a {kind} and comes back as a {other}"
