"""The result of a saga in stored form: of a message type of the saga, or a plain value.

A plain value is stored under the full name of its type (`builtins:str`, `datetime:date`), which no class of a user has.
What is packed is known to come back as it is, as any message.
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from ..errors import CodecError, DefinitionError
from . import codec
from .codec import Typed, TypeRegistry, full_name

_PLAIN = (str, int, float, bool, bytes, list, dict, tuple, UUID, Decimal, datetime, date, time, timedelta)
_NAMES: dict[type, str] = {kind: full_name(kind) for kind in _PLAIN}
_TYPES = {name: kind for kind, name in _NAMES.items()}


def pack_result(value: Any, registry: TypeRegistry) -> Typed:
    """Return a result in stored form. Raises DefinitionError for an undeclared type, CodecError as `pack` does."""
    name = _NAMES.get(type(value))
    if name is not None:
        return Typed(name, msgspec.Raw(codec.encode_readable(value)))
    try:
        return registry.pack(value)
    except DefinitionError as error:
        raise DefinitionError(f"Complete(result): {error}") from None


def unpack_result(stored: Typed | None, registry: TypeRegistry) -> Any:
    """Return a stored result; None where there is none. Raises CodecError, which names no values."""
    if stored is None:
        return None
    plain = _TYPES.get(stored.type)
    try:
        return registry.unpack(stored) if plain is None else codec.decode(stored.data, plain)
    except CodecError as error:
        raise CodecError(f"the result cannot be read: {error}") from None


def result_type(stored: Typed) -> str:
    """Return how the type of a stored result is shown: that of a plain value without its module."""
    return stored.type.rpartition(":")[2] if stored.type in _TYPES else stored.type
