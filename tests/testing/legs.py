"""The world of joins: legs in any order, twice, and again; what follows from all of them follows once."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from sagalog.testing.simulation import Finished, World

from ..joining import Closed, JoinSaga, Ordered, Paid, Reserved, Ship


class Legs(World):
    sagas = (JoinSaga,)
    no_instance = "raise"  # its sender sends it again

    def events(self, chance: random.Random) -> Iterator[Any]:
        for n in range(3):
            events: list[Any] = [Ordered(f"j{n}"), Paid(f"j{n}"), Reserved(f"j{n}"), Closed(f"j{n}"), Reserved(f"j{n}")]
            chance.shuffle(events)
            for event in events:
                yield event
                yield chance.random() * 2

    def check(self, instance: Finished) -> None:
        log = instance.state.log
        assert log.count("ready") <= 1, "ready came twice"
        assert log.count("closing") <= 1, "closing came twice"
        shipped = sum(isinstance(command, Ship) for command in instance.commands)
        assert shipped == log.count("ready"), f"it was ready {log.count('ready')} times, and shipped {shipped} times"
        if "paid" in log and "reserved" in log:
            assert "ready" in log, "all of its legs have come, and it is not ready"
            assert log[max(log.index("paid"), log.index("reserved")) + 1] == "ready", "ready came later than its legs"
        else:
            assert "ready" not in log, "it is ready before its legs"
