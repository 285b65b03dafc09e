"""SIGKILL, several hundred times: at random moments, and at every point where it could hurt most."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from pathlib import Path

import pytest

from .conftest import Zygote, kill, wait_for
from .examine import every_event_was_acknowledged, examine
from .shop import POINTS, read_ledger

SCALE = float(os.environ.get("SAGALOG_CRASH_KILLS", "1"))


def finish(zygote: Zygote, folder: Path, orders: int, seed: int) -> Counter[str]:
    assert zygote.wait(zygote.spawn(folder, orders, seed)) == {"exit": 0}
    every_event_was_acknowledged(folder, orders)
    return examine(folder, orders)


@pytest.mark.parametrize("round_", range(4))
def test_killed_at_random_moments_nothing_is_lost_and_nothing_happens_twice(
    zygote: Zygote, tmp_path: Path, seed: int, round_: int
) -> None:
    chance = random.Random(seed + round_)
    orders, kills = 60, int(50 * SCALE)
    for n in range(kills):
        pid = zygote.spawn(tmp_path, orders, chance.randrange(10**6))
        wait_for(tmp_path, f'{{"ready": {pid}}}')
        try:
            signal.sigtimedwait([], chance.choice([0.004, 0.02, 0.05, 0.15]) * chance.random())
        finally:
            kill(pid)
        ended = zygote.wait(pid)
        if ended == {"exit": 0}:
            orders += 20  # it was through: give the next one more to do
        else:
            assert ended == {"signal": signal.SIGKILL}, n
    counted = finish(zygote, tmp_path, orders, seed)
    assert counted["completed"]
    assert counted["compensated"]


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_named_point_nothing_is_lost_and_nothing_happens_twice(
    zygote: Zygote, tmp_path: Path, seed: int, point: str
) -> None:
    chance = random.Random(f"{seed}{point}")
    orders, hits = 16, 0
    wanted = max(3, int(9 * SCALE))
    for _ in range(4 * wanted):
        passing = chance.choice([1, 1, 2, 3, 5, 8])
        ended = zygote.wait(zygote.spawn(tmp_path, orders, chance.randrange(10**6), point, passing))
        assert ended in ({"signal": signal.SIGKILL}, {"exit": 0})
        if ended == {"exit": 0}:
            orders += 8
        hits = sum(note.get("killed") == point for note in read_ledger(tmp_path / "ledger"))
        if hits >= wanted:
            break
    assert hits >= wanted, f"only {hits} kills at this point: the test proves nothing"
    finish(zygote, tmp_path, orders, seed)
