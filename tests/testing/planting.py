"""Bugs planted in the engine, one at a time, and the world whose simulation has to find each."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from sagalog.testing import simulation
from sagalog.testing.simulation import SimulationError, World, simulate

from ..orders import OrderSaga

Plant = Callable[[pytest.MonkeyPatch], None]

# What a patch raises whose place has changed since it was written.
MISPLANTED = re.compile("TypeError|AttributeError|ValueError|NameError")


class Mutants:
    """The planted bugs of one file, by name. Used as a decorator it adds one; `world`: where it is met."""

    def __init__(self, world: type[World], *, seeds: int) -> None:
        self._world = world
        self._seeds = seeds
        self._plants: dict[str, tuple[Plant, type[World], int]] = {}

    def __call__(self, plant: Plant) -> Plant:
        return self.of(self._world)(plant)

    def of(self, world: type[World], *, first: int = 0) -> Callable[[Plant], Plant]:
        """Add one that another world meets. `first`: the seed to begin with, where earlier ones are known to take long."""

        def add(plant: Plant) -> Plant:
            self._plants[plant.__name__.replace("_", " ")] = plant, world, first
            return plant

        return add

    @property
    def names(self) -> Sequence[str]:
        return list(self._plants)

    def find(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Plant a bug; fail unless the simulation finds it, and it is not the patch that raises."""
        plant, world, first = self._plants[name]
        plant(monkeypatch)
        monkeypatch.setattr(simulation, "shrunk", _as_it_is)
        sagas: list[Any] = list(world.sagas or [OrderSaga])
        with pytest.raises(SimulationError) as caught:
            simulate(sagas, world, seeds=range(first, first + self._seeds))
        said = str(caught.value)
        assert not MISPLANTED.search(said), f"what is planted raises, so the bug itself was not met: {said}"
        print(f"seed {caught.value.seed}: {said.partition(chr(10))[0]}")


def _as_it_is(sagas: Any, world: Any, seed: int, run: Any, wrong: Exception) -> SimulationError:
    """Tell what went wrong without looking for a shorter story of it, which takes longer than to find it."""
    return SimulationError("\n".join([f"{type(wrong).__name__}: {wrong}", *run.story]), seed)
