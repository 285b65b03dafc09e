"""Keys: texts besides its correlation id by which an instance is reached, declared with the class.

    keys = (Key("customer"),)
    yield AddKey("customer", event.customer_id)
    @on(CustomerBlocked, key="customer_id", by="customer")

The value of a key is a text, a whole number or a UUID, as a correlation id is; what has more than 200 characters or
digits is stood for by its hash.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

import msgspec

from ..errors import DefinitionError, InvalidEventError
from .indexing import as_term
from .routes import Route

MAX_HELD = 16  # values that one instance holds at once, of all its keys together
_LONG_NUMBER = 10**150  # from here on, numbers go through the digits of a text, and stand for themselves or by a hash
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}\Z")


class Key(msgspec.Struct, frozen=True):
    """A key of a saga. `name`: letters, digits and '_'; it stands in stored records.

    Many instances may hold the same value, and an instance several values. With `unique`, no two live instances of the saga
    hold the same value: KeyTakenError tells who wants one that is taken. That needs a journal, not a store of your own.
    """

    name: str
    unique: bool = False


def key_table(saga: str, declared: Any, routes: Iterable[Route]) -> Mapping[str, Key]:
    """Return the keys of a class by name. Raises DefinitionError, also for a handler whose `by` names none of them."""
    if not isinstance(declared, tuple) or not all(isinstance(one, Key) for one in declared):
        raise DefinitionError(f'{saga}.keys must be a tuple of keys, such as keys = (Key("customer"),)')
    table: dict[str, Key] = {}
    for key in declared:
        if not isinstance(key.name, str) or not _NAME.match(key.name):
            raise DefinitionError(
                f"{saga}.keys: a key's name must be 1 to 64 letters, digits and '_', not {key.name!r}"
            )
        if not isinstance(key.unique, bool):
            raise DefinitionError(f"{saga}.keys: unique= of {key.name!r} must be True or False")
        if key.name in table:
            raise DefinitionError(f"{saga}.keys declares {key.name!r} twice; keep one")
        table[key.name] = key
    for route in routes:
        if route.by and route.by not in table:
            known = f"it declares {', '.join(table)}" if table else "it declares none"
            raise DefinitionError(
                f"{saga}.{route.method}() is reached by the key {route.by!r}, which {saga} does not declare, {known}: "
                f"keys = (Key({route.by!r}),)"
            )
    return table


def key_text(value: Any) -> str | None:
    """Return what a value of a key is stored as; None for what cannot be one.

    That is an empty string, one that holds a lone surrogate, or another type.
    """
    if isinstance(value, str):
        return as_term(str(value)) if value and not lone_surrogate(value) else None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if -_LONG_NUMBER < value < _LONG_NUMBER else as_term(_digits(value))
    return str(value) if isinstance(value, UUID) else None


def may_be_key(name: str, text: str) -> bool:
    """Say whether that may be the name of a key, and the text of a value of it."""
    return bool(_NAME.match(name) and text) and not lone_surrogate(text)


def no_key(value: Any) -> str:
    """Return what to call a value that cannot be one of a key."""
    if lone_surrogate(value):
        return "a string that contains a lone surrogate, which is not valid Unicode"
    return "an empty string" if value == "" else type(value).__name__


def lone_surrogate(value: Any) -> bool:
    """Say whether it is a text that is not valid Unicode."""
    if not isinstance(value, str) or value.isascii():
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return True
    return False


def _digits(number: int) -> str:
    """Return all digits of a number: `str` refuses to from some thousand on, or from fewer if the program says so."""
    from decimal import Decimal  # only here, because few numbers are so long

    return format(Decimal(number), "f")


def correlation_text(value: Any, event: type, saga: str) -> str | None:
    """Return a key as text: str, int and UUID are keys; None means "not for this saga". Others are refused."""
    if isinstance(value, str):
        if not value:
            raise InvalidEventError(f"{event.__name__} for saga {saga!r} has an empty key; nothing was stored")
        return str(value) if type(value) is not str else value
    if value is None:
        return None
    if isinstance(value, (int, UUID)) and not isinstance(value, bool):
        return str(value)
    raise InvalidEventError(
        f"{event.__name__} for saga {saga!r} has a key of type {type(value).__name__}: use str, int or UUID; nothing "
        "was stored"
    )
