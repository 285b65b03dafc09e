"""The worlds of keys: desks want each other's seats, give them up, and end; events look for who holds a key."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from sagalog.testing.simulation import Finished, World

from ..keyed import (
    Ask,
    Blocked,
    Booked,
    Closed,
    DeskSaga,
    Find,
    Later,
    Leave,
    Moved,
    Ordered,
    ParcelSaga,
    Scanned,
    Shut,
    Take,
)


class Desks(World):
    sagas = (DeskSaga,)
    horizon = timedelta(days=1)  # who holds a key is looked at once a retention, for as long as it is held
    repairs = ("retry", "skip", "cancel")
    may_park = True  # a timer, or what was held, may want a seat that another desk keeps for good

    def events(self, chance: random.Random) -> Iterator[Any]:
        for _ in range(chance.choice([4, 10, 16])):
            desk, seat = chance.choice("ABC"), chance.choice("112")
            kind = chance.random()
            if kind < 0.35:
                yield Booked(desk, chance.sample("12", chance.choice([0, 1, 1, 2])))
            elif kind < 0.6:
                yield Take(desk, seat)
            elif kind < 0.7:
                yield Leave(desk, chance.choice([seat, None]))
            elif kind < 0.8:
                yield Scanned(seat, close=chance.random() < 0.3)
            elif kind < 0.9:
                yield Shut(desk, undo=chance.random() < 0.5)
            elif kind < 0.95:
                yield Later(desk, seat)
            else:
                yield Ask(desk, seat)
            yield chance.choice([0, 0, chance.random(), chance.random() * 30, 4000])

    def answer(self, command: Any, chance: random.Random) -> Any:
        return Take(command.desk, command.seat) if isinstance(command, Find) else None


class Customers(World):
    """Many parcels of few customers: an event about one reaches all of theirs."""

    sagas = (ParcelSaga,)

    def events(self, chance: random.Random) -> Iterator[Any]:
        for n in range(chance.choice([3, 8])):
            yield Ordered(f"P{n}", chance.sample("cde", chance.choice([0, 1, 2])))
            yield chance.choice([0, 0, chance.random()])
            kind, order = chance.random(), f"P{chance.randrange(n + 1)}"
            if kind < 0.5:
                yield Blocked(chance.choice("cde"), chance.choice(["blocked", "blocked", "close"]))
            elif kind < 0.7:
                yield Moved(order, old=chance.choice(["", "c"]), new=chance.choice("cde"))
            elif kind < 0.8:
                yield Closed(order)
            yield chance.choice([0, chance.random(), chance.random() * 10])

    def check(self, instance: Finished) -> None:
        assert instance.status in ("running", "completed")
