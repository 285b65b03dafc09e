"""Typed values to bytes and back: JSON with a type name and a schema version, through msgspec.

A name in stored data is only ever looked up in a `TypeRegistry` that was filled from code: nothing is imported by
name, nothing is unpickled.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from ..errors import CodecError, DefinitionError
from .schema import check_upcasters, schema_of, to_current

T = TypeVar("T")


class Typed(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, frozen=True, gc=False):
    """A stored value: the name of its type, its JSON, and its schema version (1 is not written)."""

    type: str
    data: msgspec.Raw
    version: int = 1


def _encode_foreign(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)  # pydantic
    if callable(dump):
        return dump(mode="json")
    raise NotImplementedError(f"values of type {type(value).__name__} have no JSON form")


def _decode_foreign(expected: type, value: Any) -> Any:
    validate = getattr(expected, "model_validate", None)  # pydantic
    if callable(validate):
        return validate(value)
    raise NotImplementedError(f"values of type {expected.__name__} have no JSON form")


_encoder = msgspec.json.Encoder(enc_hook=_encode_foreign)
_decoders: dict[type, msgspec.json.Decoder[Any]] = {}


def encode(value: Any) -> bytes:
    """Return the JSON of `value`. Raises CodecError if its type has none; the message holds no field values."""
    try:
        return _encoder.encode(value)
    except Exception as error:
        raise CodecError(
            f"a {type(value).__name__} cannot be stored as JSON ({type(error).__name__}): use dataclasses, msgspec "
            "structs, attrs or pydantic models of plain fields"
        ) from error


def decode(data: bytes | msgspec.Raw, cls: type[T]) -> T:
    """Return the value of type `cls` that `data` holds. Raises CodecError; the message holds no field values."""
    decoder = _decoders.get(cls)
    try:
        if decoder is None:
            decoder = _decoders[cls] = msgspec.json.Decoder(cls, dec_hook=_decode_foreign)
        return decoder.decode(data)  # type: ignore[no-any-return]
    except Exception as error:
        raise CodecError(f"stored JSON is not a valid {cls.__name__}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    # msgspec names the field and the types, except that an enum or literal error quotes the value: cut that off.
    # What a type's own __post_init__ raises has a cause, and a message that may hold anything.
    if isinstance(error, msgspec.DecodeError) and error.__cause__ is None:
        return str(error).replace("Invalid enum value", "invalid enum value").split("'")[0].strip()
    return type(error.__cause__ or error).__name__


def decode_version(data: bytes | msgspec.Raw, cls: type[T], version: int) -> T:
    """Return the value of type `cls` that was stored with another schema version. Raises CodecError, without values."""
    current = to_current(data, cls, version)
    try:
        return decode(current, cls)
    except CodecError as error:
        known = schema_of(cls)
        raise CodecError(f"{known.name}, upcast from version {version} to {known.version}: {error}") from None


class TypeRegistry:
    """The message types that may be rebuilt from stored names. Two types under one name are refused."""

    def __init__(self) -> None:
        self._types: dict[str, type] = {}
        self._known: dict[type, tuple[str, int]] = {}

    def add(self, cls: type) -> None:
        """Make `cls` known under its stored name.

        Raises DefinitionError if another type has that name, or if the upcasters of `cls` leave out a version.
        """
        known = schema_of(cls)
        check_upcasters(cls)
        name = known.name
        other = self._types.setdefault(name, cls)
        if other is not cls:
            raise DefinitionError(
                f"two message types are stored as {name!r}: {other.__module__}.{other.__qualname__} and "
                f"{cls.__module__}.{cls.__qualname__}; give one of them another name with @schema(name=...)"
            )
        self._known[cls] = (name, known.version)

    def __contains__(self, cls: type) -> bool:
        return cls in self._known

    def names(self) -> list[str]:
        """Return the known names, sorted."""
        return sorted(self._types)

    def get(self, name: str) -> type | None:
        """Return the type stored as `name`, or None."""
        return self._types.get(name)

    def is_newer(self, stored: Typed) -> bool:
        """Say whether newer code stored it: the type is known here, its version is not yet."""
        cls = self._types.get(stored.type)
        return cls is not None and stored.version > self._known[cls][1]

    def pack(self, value: Any) -> Typed:
        """Return `value` in stored form. Raises DefinitionError if its type could not be read back."""
        known = self._known.get(type(value))
        if known is None:
            raise DefinitionError(
                f"{type(value).__name__} is not declared, so it could not be read back after a restart: add it to "
                "the saga's `messages = (...)`"
            )
        return Typed(known[0], msgspec.Raw(encode(value)), known[1])

    def unpack(self, stored: Typed) -> Any:
        """Return the value, upcast if it was stored with an older version.

        Raises CodecError for an unknown type, a newer version, one that no upcaster takes, or damaged data.
        """
        cls = self._types.get(stored.type)
        if cls is None:
            raise CodecError(f"the message type {stored.type!r} is unknown to this version of the code")
        if stored.version != self._known[cls][1]:
            return decode_version(stored.data, cls, stored.version)
        return decode(stored.data, cls)
