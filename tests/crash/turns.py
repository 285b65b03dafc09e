"""Two workers of a world that are killed by turns, whatever journal they share."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sagalog.journal import migrate_journal

from .conftest import Zygote, kill, wait_for
from .shop import read_ledger

MOMENTS = (0.01, 0.03, 0.1)  # seconds, at most, from a worker's being ready to its death


def killed_by_turns(
    zygote: Zygote,
    world: str,
    folder: Path,
    count: int,
    seed: int,
    kills: int,
    *,
    moments: Sequence[float] = MOMENTS,
    faults: Sequence[Callable[[], object]] = (),
) -> list[dict[str, int]]:
    """Kill one of two workers again and again, and do what `faults` does between; return how the last ones ended.

    The seed of a worker is even or odd, by its place.
    """
    chance = random.Random(seed)

    def spawn(place: int) -> int:
        return zygote.spawn(folder, count, place + 2 * chance.randrange(10**5), world=world)

    alive = [spawn(0), spawn(1)]
    for turn in range(kills):
        place = turn % 2
        wait_for(folder, f'{{"ready": {alive[place]}}}')
        time.sleep(chance.choice(moments) * chance.random())  # the moment is what is tested
        kill(alive[place])
        zygote.wait(alive[place])
        alive[place] = spawn(place)
        if faults and place:
            chance.choice(faults)()
    return [zygote.wait(pid) for pid in alive]


def killed_at_each_point(
    zygote: Zygote, world: str, folder: Path, count: int, seed: int, points: Sequence[str], *, more: int
) -> tuple[int, dict[str, int]]:
    """Kill one worker at each point, and let a last one finish; return how much there was to do, and how that one ended.

    There is so much `more` to do each time a worker was through before it came to its point.
    """
    chance = random.Random(seed)
    for point in chance.sample(points, len(points)):
        for _ in range(5):
            ended = zygote.wait(zygote.spawn(folder, count, chance.randrange(10**6), point, 1, world=world))
            if ended == {"signal": signal.SIGKILL}:
                break
            assert ended == {"exit": 0}
            count += more
        else:
            raise AssertionError(f"nothing passes {point!r}: the test proves nothing")
    ended = zygote.wait(zygote.spawn(folder, count, seed, world=world))
    assert {note["killed"] for note in read_ledger(folder / "ledger") if "killed" in note} == set(points)
    return count, ended


def share(folder: Path, url: str) -> Path:
    """Make the journal at that address, and let the workers of a folder share it."""
    asyncio.run(migrate_journal(url))
    (folder / "url").write_text(url)
    return folder
