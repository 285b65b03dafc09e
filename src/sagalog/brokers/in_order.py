"""Hands events to the runner: those of one key in order, those of different keys beside each other.

    intake ─► [in order: a lane for each key] ─► runner

Whatever waits in a lane is handed over together, so that it can share a step. Where the journal fails one of them, none of
the same instance behind it is stored. Those that fail for a while are tried again, in order, before any later one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any, Protocol

import msgspec

from ..errors import (
    InstanceFullError,
    JournalUnavailableError,
    NotAllReachedError,
    OutcomeUnknownError,
    RunnerStoppedError,
    SagalogError,
    SagaParkedError,
    TooManyKeptError,
)
from ..waiting import Attempts, Waiting, is_set_within
from .counts import SourceCounts
from .message import SourceMessage
from .reading import Decoded

BURST = 128  # messages of one key that are handed over together
PAUSES = Waiting(first=0.05, most=5.0)
_OTHER_ATTEMPTS = 20  # at what fails for a while for a reason of its own, not because the journal is away


class Taken(Protocol):
    """What the runner says of an event that it has durably: a Receipt."""

    @property
    def outcomes(self) -> Any:
        """By saga; empty where no saga takes this event."""

    @property
    def duplicate(self) -> bool:
        """Every saga had it before."""


class TakesEvents(Protocol):
    """What an intake needs of a runner."""

    def take(self, event: Any, message_id: str, trace: str, at: datetime | None, burst: Any = None) -> Awaitable[Taken]:
        """Handle an event; return when it is durable. `burst`: what `burst` gave for it and those around it."""

    def burst(self) -> Any:
        """Begin some events that are to stay in order: where the journal fails one, none behind it is stored."""

    def lane_of(self, event: Any) -> str:
        """Return what keeps events without a key in order: the instance they are for."""


class Arrival(msgspec.Struct, eq=False):
    """A message that is under way here. `done`: nothing is left but to tell the broker."""

    message: SourceMessage
    decoded: Decoded | None = None
    failures: int = 0
    error: BaseException | None = None
    done: bool = False


class InOrder:
    """The lanes of one source.

    `handled` is called for what has its step, `declined` for what never will, with the reason. `spawn` runs a lane.
    """

    def __init__(
        self,
        runner: TakesEvents,
        counts: SourceCounts,
        stopping: asyncio.Event,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        *,
        handled: Callable[[Arrival], None],
        declined: Callable[[Arrival, str], None],
    ) -> None:
        self._runner = runner
        self._counts = counts
        self._stopping = stopping
        self._spawn = spawn
        self._handled = handled
        self._declined = declined
        self._lanes: dict[str, deque[Arrival]] = {}

    def put(self, arrival: Arrival) -> None:
        """Handle it after what came before it in its lane. Raises SagalogError for an event that can be for no instance."""
        assert arrival.decoded is not None
        lane = arrival.message.key or self._runner.lane_of(arrival.decoded.event)
        waiting = self._lanes.get(lane)
        if waiting is None:
            self._lanes[lane] = deque((arrival,))
            self._spawn(self._serve(lane))
        else:
            waiting.append(arrival)

    async def _serve(self, lane: str) -> None:
        waiting = self._lanes[lane]
        try:
            while waiting and not self._stopping.is_set():
                await self._handle_all([waiting.popleft() for _ in range(min(len(waiting), BURST))])
        finally:
            del self._lanes[lane]

    async def _handle_all(self, burst: Sequence[Arrival]) -> None:
        attempts = Attempts(PAUSES)
        while True:
            if len(burst) == 1:
                await self._handle(burst[0])
            else:
                together = self._runner.burst()
                await asyncio.gather(*(self._handle(one, together) for one in burst))
            before, burst = len(burst), [one for one in burst if not one.done and one.error is not None]
            if not burst or self._stopping.is_set():
                return
            if len(burst) < before:
                attempts.reset()  # the journal takes some
            self._counts.retried += len(burst)
            await pause(attempts, self._stopping)
            if self._stopping.is_set():
                return

    async def _handle(self, arrival: Arrival, burst: Any = None) -> None:
        decoded = arrival.decoded
        assert decoded is not None
        arrival.error = None
        try:
            taken = await self._runner.take(decoded.event, decoded.id, decoded.trace, decoded.at, burst)
        except Exception as error:
            arrival.failures += 1
            if _goes_away(arrival, error):
                arrival.error = error
            else:
                told = str(error) if isinstance(error, SagalogError) else f"handling it raised {type(error).__name__}"
                self._declined(arrival, told)
            return
        if not taken.outcomes:
            self._declined(arrival, f"no saga takes this {type(decoded.event).__name__}, so it is for no instance")
            return
        self._counts.duplicates += taken.duplicate
        self._handled(arrival)


def _goes_away(arrival: Arrival, error: BaseException) -> bool:
    """Say whether another attempt may help."""
    if isinstance(error, NotAllReachedError):  # those that have it know it
        error = error.why
    if isinstance(error, (JournalUnavailableError, OutcomeUnknownError, RunnerStoppedError)):
        return True
    own = isinstance(error, (InstanceFullError, TooManyKeptError, SagaParkedError)) or not isinstance(
        error, SagalogError
    )
    return own and arrival.failures < _OTHER_ATTEMPTS


async def pause(attempts: Attempts, stopping: asyncio.Event) -> None:
    """Wait before another attempt, or until the source stops."""
    seconds = attempts.failed()
    assert seconds is not None  # without end
    await is_set_within(stopping, seconds)
