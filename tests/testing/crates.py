"""The world of gathers: each leg counts once, and the end comes once, with the last one or the first that is refused."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from sagalog import CommandRefused
from sagalog.testing.simulation import Finished, World

from ..gathering import Begun, Bill, GatherSaga, Ship, Shipped


class Crates(World):
    sagas = (GatherSaga,)

    def events(self, chance: random.Random) -> Iterator[Any]:
        for n in range(3):
            wait, listed = chance.random() < 0.5, chance.random() < 0.3
            yield Begun(f"{chance.choice(['ok', 'no'])}{n}", chance.choice([3, 25, 30]), wait, listed)
            yield chance.random() * 5

    def answer(self, command: Any, chance: random.Random) -> Any:
        if not isinstance(command, Ship):
            return None
        if command.id.startswith("no") and command.number == 2:
            raise CommandRefused("no")
        return Shipped(command.id, command.number)

    def check(self, instance: Finished) -> None:
        state = instance.state
        assert len(state.ended) == 1, f"it ended {len(state.ended)} times"
        shipped = {command.number for command in instance.commands if isinstance(command, Ship)}
        assert state.shipped == len(shipped), f"{len(shipped)} were shipped, and {state.shipped} counted"
        if state.id.startswith("ok"):
            assert instance.status == "completed"
            assert state.ended == [f"all {state.total} of {state.total}"]
            assert [command.parcels for command in instance.commands if isinstance(command, Bill)] == [state.total]
            assert shipped == set(range(state.total)), "some were never sent"
        else:
            assert state.ended[0].endswith(", not (2,)"), "which one was refused"


class Dropped(Crates):
    """Its operator drops what is in the way, and nothing comes afterwards that would let a gather go on."""

    repairs = ("skip",)

    def events(self, chance: random.Random) -> Iterator[Any]:
        for n in range(6):
            yield Begun(f"{n}", chance.choice([1, 3, 25]), wait=chance.random() < 0.8)
            yield chance.random() * 5

    def answer(self, command: Any, chance: random.Random) -> Any:
        return Shipped(command.id, command.number) if isinstance(command, Ship) else None

    def check(self, instance: Finished) -> None:
        state = instance.state
        if state.total and len(instance.repairs) < 2:  # it has begun; a second one may drop the end itself
            assert len(state.ended) == 1, f"it ended {len(state.ended)} times"


class TwoRefused(Crates):
    """More than one leg is refused, and only the first of them ends the gather."""

    def events(self, chance: random.Random) -> Iterator[Any]:
        yield Begun("no", 25)

    def answer(self, command: Any, chance: random.Random) -> Any:
        if isinstance(command, Ship) and command.number > 4:
            raise CommandRefused("no")
        return Shipped(command.id, command.number) if isinstance(command, Ship) else None

    def check(self, instance: Finished) -> None:
        assert len(instance.state.ended) == 1
        assert instance.status == "running", f"one refusal ended it, and another one made it {instance.status}"
