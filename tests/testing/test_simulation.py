"""The simulation: our own order saga survives it, planted bugs do not, and the same seed is the same story."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from sagalog import Complete, Saga, Send, on, starts
from sagalog.testing.simulation import ALL_FAULTS, Finished, SimulationError, World, simulate
from sagalog.testing.simulation.run import Run

from ..orders import Note, Noted, OrderSaga, OrderState, Placed
from .shop_world import Shop

FIRST = int(os.environ.get("SAGALOG_SIMULATION_SEED", random.randrange(10**6)))
SEEDS = int(os.environ.get("SAGALOG_SIMULATION_SEEDS", "400"))


def test_nothing_that_goes_wrong_breaks_a_guarantee() -> None:
    print(f"to run the same again: SAGALOG_SIMULATION_SEED={FIRST}")
    report = simulate([OrderSaga], Shop, seeds=range(FIRST, FIRST + SEEDS))
    assert report.seeds == SEEDS
    missing = [fault for fault in ALL_FAULTS if not report.happened.get(fault)]
    assert not missing, f"a green run in which these never happened says nothing about them: {missing}"
    for branch in ("handled", "duplicates", "conflicts", "commands", "refused", "takeovers", "timers"):
        assert report.happened[branch] > 0, branch


def digest(seeds: range) -> str:
    story = hashlib.sha256()
    for seed in seeds:
        run = Run([OrderSaga()], Shop(), seed, frozenset(), frozenset())
        assert run.execute() is None
        story.update("\n".join(run.story).encode())
    return story.hexdigest()


def test_the_same_seed_is_the_same_story_in_another_process(tmp_path: Path) -> None:
    code = "from tests.testing.test_simulation import digest; print(digest(range(20)))"
    root = str(Path(__file__).parents[2])
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stdout.strip() == digest(range(20)), done.stderr


class CountingSaga(Saga[OrderState]):
    """It has a bug of its own: it forgets that a note may come before the end, and after it."""

    name = "counting"

    @starts(Placed, key="order_id")
    def placed(self, state: OrderState, event: Placed) -> None:
        state.total = event.total

    @on(Noted, key="order_id")
    def noted(self, state: OrderState, event: Noted):
        state.log.append(event.text)
        yield Send(Note(event.order_id, event.text))
        if event.text == "last":
            yield Complete()


class Notes(World):
    def events(self, chance: random.Random):
        yield Placed("a")
        yield 1
        yield Noted("a", "first")
        yield Noted("a", "last")

    def check(self, instance: Finished) -> None:
        assert instance.status != "completed" or instance.state.log == ["first", "last"], "the first note was overtaken"


def test_a_bug_of_a_users_saga_is_told_as_a_short_story_and_replayed_by_its_seed() -> None:
    with pytest.raises(SimulationError) as caught:
        simulate([CountingSaga], Notes, seeds=range(500))
    said = str(caught.value)
    assert said.startswith("the first note was overtaken")
    assert f"seed {caught.value.seed}; faults that it takes: " in said
    assert "Noted(order_id='a', text='last') is accepted" in said
    assert len(said.splitlines()) < 40
    with pytest.raises(SimulationError) as again:
        simulate([CountingSaga], Notes, seeds=[caught.value.seed])
    assert str(again.value) == said


def test_a_world_without_events_is_told() -> None:
    with pytest.raises(NotImplementedError, match="World.events"):
        simulate([OrderSaga], World, seeds=[1])
