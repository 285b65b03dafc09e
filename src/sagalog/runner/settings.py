"""How a runner behaves: every bound and delay in one place."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from ..errors import DefinitionError
from ..waiting import Waiting
from .arguments import check_duration, check_seconds, check_type, check_whole


class NoInstance(StrEnum):
    """What becomes of an event that may not start a saga and finds no live instance."""

    IGNORE = "ignore"  # it is counted, and `handle` returns
    RAISE = "raise"  # `handle` raises NoInstanceError
    WAIT = "wait"  # it waits for a starting event, up to `no_instance_wait_seconds`; then NoInstanceError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with jitter: before try n+1, up to `base * 2**(n-1)` seconds, never more than the cap.

    `attempts` counts all tries; None: without end. The wait is drawn between half and all of its bound, so that many
    that failed together do not come back together (equal jitter).
    """

    attempts: int | None = None
    base_seconds: float = 0.05
    cap_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.attempts is not None:
            if type(self.attempts) is int and self.attempts < 1:
                raise DefinitionError(f"attempts: a retry policy needs at least 1 attempt, not {self.attempts}")
            check_whole("attempts of a RetryPolicy", self.attempts, least=1)
        check_seconds("base_seconds of a RetryPolicy", self.base_seconds, zero=True)
        check_seconds("cap_seconds of a RetryPolicy", self.cap_seconds, zero=True)
        if not 0 <= self.base_seconds <= self.cap_seconds:
            raise DefinitionError("a retry policy needs 0 <= base_seconds <= cap_seconds")

    def wait_seconds(self, failures: int) -> float | None:
        """Return how long to wait after so many failures (from 1), or None if that was the last attempt."""
        waiting = Waiting(attempts=self.attempts, first=self.base_seconds, most=self.cap_seconds)
        return waiting.pause_seconds(failures, 0.0, random.random())  # noqa: S311  (jitter, not a secret)


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """Bounds and delays of a runner."""

    lease_seconds: float = 5.0  # undelivered commands of a silent worker are taken over after this
    # How long a finished instance's message ids stay known, and its command ids are not used again.
    retention: timedelta = timedelta(days=7)
    max_payload_bytes: int = 1024 * 1024  # of one event, and of one stored record
    max_in_flight: int = 4096  # events at work at once; `handle` waits beyond that
    max_batch: int = 256  # messages of one instance that share one save
    max_dispatch: int = 256  # commands of one type on their way at once
    max_takeovers: int = 10  # of one command from workers that died at it; then its instance is parked
    command_seconds: float = 300.0  # how long one attempt at a command may take (inf: without end)
    cache_size: int = 20_000  # idle instances of a saga kept in memory, at most
    cache_bytes: int = 64 * 1024 * 1024  # of their records, as stored; in memory they take several times as much
    due_poll_seconds: float = 1.0  # how often other workers' due work is looked for
    outcome_poll_seconds: float = 0.1  # how often it is looked what others ended, while somebody waits for an outcome
    stop_seconds: float = 30.0  # how long a graceful stop waits for command handlers
    no_instance: NoInstance | str = NoInstance.IGNORE
    no_instance_wait_seconds: float = 30.0
    handler_retry: RetryPolicy = field(default=RetryPolicy(attempts=5, base_seconds=0.05, cap_seconds=5.0))
    dispatch_retry: RetryPolicy = field(default=RetryPolicy(attempts=None, base_seconds=0.1, cap_seconds=60.0))

    def __post_init__(self) -> None:
        for name in ("max_payload_bytes", "max_in_flight", "max_batch", "max_dispatch", "max_takeovers"):
            check_whole(name, getattr(self, name), least=1)
        for name in ("cache_size", "cache_bytes"):
            check_whole(name, getattr(self, name), least=0)
        for name in ("lease_seconds", "due_poll_seconds", "outcome_poll_seconds"):
            check_seconds(name, getattr(self, name))
        for name in ("stop_seconds", "no_instance_wait_seconds"):
            check_seconds(name, getattr(self, name), zero=True)
        check_seconds("command_seconds", self.command_seconds, endless=True)
        check_duration("retention", self.retention)
        for name in ("handler_retry", "dispatch_retry"):
            check_type(name, getattr(self, name), RetryPolicy, "a RetryPolicy")
        try:
            object.__setattr__(self, "no_instance", NoInstance(self.no_instance))
        except (ValueError, TypeError):
            raise DefinitionError(f"no_instance is one of {', '.join(NoInstance)}, not {self.no_instance!r}") from None

    @property
    def ack_seconds(self) -> float:
        """Accepted commands are recorded after this at the latest, well before anybody could take them over."""
        return self.lease_seconds / 10
