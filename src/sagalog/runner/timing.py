"""How time passes for the steps of a runner: by a clock, or by the events of a log.

clock ─► [timing] ─► engine, and the phases that date something
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

from ..decision.record import SagaRecord
from ..errors import DefinitionError
from .clock import Clock, EventClock

_EVER = datetime.min.replace(tzinfo=UTC)
_FOR_EVER = timedelta(days=365_000)


class Timing(Protocol):
    """What the phases ask about time.

    `dated`: events bring their time. `alone`: no other worker is at work on the journal, so no lease runs out, nothing is
    shared, and what is in memory is current. `in_order`: each thing comes after everything that the one before it has led
    to.
    """

    dated: bool
    alone: bool
    in_order: bool

    def kept_for(self, retention: timedelta) -> timedelta:
        """Return for how long an instance that has ended is remembered."""

    def of_undated(self) -> datetime | None:
        """Return the time of an event from outside that brings none; None: when its turn comes."""

    def reach(self, at: datetime) -> None:
        """Take an event that brings its time. Raises DefinitionError where events do not bring it."""

    def of_turn(self, now: datetime, record: SagaRecord | None) -> datetime:
        """Return the time at which a turn begins, for an instance with that record."""

    def moved_on(self, now: datetime) -> datetime:
        """Return the time of what follows in a step whose time was `now`."""

    def of_timer(self, now: datetime, due_at: datetime | None) -> datetime:
        """Return the time at which a timer fires."""

    def of_answer(self, record: SagaRecord | None) -> datetime | None:
        """Return the time of what a command handler answers; None: when its turn comes."""

    @property
    def timers_since(self) -> datetime | None:
        """Since when the timers count that fire together; None: since the last step."""


class ByClock:
    """Time passes by itself, and other workers may be at work on the journal."""

    dated: bool = False
    alone: bool = False
    in_order: bool = False
    timers_since: datetime | None = None

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now

    def kept_for(self, retention: timedelta) -> timedelta:
        return retention

    def of_undated(self) -> datetime | None:
        return None

    def reach(self, at: datetime) -> None:
        raise DefinitionError(
            "at= is only for a runner whose clock is an EventClock: SagaRunner(..., clock=EventClock())"
        )

    def of_turn(self, now: datetime, record: SagaRecord | None) -> datetime:
        return now

    def moved_on(self, now: datetime) -> datetime:
        return max(now, self._now())  # it may have been set back

    def of_timer(self, now: datetime, due_at: datetime | None) -> datetime:
        return now

    def of_answer(self, record: SagaRecord | None) -> datetime | None:
        return None


class ByEvents:
    """The events of a log let time pass, one worker is alone on the journal, and nothing is ever forgotten."""

    dated: bool = True
    alone: bool = True
    in_order: bool = True
    timers_since: datetime | None = _EVER

    def __init__(self, clock: EventClock) -> None:
        self._clock = clock

    def kept_for(self, retention: timedelta) -> timedelta:
        return _FOR_EVER  # the log may be fed again at any time

    def of_undated(self) -> datetime | None:
        return self._clock.now()  # a line of a log without a time has that of the lines before it

    def reach(self, at: datetime) -> None:
        self._clock.advance_to(at)

    def of_turn(self, now: datetime, record: SagaRecord | None) -> datetime:
        return now if record is None else record.updated_at  # only its own events and timers let time pass for it

    def moved_on(self, now: datetime) -> datetime:
        return now

    def of_timer(self, now: datetime, due_at: datetime | None) -> datetime:
        return now if due_at is None else due_at

    def of_answer(self, record: SagaRecord | None) -> datetime | None:
        return None if record is None else record.updated_at  # when its handler was called


def timing_of(clock: Clock, now: Callable[[], datetime]) -> Timing:
    """Return how time passes with that clock, which tells it by `now`."""
    return ByEvents(clock) if isinstance(clock, EventClock) else ByClock(now)
