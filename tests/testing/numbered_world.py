"""The world of the numbered meter: readings in any order, some that never come, some whose handler fails."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from sagalog.testing.simulation import Finished, World

from ..numbered import Closed, Measured, Meters, Numbered


class Stations(World):
    sagas = (Meters,)
    repairs = ("retry", "skip", "skip", "cancel")
    may_park = True

    def events(self, chance: random.Random) -> Iterator[Any]:
        Meters.failing, Meters.flaky = set(), {n: chance.choice([0, 0, 0, 1, 6]) for n in range(1, 6)}
        for meter in ("m", "k"):
            sent: list[Any] = [Measured(meter, station, n) for station in "ab" for n in range(1, 5)]
            sent += [Numbered(meter, n) for n in range(1, 4)]
            left = [one for one in sent if chance.random() < 0.9]
            chance.shuffle(left)
            for event in left:
                yield event
                yield chance.choice([0.0, 1.0, 60.0, 900.0])
            if chance.random() < 0.3:
                yield Closed(meter)
                yield Measured(meter, "a", 5)

    def check(self, instance: Finished) -> None:
        log = instance.state.log
        for kind in "abn":
            numbers = [int(one[1:]) for one in log if one[0] == kind and one[1:].isdigit()]
            assert numbers == sorted(set(numbers)), f"numbers of {kind} out of order, or twice: {numbers}"
