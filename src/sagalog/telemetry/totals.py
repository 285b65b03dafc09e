"""Sums over the counters of runners and journals that come and go."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import msgspec


class CounterTotals:
    """Sums over counters that come and go. What has gone stays counted: a total never goes back."""

    def __init__(self, kind: type[msgspec.Struct]) -> None:
        self._names = kind.__struct_fields__
        self._gone = dict.fromkeys(self._names, 0.0)
        self._there: dict[int, _Counted] = {}

    def enter(self, counters: msgspec.Struct) -> None:
        """Count along from now on. What several share enters once, and is there until the last has left."""
        there = self._there.setdefault(id(counters), _Counted(counters, copy.copy(counters)))
        there.users += 1

    def leave(self, counters: msgspec.Struct) -> None:
        """Count it as far as it has come."""
        there = self._there[id(counters)]
        there.users -= 1
        if there.users == 0:
            del self._there[id(counters)]
            for name in self._names:
                self._gone[name] += there.since(name)

    def of(self, name: str) -> float:
        return self._gone[name] + sum(there.since(name) for there in list(self._there.values()))


@dataclass(slots=True)
class _Counted:
    now: msgspec.Struct
    before: msgspec.Struct
    users: int = 0

    def since(self, name: str) -> float:
        return float(getattr(self.now, name) - getattr(self.before, name))
