"""Fields of a state by which instances can be found: declared with the class, checked there, and turned into texts.

A field is a text, a whole number, a bool, an Enum of texts or numbers, a date, a datetime or a UUID, or may be None. Its
text is what it is stored as, so that it can be looked for without the saga's code; a long one is stood for by its hash.
`phase` is the phase of a saga that has phases, unless its state has a field of that name.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from datetime import UTC, date, datetime
from enum import Enum
from typing import Any, get_args, get_origin
from uuid import UUID

from ..errors import CodecError, DefinitionError

Index = Mapping[str, str | None]  # names of fields, and their texts
PHASE = "phase"
MAX_FIELDS = 16
_LONGEST = 200  # characters of a text that stands for itself
_HASHED = "sha256:"
_KINDS = (str, int, bool, date, datetime, UUID)
_ALLOWED = "a str, int, bool, Enum (of strings or numbers), date, datetime or UUID, or one of these or None"


class IndexTable:
    """The fields that one saga is found by."""

    __slots__ = ("_kinds", "_phases", "names")

    def __init__(self, names: tuple[str, ...], kinds: Mapping[str, type], phases: type[Enum] | None) -> None:
        self.names: tuple[str, ...] = names
        self._kinds = kinds
        self._phases = phases if PHASE in names and PHASE not in kinds else None

    @property
    def by_phase(self) -> bool:
        """The phase of the instance is one of them."""
        return self._phases is not None

    def texts(self, state: Any, phase: str) -> dict[str, str | None]:
        """Return the text of each field; None where the field is None. Raises CodecError for a value of another type."""
        found: dict[str, str | None] = {}
        for name in self.names:
            kind = self._kinds.get(name)
            if kind is None:
                found[name] = phase or None
                continue
            value = getattr(state, name, None)
            if value is not None and not _is(value, kind):
                raise CodecError(
                    f"the state cannot be indexed by its {name}: it is declared as {kind.__name__}, but holds a "
                    f"{type(value).__name__}"
                )
            found[name] = None if value is None else _text(value)
        return found

    def text(self, saga: str, name: str, value: Any) -> str | None:
        """Return what to look for in a field of the index. Raises DefinitionError for a value of another type."""
        kind = self._kinds.get(name) or self._phases
        assert kind is not None
        if value is None:
            return None
        if not _is(value, kind):
            raise DefinitionError(f"saga {saga!r} is found by {name} as {kind.__name__}, not as {type(value).__name__}")
        return value.name if name not in self._kinds else _text(value)


def index_table(name: str, fields: Any, state: Any, phases: type[Enum] | None) -> IndexTable | None:
    """Return the table of a class's `index`; None where a type of its state cannot be resolved yet.

    Raises DefinitionError for what cannot be an index, naming the class `name`, the field and the remedy.
    """
    if not isinstance(fields, tuple) or not all(isinstance(one, str) for one in fields):
        raise DefinitionError(f'{name}.index must be a tuple of field names, such as index = ("customer_id",)')
    if len(set(fields)) < len(fields) or len(fields) > MAX_FIELDS:
        raise DefinitionError(f"{name}.index names each field once, and at most {MAX_FIELDS}")
    kinds: dict[str, type] = {}
    own = _fields_of(state)
    for field in fields:
        if field not in own:
            if field == PHASE and phases is not None:
                continue
            of = getattr(state, "__name__", str(state))
            raise DefinitionError(
                f"{name}.index names {field!r}, which is not a field of its state {of}"
                + (f": it has {', '.join(own)}" if own else ", which is not a class with fields")
            )
        try:
            hint = typing.get_type_hints(state)[field]
        except NameError:
            return None
        kind = _kind_of(hint)
        if kind is None:
            raise DefinitionError(f"{name}.index: {field} has to be {_ALLOWED}; it is {_shown(hint)}")
        kinds[field] = kind
    return IndexTable(fields, kinds, phases)


def _fields_of(state: Any) -> tuple[str, ...]:
    if dataclasses.is_dataclass(state):
        return tuple(field.name for field in dataclasses.fields(state))
    for attribute in ("__struct_fields__", "model_fields"):
        if isinstance(state, type) and hasattr(state, attribute):
            return tuple(getattr(state, attribute))
    return tuple(one.name for one in getattr(state, "__attrs_attrs__", ()))


def _kind_of(hint: Any) -> type | None:
    """Return the type of a field without None, if it may be in an index."""
    hint = getattr(hint, "__supertype__", hint)  # of a NewType
    origin = get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        kinds = {_kind_of(one) for one in get_args(hint) if one is not type(None)}
        return kinds.pop() if len(kinds) == 1 else None
    if origin is typing.Literal:
        types_ = {type(one) for one in get_args(hint) if one is not None}
        return _kind_of(types_.pop()) if len(types_) == 1 else None
    if hint in _KINDS:
        return hint  # type: ignore[no-any-return]
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint if all(type(one.value) in (str, int) for one in hint) else None
    return None


def _is(value: Any, kind: type) -> bool:
    if issubclass(kind, Enum):
        return isinstance(value, kind)
    return type(value) is kind or (kind is str and isinstance(value, str) and not isinstance(value, Enum))


def _text(value: Any) -> str:
    if isinstance(value, Enum):
        return as_term(str(value.value))
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        try:
            return (value.astimezone(UTC) if value.tzinfo is not None else value).isoformat()
        except OverflowError:  # in the year 1 or 9999, where UTC has no date for it
            return value.isoformat()
    if isinstance(value, date):
        return value.isoformat()
    return as_term(str(value))


def matches(index: Index, wanted: Index) -> bool:
    """Say whether all that is wanted is in an index; a field that is None is told from one that is not there."""
    return all(name in index and index[name] == text for name, text in wanted.items())


def as_term(text: str) -> str:
    """Return what stands for a text in the index: itself, or its hash where it is long, or no database keeps it."""
    if len(text) <= _LONGEST and "\0" not in text and not text.startswith(_HASHED):
        return text
    import hashlib  # only here, because few texts are so long, and it is a tenth of the time of `import sagalog`

    return _HASHED + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _shown(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and get_origin(hint) is None else str(hint).replace("typing.", "")
