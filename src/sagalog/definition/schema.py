"""Schema versions: under which name and version a type is stored, and how an old version becomes the one of today.

Upcasters are registered against the class, from code. What is stored only says a version, which is looked up there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from ..errors import CodecError, DefinitionError

T = TypeVar("T")
F = TypeVar("F", bound=Callable[[Any], Any])


class Schema(msgspec.Struct, frozen=True):
    """What `schema` and `upcast` say of one class. `upcasters`: by the version that each takes."""

    name: str
    version: int
    upcasters: dict[int, Callable[[Any], Any]] = {}


def schema(*, name: str | None = None, version: int = 1) -> Callable[[type[T]], type[T]]:
    """Give a message or state type a stored `name` (default: the class name) and a schema `version` (default 1).

    Raise the version with every change of the type: code that knows a lower one then leaves what it reads alone.
    """
    _check_version("@schema(version=...)", version)
    if version < 1:
        raise DefinitionError(f"a schema version is counted from 1, so it cannot be {version}")
    if name is not None:
        _check_name(name)

    def mark(cls: type[T]) -> type[T]:
        _check_class("@schema", cls)
        cls.__sagalog_schema__ = Schema(name or cls.__name__, version)  # type: ignore[attr-defined]
        return cls

    return mark


def upcast(cls: type, *, from_version: int) -> Callable[[F], F]:
    """Use the decorated function to turn stored JSON of `cls` from `from_version` into the next version.

    It takes the decoded JSON (usually a dict, which it may change) and returns the new JSON: a plain, pure function.
    From the lowest `from_version` on there has to be one for each version below that of `@schema(version=...)`. They are
    read when a saga is run, and best written beneath their type.

    Raises DefinitionError for a version that is not below the type's own, and for a second one from the same version.
    """
    _check_class("@upcast", cls)
    _check_version(f"@upcast({cls.__name__}, from_version=...)", from_version)
    known = schema_of(cls)
    if not 1 <= from_version < known.version:
        raise DefinitionError(
            f"@upcast({cls.__name__}, from_version={from_version}): {cls.__name__} has schema version {known.version}, "
            f"so upcasters start from 1 to {known.version - 1}"
            if known.version > 1
            else f"@upcast({cls.__name__}, ...): {cls.__name__} has schema version 1, and nothing is older; put "
            "@schema(version=2) on the class first"
        )
    if from_version in known.upcasters:
        raise DefinitionError(f"{cls.__name__} has two upcasters from version {from_version}; keep one")

    def register(function: F) -> F:
        if not callable(function) or inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            raise DefinitionError(
                f"@upcast({cls.__name__}, from_version={from_version}) decorates a plain function: it takes the old "
                "document and returns the new one"
            )
        known.upcasters[from_version] = function
        return function

    return register


def _check_class(what: str, cls: Any) -> None:
    if not isinstance(cls, type) or cls.__module__ == "builtins":
        raise DefinitionError(f"{what} is for your own message and state classes, not for {_shown(cls)}")


def _check_version(what: str, version: Any) -> None:
    if type(version) is not int:
        raise DefinitionError(f"{what} takes a whole number, not {_shown(version)}")


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not name:
        raise DefinitionError(f"@schema(name=...) takes a string that is not empty, not {_shown(name)}")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DefinitionError("@schema(name=...) contains a lone surrogate, which is not valid Unicode") from None


def _shown(value: Any) -> str:
    if isinstance(value, type):
        return value.__name__
    return "an empty one" if value == "" else "None" if value is None else type(value).__name__


def schema_of(cls: type) -> Schema:
    """Return under which name and version `cls` is stored. Subclasses do not inherit it."""
    mark: Schema | None = cls.__dict__.get("__sagalog_schema__")
    return mark or Schema(cls.__name__, 1)


def check_upcasters(cls: type) -> None:
    """Raise DefinitionError if a version between the first upcaster of `cls` and its own has none."""
    known = schema_of(cls)
    for version in range(min(known.upcasters, default=known.version), known.version):
        if version not in known.upcasters:
            raise DefinitionError(
                f"{cls.__name__} has upcasters from version {min(known.upcasters)}, but none from version {version}: "
                f"write @upcast({cls.__name__}, from_version={version})"
            )


def to_current(data: bytes | msgspec.Raw, cls: type, version: int) -> bytes:
    """Return JSON that was stored as another `version` of `cls` as JSON of today's.

    Raises CodecError where the version is newer, or no upcaster leads here, or one fails. It names types and versions,
    no values.
    """
    known = schema_of(cls)
    what = f"{known.name} is stored with schema version {version}"
    if version > known.version:
        raise CodecError(f"{what}; this code knows version {known.version}")
    if version not in known.upcasters:
        raise CodecError(
            f"{what}; this code knows version {known.version} and has no @upcast({cls.__name__}, "
            f"from_version={version})"
        )
    try:
        document = msgspec.json.decode(data)
    except Exception:  # damaged, nested too deep, not UTF-8
        raise CodecError(f"{what}, and is not JSON, so it cannot be upcast") from None
    for step in range(version, known.version):
        try:
            document = known.upcasters[step](document)
        except Exception as error:
            raise CodecError(
                f"{what}: the upcaster from version {step} to {step + 1} raised {type(error).__name__}"
            ) from error
        if document is None:
            raise CodecError(f"{what}: the upcaster from version {step} to {step + 1} returned no document")
    try:
        return msgspec.json.encode(document)
    except Exception as error:
        raise CodecError(f"{what}: its upcasters return something that is not JSON ({type(error).__name__})") from error
