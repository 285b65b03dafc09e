"""What a journal's methods are called with, looked at before anything is done: one rule for each name of an argument.

A wrong value would otherwise go as far as the driver, and come back as whatever that raises, or be taken.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from ..errors import InvalidEventError
from .checks import check_text
from .protocol import MovedDue, PersistentRepr

C = TypeVar("C", bound=type)
Rule = Callable[[str, Any], None]


def _anything(name: str, value: Any) -> None:
    pass


def _text(name: str, value: Any) -> None:
    if type(value) is not str or not value.isascii():
        check_text(value)


def _whole(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(name, "a whole number", value)
    if not -(2**63) <= value < 2**63:
        raise InvalidEventError(f"{name} must be a whole number of 64 bits; nothing was stored")


def _flag(name: str, value: Any) -> None:
    if value is not None and not isinstance(value, bool):
        raise _wrong(name, "True, False or None", value)


def _instant(name: str, value: Any) -> None:
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise _wrong(name, "a datetime with a time zone", value)


def _several(kind: type, *parts: type) -> Rule:
    """Return a rule for a sequence of such things; `parts`: what each is made of, where it is a tuple."""
    of = " and ".join(part.__name__ for part in parts) or kind.__name__
    plain = frozenset() if parts else frozenset({kind})

    def rule(name: str, value: Any) -> None:
        if type(value) in (list, tuple) and plain.issuperset(map(type, value)):  # mostly
            return
        if not isinstance(value, (Sequence, Collection)) or isinstance(value, (str, bytes, Mapping)):
            raise _wrong(name, f"a sequence of {of}", value)
        for one in value:
            if not isinstance(one, kind) or (isinstance(one, tuple) and parts and tuple(map(type, one)) != parts):
                raise _wrong(name, f"a sequence of {of}", one)

    return rule


_strings = _several(str)


def _texts(name: str, value: Any) -> None:
    _strings(name, value)
    for one in value:
        _text(name, one)


_pairs = _several(tuple, str, int)


def _tombstones(name: str, value: Any) -> None:
    _pairs(name, value)
    for persistence_id, _ in value:
        _text(name, persistence_id)


RULES: dict[str, Rule] = {
    "persistence_id": _text,
    "persistence_ids": _texts,
    "messages": _several(PersistentRepr),
    "records": _several(PersistentRepr),
    "message": lambda name, value: _several(PersistentRepr)(name, (value,)),
    "moves": _several(MovedDue),
    "tombstones": _tombstones,
    "tag": _text,
    "prefix": _text,
    "after": _text,
    "from_sequence_nr": _whole,
    "to_sequence_nr": _whole,
    "max": _whole,
    "offset": _whole,
    "limit": _whole,
    "before": _instant,
    "until": _instant,
    "atomic": _flag,
    "deleted": _flag,
}


def _wrong(name: str, wanted: str, value: Any) -> InvalidEventError:
    return InvalidEventError(f"{name} must be {wanted}, not {type(value).__name__}; nothing was stored")


def checks_arguments(journal: C) -> C:
    """Let the public methods of a journal refuse wrong arguments with InvalidEventError, which names them."""
    for name, method in list(vars(journal).items()):
        if name.startswith("_") or not inspect.isfunction(method):
            continue
        code = method.__code__
        names = list(code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount])
        rules = {one: RULES[one] for one in names if one in RULES}
        if rules:
            setattr(journal, name, _checked(method, names, rules))
    return journal


def _checked(method: Callable[..., Any], names: list[str], rules: dict[str, Rule]) -> Callable[..., Any]:
    """Return the method with its rules before it. Mostly it gets one argument, by its place: then nothing is looked up."""
    first, rule_of_first = names[0], rules.get(names[0], _anything)

    def check(given: tuple[Any, ...], named: dict[str, Any]) -> None:
        for name, value in (*zip(names, given, strict=False), *named.items()):
            rules.get(name, _anything)(name, value)

    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def checked(self: Any, *given: Any, **named: Any) -> Any:
            if len(given) == 1 and not named:
                rule_of_first(first, given[0])
                return await method(self, given[0])
            check(given, named)
            return await method(self, *given, **named)

    else:

        @functools.wraps(method)
        def checked(self: Any, *given: Any, **named: Any) -> Any:
            check(given, named)
            return method(self, *given, **named)

    return checked
