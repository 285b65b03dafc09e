"""The world of recurring timers: each comes at its own moments, in their order, until it has come often enough."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from typing import Any

from sagalog.testing.simulation import Finished, World

from ..ticking import Begun, Bill, TickSaga


class Clockwork(World):
    sagas = (TickSaga,)

    def events(self, chance: random.Random) -> Iterator[Any]:
        for n in range(3):
            yield Begun(f"t{n}", chance.choice(["each", "once", "skip"]), chance.choice([2.0, 30.0, 300.0]), most=6)
            yield chance.random() * 20

    def check(self, instance: Finished) -> None:
        state = instance.state
        assert instance.status == "completed", f"it came {len(state.at)} times, and then no more"
        every = timedelta(seconds=state.every)
        for moment in state.at:
            assert (moment - state.begun) % every == timedelta(0), f"{moment} is none of its moments"
        assert all(one < other for one, other in pairwise(state.at)), "it came twice at one moment"
        if state.missed == "each":
            assert state.at == [state.begun + n * every for n in range(1, 7)], "one of its moments is left out"
        assert [command.at for command in instance.commands if isinstance(command, Bill)] == state.at
