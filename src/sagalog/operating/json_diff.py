"""What changed between two JSON values: the paths, and what stood there before and after."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal, NamedTuple

_DEEPEST = 40  # a value nested deeper is shown as one change


class Absent(Enum):
    """Stands for a value that is not there: nothing was before, or nothing is after."""

    ABSENT = "absent"


ABSENT: Literal[Absent.ABSENT] = Absent.ABSENT


class Change(NamedTuple):
    """One change. `path` as in `lines[2].sku`; empty for the whole value. ABSENT: not there."""

    path: str
    before: Any
    after: Any


def changes(before: Any, after: Any) -> list[Change]:
    """Return what differs, in the order of `before`, what is new in `after` behind it.

    Takes decoded JSON, or ABSENT. Lists are compared without their common beginning and end, so that an item that is
    added or removed anywhere is one change. Equal values give nothing.
    """
    found: list[Change] = []
    _compare("", before, after, 0, found)
    return found


def _compare(path: str, before: Any, after: Any, depth: int, found: list[Change]) -> None:
    if type(before) is type(after) and depth < _DEEPEST:
        if isinstance(before, dict):
            for name in (*before, *(new for new in after if new not in before)):
                _compare(_member(path, name), before.get(name, ABSENT), after.get(name, ABSENT), depth + 1, found)
            return
        if isinstance(before, list):
            _compare_lists(path, before, after, depth, found)
            return
    if type(before) is not type(after) or before != after:
        found.append(Change(path, before, after))


def _compare_lists(path: str, before: list[Any], after: list[Any], depth: int, found: list[Change]) -> None:
    shorter = min(len(before), len(after))
    start = 0
    while start < shorter and _equal(before[start], after[start], depth):
        start += 1
    end = 0
    while end < shorter - start and _equal(before[-1 - end], after[-1 - end], depth):
        end += 1
    old, new = before[start : len(before) - end], after[start : len(after) - end]
    for index in range(max(len(old), len(new))):
        _compare(
            f"{path}[{start + index}]",
            old[index] if index < len(old) else ABSENT,
            new[index] if index < len(new) else ABSENT,
            depth + 1,
            found,
        )


def _equal(before: Any, after: Any, depth: int) -> bool:
    """Say whether two values are the same JSON: to Python, false and 0 are equal."""
    if type(before) is not type(after):
        return False
    if depth < _DEEPEST and isinstance(before, dict):
        return before.keys() == after.keys() and all(_equal(before[name], after[name], depth + 1) for name in before)
    if depth < _DEEPEST and isinstance(before, list):
        return len(before) == len(after) and all(map(_equal, before, after, [depth + 1] * len(before)))
    return bool(before == after)


def _member(path: str, name: str) -> str:
    if name.isidentifier():
        return f"{path}.{name}" if path else name
    return f"{path}[{name!r}]"
