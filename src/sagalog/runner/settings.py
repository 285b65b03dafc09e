"""How a runner behaves: every bound and delay in one place."""

from __future__ import annotations

import math
import random
from datetime import timedelta
from enum import StrEnum

import msgspec

from ..durations import seconds_of
from ..errors import DefinitionError
from ..text import given
from ..waiting import Waiting
from .arguments import check_duration, check_type, check_whole


class NoInstance(StrEnum):
    """What happens to an event that may not start a saga and finds no live instance."""

    IGNORE = "ignore"  # it is counted, and `handle` returns
    RAISE = "raise"  # `handle` raises NoInstanceError
    WAIT = "wait"  # it waits for a starting event, up to `no_instance_wait`; then NoInstanceError


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """Exponential backoff with jitter: before try n+1, up to `base * 2**(n-1)`, never more than the cap.

    `attempts` counts all tries; None: without end. The wait is drawn between half and all of its bound, so that many
    that failed together do not come back together (equal jitter).
    """

    attempts: int | None = None
    base: timedelta = timedelta(milliseconds=50)
    cap: timedelta = timedelta(minutes=1)

    def __post_init__(self) -> None:
        if self.attempts is not None:
            if type(self.attempts) is int and self.attempts < 1:
                raise DefinitionError(f"attempts: a retry policy needs at least 1 attempt, not {given(self.attempts)}")
            check_whole("attempts of a RetryPolicy", self.attempts, least=1)
        seconds_of("base of a RetryPolicy", self.base, zero=True)
        seconds_of("cap of a RetryPolicy", self.cap, zero=True)
        if self.base > self.cap:
            raise DefinitionError("a retry policy needs base <= cap")

    def wait_seconds(self, failures: int) -> float | None:
        """Return how long to wait after so many failures (from 1), or None if that was the last attempt."""
        waiting = Waiting(attempts=self.attempts, first=self.base.total_seconds(), most=self.cap.total_seconds())
        return waiting.pause_seconds(failures, 0.0, random.random())  # noqa: S311  (jitter, not a secret)


class RunnerSettings(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """Limits and delays of a runner."""

    lease: timedelta = timedelta(seconds=5)  # undelivered commands of a silent worker are taken over after this
    # How long a finished instance's message ids stay known, and its command ids are not reused.
    retention: timedelta = timedelta(days=7)
    max_payload_bytes: int = 1024 * 1024  # the largest event, and the largest stored record
    max_in_flight: int = 4096  # events at work at the same time; beyond that, `handle` waits
    max_batch: int = 256  # messages of one instance that share one save
    max_dispatch: int = 256  # commands of one type that are delivered at the same time
    max_takeovers: int = 10  # workers that die at one command before its instance is parked
    command_timeout: timedelta | None = timedelta(minutes=5)  # the longest attempt at a command; None: no limit
    cache_size: int = 20_000  # idle instances of each saga that stay in memory, at most
    cache_bytes: int = 64 * 1024 * 1024  # of their records, as stored; in memory, these take several times as much
    due_poll: timedelta = timedelta(seconds=1)  # how often due work of other workers is looked for
    # How often ends in other workers are looked for, while somebody waits for an outcome.
    outcome_poll: timedelta = timedelta(milliseconds=100)
    stop_timeout: timedelta = timedelta(seconds=30)  # how long a graceful stop waits for command handlers
    no_instance: NoInstance | str = NoInstance.IGNORE
    no_instance_wait: timedelta = timedelta(seconds=30)
    handler_retry: RetryPolicy = RetryPolicy(attempts=5, cap=timedelta(seconds=5))
    dispatch_retry: RetryPolicy = RetryPolicy(base=timedelta(milliseconds=100))

    def __post_init__(self) -> None:
        for name in ("max_payload_bytes", "max_in_flight", "max_batch", "max_dispatch", "max_takeovers"):
            check_whole(name, getattr(self, name), least=1)
        for name in ("cache_size", "cache_bytes"):
            check_whole(name, getattr(self, name), least=0)
        for name in ("lease", "due_poll", "outcome_poll"):
            seconds_of(name, getattr(self, name))
        for name in ("stop_timeout", "no_instance_wait"):
            seconds_of(name, getattr(self, name), zero=True)
        if self.command_timeout is not None:
            seconds_of("command_timeout", self.command_timeout)
        check_duration("retention", self.retention)
        for name in ("handler_retry", "dispatch_retry"):
            check_type(name, getattr(self, name), RetryPolicy, "a RetryPolicy")
        try:
            named = self.no_instance if isinstance(self.no_instance, str) else ""
            msgspec.structs.force_setattr(self, "no_instance", NoInstance(named))
        except ValueError:
            raise DefinitionError(
                f"no_instance must be one of {', '.join(NoInstance)}, not {given(self.no_instance)}"
            ) from None


class InSeconds(msgspec.Struct, frozen=True):
    """The durations of a runner's settings in seconds, as the event loop counts; made once, for the hot paths."""

    lease: float
    command_timeout: float
    due_poll: float
    outcome_poll: float
    stop_timeout: float
    no_instance_wait: float
    ack: float  # accepted commands are recorded after this at the latest, well before anybody could take them over

    @classmethod
    def of(cls, settings: RunnerSettings) -> InSeconds:
        """Return those of these settings."""
        lease, longest = settings.lease.total_seconds(), settings.command_timeout
        return cls(
            lease=lease,
            command_timeout=math.inf if longest is None else longest.total_seconds(),
            due_poll=settings.due_poll.total_seconds(),
            outcome_poll=settings.outcome_poll.total_seconds(),
            stop_timeout=settings.stop_timeout.total_seconds(),
            no_instance_wait=settings.no_instance_wait.total_seconds(),
            ack=lease / 10,
        )
