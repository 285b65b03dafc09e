"""What may go wrong, and whether it does: every decision of one simulated run, drawn from its seed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import msgspec

WRITE_FAULTS = (
    "dies before a write",
    "dies during a write",
    "dies after a write",
    "write refused",
    "answer lost, not stored",
    "answer lost, stored",
    "answer lost, stored late",
    "answer late",
    "write arrives twice",
    "stalls before a write",
    "stalls after a write",
)
READ_FAULTS = ("read refused", "read late", "dies during a read")
CLAIM_FAULTS = ("claim refused", "claimed, answer lost", "dies after a claim")
PURGE_FAULTS = ("purge refused", "purged, answer lost", "dies during a purge")
SENDING_FAULTS = ("delivery late", "delivered twice", "delivered again, later", "sender does not wait")
COMMAND_FAULTS = (
    "command handler fails",
    "command handler fails after it did it",
    "command handlers fail for a while",
    "command handler slow",
    "dies in a command handler",
)
SAGA_FAULTS = ("event handler raises", "event handler raises for a while")
START_FAULTS = ("worker slow", "clock wrong")
WORKER_FAULTS = (
    "clock jumps forwards",
    "clock jumps backwards",
    "worker stops and is replaced",
    "dies at rest",
    "history cut",
    "record of a newer version",
)
FAULTS = (
    *WRITE_FAULTS,
    *READ_FAULTS,
    *CLAIM_FAULTS,
    *PURGE_FAULTS,
    *SENDING_FAULTS,
    *COMMAND_FAULTS,
    *SAGA_FAULTS,
    *START_FAULTS,
    *WORKER_FAULTS,
)
Tell = Callable[[str], None]


class Without(msgspec.Struct, frozen=True):
    """What a run leaves out: kinds of faults, events of the world by number, and single faults by number."""

    faults: frozenset[str] = frozenset()
    events: frozenset[int] = frozenset()
    strikes: frozenset[int] = frozenset()


class Chance:
    """The one source of chance of a run. A fault that is left out is drawn all the same, to move nothing else."""

    def __init__(self, seed: int, without: Without) -> None:
        self.seed = seed
        self.random: random.Random = random.Random(seed)
        self.likely: float = self.random.choice([0.02, 0.1, 0.3])
        self.quiet: bool = False  # towards the end nothing goes wrong any more
        self.struck: int = 0
        self.happened: Counter[str] = Counter()
        self._without = without

    def strikes(self, faults: tuple[str, ...], *, share: float = 1.0, in_peace: bool = False) -> str | None:
        """Return one of the faults, or (mostly) none; `share` makes them rarer, `in_peace` lets them strike to the end."""
        strikes = self.random.random() < self.likely * share
        fault = self.random.choice(faults)
        if not strikes or (self.quiet and not in_peace) or fault in self._without.faults:
            return None
        self.struck += 1
        if self.struck - 1 in self._without.strikes:
            return None
        self.happened[fault] += 1
        return fault

    def upto(self, seconds: float) -> float:
        """Return a duration below `seconds`."""
        return self.random.random() * seconds
