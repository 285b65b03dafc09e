"""SIGKILL, several hundred times: at random moments, and at every point where it could hurt most."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from .conftest import Zygote, kill, wait_for
from .examine import every_event_was_acknowledged, examine
from .shop import POINTS, read_ledger

SCALE = float(os.environ.get("SAGALOG_CRASH_KILLS", "1"))


def finish(zygote: Zygote, folder: Path, orders: int, seed: int) -> Counter[str]:
    """Let a last worker bring everything to its end, and give the verdict."""
    ended = zygote.wait(zygote.spawn(folder, orders, seed))
    counted = examine(folder, orders)  # it says more than how the worker ended
    assert ended == {"exit": 0}
    every_event_was_acknowledged(folder, orders)
    return counted


@pytest.mark.parametrize("round_", range(4))
def test_killed_at_random_moments_nothing_is_lost_and_nothing_happens_twice(
    zygote: Zygote, folder: Path, seed: int, round_: int
) -> None:
    chance = random.Random(seed + round_)
    orders, kills = 60, 0
    wanted = int(75 * SCALE)
    while kills < wanted:
        pid = zygote.spawn(folder, orders, chance.randrange(10**6))
        wait_for(folder, f'{{"ready": {pid}}}')
        time.sleep(chance.choice([0.004, 0.02, 0.05, 0.15]) * chance.random())  # the moment is what is tested
        kill(pid)
        ended = zygote.wait(pid)
        if ended == {"exit": 0}:
            orders += 20  # it was through: give the next one more to do
        else:
            assert ended == {"signal": signal.SIGKILL}
            kills += 1
    counted = finish(zygote, folder, orders, seed)
    assert counted["completed"]
    assert counted["compensated"]


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_named_point_nothing_is_lost_and_nothing_happens_twice(
    zygote: Zygote, folder: Path, seed: int, point: str
) -> None:
    chance = random.Random(f"{seed}{point}")
    orders, hits = 16, 0
    wanted = max(3, int(12 * SCALE))
    for _ in range(5 * wanted):
        passing = chance.choice([1, 1, 2, 3, 5, 8])
        if point.startswith("in a takeover"):  # somebody must have left something
            zygote.wait(
                zygote.spawn(folder, orders, chance.randrange(10**6), "in dispatch, after it arrived", 2 * passing + 4)
            )
        ended = zygote.wait(zygote.spawn(folder, orders, chance.randrange(10**6), point, passing))
        if ended == {"exit": 0}:
            orders += 8  # it did not pass that often: more to do
        elif ended != {"signal": signal.SIGKILL}:
            examine(folder, orders)  # it says more than how the worker ended
            raise AssertionError(ended)
        hits = sum(note.get("killed") == point for note in read_ledger(folder / "ledger"))
        if hits >= wanted:
            break
    assert hits >= wanted, f"only {hits} kills at this point: the test proves nothing"
    finish(zygote, folder, orders, seed)
