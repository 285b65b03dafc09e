"""Workers that run a shop together, and what is done to them."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from pathlib import Path

from .conftest import Zygote, kill, wait_for
from .examine import every_event_was_acknowledged, examine
from .shop import read_ledger


class Crew:
    """So many workers on one folder. What a worker is given (its server, its clock) goes by its place: seed modulo size."""

    def __init__(self, zygote: Zygote, folder: Path, orders: int, seed: int, size: int = 3) -> None:
        self.chance = random.Random(seed)
        self.size = size
        self._zygote = zygote
        self._folder = folder
        self._orders = orders
        self._pids = [self._spawn(place) for place in range(size)]
        for pid in self._pids:
            wait_for(folder, f'{{"ready": {pid}}}')

    def _spawn(self, place: int) -> int:
        return self._zygote.spawn(self._folder, self._orders, place + self.size * self.chance.randrange(10**5))

    def freeze_one(self, seconds: float) -> None:
        """Stop a worker for so long."""
        pid = self.chance.choice(self._pids)
        kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        kill(pid, signal.SIGCONT)

    def replace_one(self) -> None:
        """Kill a worker, and let another take its place."""
        place = self.chance.randrange(self.size)
        kill(self._pids[place])
        self._zygote.wait(self._pids[place])
        self._pids[place] = self._spawn(place)

    def finish(self, faults: Counter[str]) -> None:
        """Wait until all are through, and see that nothing was lost and nothing happened twice."""
        through = sum("done" in note for note in read_ledger(self._folder / "ledger"))
        ended = [self._zygote.wait(pid) for pid in self._pids]
        print(f"{dict(faults)}, {through} workers through before the last of them")
        assert ended == [{"exit": 0}] * self.size, (ended, faults)
        every_event_was_acknowledged(self._folder, self._orders)
        result = examine(self._folder, self._orders, frozen=True)
        assert result["completed"] + result["compensated"] == self._orders, (result, faults)


def clocks_ten_seconds_apart(zygote: Zygote, folder: Path, seed: int) -> None:
    """Workers whose clocks differ fire no timer early and lose nothing, also when one of them is killed."""
    (folder / "skew").touch()
    crew = Crew(zygote, folder, 200, seed)
    crew.replace_one()
    crew.finish(Counter())
