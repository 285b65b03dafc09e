"""Typed values to bytes and back: JSON with a type name and a schema version, through msgspec.

What is packed is known to come back as it is: by the types of its parts, or else it is read back at once, and compared.
What could not be read later is refused before it is stored.
A name in stored data is only ever looked up in a `TypeRegistry` that was filled from code: nothing is imported by
name, nothing is unpickled.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, Final, TypeVar

import msgspec

from ..errors import CodecError, DefinitionError, InvalidEventError, PayloadTooLargeError
from .exact import Check, exact_check
from .sameness import difference
from .schema import check_upcasters, schema_of, to_current
from .storable import check_storable, takes_anything, type_name

T = TypeVar("T")

NOT_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bytes that are no JSON, of another type, or nested too deep."""


class Typed(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, frozen=True, gc=False):
    """A stored value: the name of its type, its JSON, and its schema version (1 is not written)."""

    type: str
    data: msgspec.Raw
    version: int = 1


def _encode_foreign(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)  # pydantic
    if callable(dump):
        # A warning would show the value. What is computed from the fields is no field, and may be refused when it is read.
        return dump(mode="json", round_trip=True, warnings=False)
    raise NotImplementedError(f"values of type {type(value).__name__} have no JSON form")


def _decode_foreign(expected: type, value: Any) -> Any:
    validate = getattr(expected, "model_validate", None)  # pydantic
    if callable(validate):
        try:
            return validate(value)
        except (
            ValueError
        ):  # of pydantic: from JSON alone, a strict model takes a text for a date, or a list for a tuple
            return expected.model_validate_json(_encoder.encode(value))  # type: ignore[attr-defined]
    raise NotImplementedError(f"values of type {expected.__name__} have no JSON form")


_encoder = msgspec.json.Encoder(enc_hook=_encode_foreign)
_decoders: dict[type, msgspec.json.Decoder[Any]] = {}
_plain: dict[Any, bool] = {}  # whether a type names none for its values
_checks: dict[Any, Check | None] = {}  # which tell most values that surely come back


def encode(value: Any) -> bytes:
    """Return the JSON of `value`. Raises CodecError if its type has none; the message holds no field values."""
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:
        raise CodecError(f"{_a(value)} cannot be stored: {_not_unicode(value)}") from None  # the cause quotes the text
    except Exception as error:
        remedy = "use dataclasses, msgspec structs, attrs or pydantic models of plain fields"
        if isinstance(error, ValueError) and "digits" in str(error):  # of Python itself, which quotes no number
            remedy = (
                f"it holds an int of more than {sys.get_int_max_str_digits():,} digits, which Python does not write"
            )
        raise CodecError(f"{_a(value)} cannot be stored as JSON ({type(error).__name__}): {remedy}") from error


def _not_unicode(value: Any) -> str:
    """Say where a text is not valid Unicode, and what helps, without the text."""
    wrong = []
    for name in [*getattr(value, "__struct_fields__", ()), *getattr(value, "__dataclass_fields__", ())]:
        try:
            _encoder.encode(getattr(value, name, None))
        except UnicodeEncodeError:
            wrong.append(name)
        except Exception:  # noqa: S112  # it says nothing about this field
            continue
    where = f"in {' and '.join(wrong)}, " if wrong else ""
    return (
        f'{where}a string contains a lone surrogate, which is not valid Unicode; text.encode("utf-8", "replace").decode() '
        "makes a string that can be stored"
    )


def decode(data: bytes | msgspec.Raw, cls: type[T]) -> T:
    """Return the value of type `cls` that `data` holds. Raises CodecError; the message holds no field values."""
    try:
        decoder = _decoders.get(cls)
        if decoder is None:
            decoder = _decoders[cls] = msgspec.json.Decoder(cls, dec_hook=_decode_foreign)
        return decoder.decode(data)  # type: ignore[no-any-return]
    except Exception as error:
        raise CodecError(f"stored JSON is not a valid {cls.__name__}: {_reason(error)}") from None


def decode_given(data: bytes, cls: type[T]) -> T:
    """Return the message of type `cls` that somebody wrote as JSON. Raises CodecError, in words for who wrote it."""
    try:
        msgspec.json.decode(data)
    except NOT_JSON:
        raise CodecError("it is not JSON in UTF-8") from None
    try:
        return decode(data, cls)
    except CodecError as error:
        raise CodecError(str(error).replace("stored JSON is not", "that JSON is not")) from None


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


def round_trip(value: Any, cls: Any = None) -> tuple[bytes, Any]:
    """Return the JSON of `value`, and what that gives when it is read as a `cls` (default: its own type): an equal copy.

    Raises CodecError, which names type and field and holds no values, if it cannot be read or would come back changed:
    a value of another type than its field declares, a float that is not finite, a subclass where its base is declared,
    an attribute that is no field.
    """
    kind = type(value) if cls is None else cls
    data = encode(value)
    decoder = _decoders.get(kind)
    try:
        if decoder is None:
            decoder = _decoders[kind] = msgspec.json.Decoder(kind, dec_hook=_decode_foreign)
        back = decoder.decode(data)
    except Exception as error:
        raise CodecError(f"{_a(value)} cannot be stored, because it could not be read back: {_reason(error)}") from None
    try:
        changed = difference(value, back, plain=_plain[kind] if kind in _plain else _note_plain(kind))
    except RecursionError:
        changed = " is nested too deep"
    if changed is not None:
        raise CodecError(
            f"{_a(value)} cannot be stored, because it would be different when read back: {type_name(type(value))}{changed}"
        )
    return data, back


def encode_readable(value: Any, cls: Any = None) -> bytes:
    """Return the JSON of `value`, which is known to give it back when it is read as a `cls` (default: its own type).

    Raises CodecError as `round_trip` does. Where the types of all parts say that it comes back, it is not read.
    """
    kind = type(value) if cls is None else cls
    try:
        check = _checks[kind]
    except KeyError:
        check = _checks[kind] = exact_check(kind)
    if check is not None and check(value):
        try:
            return _encoder.encode(value)
        except Exception:
            return encode(value)  # which says what is wrong
    return round_trip(value, kind)[0]


def own_event(event: T, limit_bytes: int, message_id: str = "") -> tuple[bytes, T]:
    """Return the JSON of an event from outside, and a copy, so that nobody sees what a handler does to it.

    Raises as `check_event`.
    """
    data = check_event(event, limit_bytes, message_id)
    return data, decode(data, type(event))


def check_event(event: Any, limit_bytes: int, message_id: str = "") -> bytes:
    """Return the JSON of an event from outside, which is known to be readable.

    Raises InvalidEventError for one that could not be read back, PayloadTooLargeError for one of over `limit_bytes`.
    """
    try:
        data = encode_readable(event)
    except CodecError as error:
        raise InvalidEventError(f"{error}; nothing was stored") from error
    if len(data) > limit_bytes:
        what = f"{type(event).__name__}, message {message_id!r}" if message_id else type(event).__name__
        raise PayloadTooLargeError(what, len(data), limit_bytes)
    return data


def _note_plain(kind: Any) -> bool:
    return _plain.setdefault(kind, takes_anything(kind))


def _a(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[:1] in 'AEIOUaeiou' else 'a'} {name}"


class TypeRegistry:
    """The message types that may be rebuilt from stored names. Two declared types under one name are refused.

    Declared types are stored under their own names. Those that the saga's code only `reached` are stored as
    `module:Class`, so that they never stand in each other's way; see docs/design/0013-declared-types.md.
    """

    def __init__(self) -> None:
        self._types: dict[str, type] = {}
        self._known: dict[type, tuple[str, int]] = {}
        self._reached: dict[str, type] = {}
        self._ambiguous: set[str] = set()

    def add(self, cls: type) -> None:
        """Make `cls` known under its stored name.

        Raises DefinitionError if another type has that name, if the upcasters of `cls` leave out a version, or if its
        values could not be read back.
        """
        check_storable(cls, "the message type")
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

    def add_named(self, found: Iterable[type]) -> None:
        """Make what handlers name known under its stored name, as far as that is nobody else's, and it can be stored.

        A handler also names classes that are no messages, so nothing is refused here.
        """
        by_name: dict[str, set[type]] = {}
        for cls in found:
            if cls not in self._known:
                by_name.setdefault(schema_of(cls).name, set()).add(cls)
        for name, classes in by_name.items():
            if name not in self._types and len(classes) == 1:
                try:
                    self.add(classes.pop())
                except DefinitionError:
                    continue
            else:
                self.add_reached(classes)

    def add_reached(self, found: Iterable[type]) -> None:
        """Note the message classes that the saga's code reaches: each is known from now on as `module:Class`."""
        for cls in found:
            self._reached[full_name(cls)] = cls
            name = schema_of(cls).name
            if name in self._types or name in self._ambiguous:
                continue
            other = self._reached.setdefault(name, cls)
            if other is not cls:
                del self._reached[name]
                self._ambiguous.add(name)

    def __contains__(self, cls: type) -> bool:
        return cls in self._known

    def names(self) -> list[str]:
        """Return the names of declared types, sorted."""
        return sorted(self._types)

    def get(self, name: str) -> type | None:
        """Return the type stored as `name`, or None."""
        return self._types.get(name) or self._reached.get(name)

    def is_newer(self, stored: Typed) -> bool:
        """Say whether newer code stored it: the type is known here, its version is not yet."""
        cls = self.get(stored.type)
        return cls is not None and stored.version > schema_of(cls).version

    def is_current(self, stored: Typed) -> bool:
        """Say whether code of this version stored it, or of an earlier one: then it should be readable here."""
        cls = self.get(stored.type)
        return cls is not None and stored.version <= schema_of(cls).version

    def pack(self, value: Any) -> Typed:
        """Return `value` in stored form, which is known to be readable.

        Raises DefinitionError if its type is not declared, CodecError if the value would not come back as it is.
        """
        known = self._known.get(type(value)) or self._learn(type(value), value)
        return Typed(known[0], msgspec.Raw(encode_readable(value)), known[1])

    def _learn(self, cls: type, value: Any) -> tuple[str, int]:
        if isinstance(value, type):
            raise DefinitionError(f"{value.__name__} is a class: pass an instance, {value.__name__}(...)")
        name = full_name(cls)
        if self._reached.get(name) is not cls:
            raise DefinitionError(
                f"{cls.__name__} is not declared, so it could not be read back after a restart: add it, or its "
                "module, to the saga's `messages = (...)`"
            )
        check_storable(cls, "the message type")
        check_upcasters(cls)
        known = self._known[cls] = (name, schema_of(cls).version)
        return known

    def unpack(self, stored: Typed) -> Any:
        """Return the value, upcast if it was stored with an older version.

        Raises CodecError for an unknown type, a newer version, one that no upcaster takes, or damaged data.
        """
        cls = self.get(stored.type)
        if cls is None:
            if stored.type in self._ambiguous:
                raise CodecError(
                    f"several message types are called {stored.type!r}: add the stored one to the saga's "
                    "`messages = (...)`"
                )
            raise CodecError(f"the message type {stored.type!r} is unknown to this version of the code")
        known = self._known.get(cls)
        if stored.version != (known[1] if known is not None else schema_of(cls).version):
            return decode_version(stored.data, cls, stored.version)
        return decode(stored.data, cls)


def full_name(cls: type) -> str:
    """Return `module:Class`, under which a type is stored that is reached and not declared."""
    return f"{cls.__module__}:{cls.__qualname__}"
