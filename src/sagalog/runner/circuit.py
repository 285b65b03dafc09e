"""A circuit: where a receiver is away, its commands wait together, and one at a time asks whether it is back.

closed ─► (so many failed attempts in a row) ─► open ─► (after a while) ─► probing: one attempt
  ▲                                               ▲                            │
  └──────────── any answer of the receiver        └──────── it has failed ─────┘

It is of one worker, and in memory: each worker finds out by itself, and a new one begins with it closed.
"""

from __future__ import annotations

from datetime import timedelta

import msgspec

from ..durations import seconds_of
from ..errors import DefinitionError
from .arguments import check_whole


class Circuit(msgspec.Struct, frozen=True):
    """When to hold back commands of a type because their receiver is away, and how often to try again.

    It opens after `failures` failed attempts in a row, of whatever commands of the type: those that would be tried again,
    a timeout included. An acceptance or a refusal is an answer, and begins the row anew. While it is open no attempt is
    made and none is counted. `probe_after` later a single command is tried; if that fails, the next one twice as long
    later, up to `probe_cap`. The first answer closes it.
    """

    failures: int = 5
    probe_after: timedelta = timedelta(seconds=5)
    probe_cap: timedelta = timedelta(minutes=1)

    def __post_init__(self) -> None:
        check_whole("failures of a Circuit", self.failures, least=1)
        seconds_of("probe_after of a Circuit", self.probe_after)
        seconds_of("probe_cap of a Circuit", self.probe_cap)
        if self.probe_cap < self.probe_after:
            raise DefinitionError("a circuit needs probe_after <= probe_cap")


class CircuitState:
    """How the circuit of one command type stands in this worker. Times are the loop's."""

    __slots__ = ("_policy", "failures", "opened", "probe", "try_at")

    def __init__(self, policy: Circuit) -> None:
        self._policy = policy
        self.failures: int = 0  # in a row
        self.opened: int = 0  # how often in a row; 0: it is closed
        self.try_at: float = 0.0  # when the next probe may leave
        self.probe: object = None  # the one that is under way

    @property
    def is_open(self) -> bool:
        """Commands wait, except a probe now and then."""
        return self.opened > 0

    def failed(self, now: float) -> bool:
        """Count a failed attempt; say whether the circuit opens by it."""
        self.failures += 1
        if self.opened:
            if self.probe is not None:  # one that left before it opened says nothing new
                self._open(now)
            return False
        if self.failures < self._policy.failures:
            return False
        self._open(now)
        return True

    def _open(self, now: float) -> None:
        policy = self._policy
        self.try_at = now + min(
            policy.probe_cap.total_seconds(), policy.probe_after.total_seconds() * 2.0 ** min(self.opened, 60)
        )
        self.opened += 1
        self.probe = None

    def answered(self) -> bool:
        """Note that the receiver has answered; say whether the circuit closes by it."""
        closes = self.opened > 0
        self.failures, self.opened = 0, 0
        self.probe = None
        return closes
