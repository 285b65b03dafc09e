"""Where a runner takes the time from: the machine, a test, or the events themselves."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Protocol

from ..errors import DefinitionError
from ..journal.protocol import TellsTime
from ..waiting import CountedTime, elapsed
from .arguments import check_duration, check_moment


class Clock(Protocol):
    """The time of timers, leases and retention: aware datetimes, which the runner turns into UTC."""

    def now(self) -> datetime:
        """Return the current moment."""

    async def sleep_until(self, moment: datetime) -> None:
        """Return at the first moment not before `moment`."""


_AGAIN_SECONDS = 30.0  # after which the server is asked again
_ROUND_TRIPS = 5
_SHORT_SECONDS = 0.002  # a round trip that needs no second one


def in_utc(clock: Clock) -> Callable[[], datetime]:
    """Return what tells the time of `clock` in UTC, where a day is as long as any other. Raises DefinitionError.

    Of two moments of a time zone, datetime subtracts and adds what the wall clock shows.
    """
    moment = clock.now()
    check_moment(f"what {type(clock).__name__}.now() returns", moment)
    return clock.now if moment.tzinfo is UTC else lambda: clock.now().astimezone(UTC)


class SystemClock:
    """The time of the machine."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep_until(self, moment: datetime) -> None:
        while (left := (moment - self.now()).total_seconds()) > 0:
            await asyncio.sleep(min(left, 3600.0))


class ServerClock(SystemClock):
    """The time of the journal's server, so that workers whose clocks differ agree on leases and timers.

    The server is asked at start and again every half minute; `now` asks nobody. In between the seconds since then are
    counted, because this machine's clock may be set: timers would fire early, and what is remembered be forgotten.
    """

    def __init__(self, server: TellsTime) -> None:
        self._server = server
        self._time = CountedTime(datetime.now(UTC))  # until the server has told its own
        self._synchronized = False

    def now(self) -> datetime:
        return self._time.now()

    async def sleep_until(self, moment: datetime) -> None:
        while (left := (moment - self.now()).total_seconds()) > 0:
            await asyncio.sleep(min(left, _AGAIN_SECONDS))

    async def synchronize(self) -> None:
        """Measure the difference, unless that was done a short while ago. Raises what the journal raises.

        It is known to half a round trip, so of some the shortest counts: the first may have opened a connection.
        """
        if self._synchronized and elapsed() - self._time.at_seconds < _AGAIN_SECONDS:
            return
        shortest = math.inf
        for _ in range(_ROUND_TRIPS):
            before = elapsed()
            told = await self._server.server_time()
            took = elapsed() - before
            if took < shortest:
                shortest, best, measured = took, told, before + took / 2
            if took <= _SHORT_SECONDS:
                break
        self._time, self._synchronized = CountedTime(best, measured), True


class ManualClock:
    """Time that you move yourself: `advance` wakes whoever sleeps up to the new time, in order."""

    def __init__(self, start: datetime = datetime(2030, 1, 1, tzinfo=UTC)) -> None:
        check_moment("start of a clock", start)
        self._now = start.astimezone(UTC)
        self._sleepers: list[tuple[datetime, int, asyncio.Future[None]]] = []
        self._order = count()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self._now.isoformat()}>"

    def now(self) -> datetime:
        return self._now

    async def sleep_until(self, moment: datetime) -> None:
        if not isinstance(moment, datetime) or moment.tzinfo is None:
            raise DefinitionError(f"a clock sleeps until an aware datetime, not {type(moment).__name__}")
        if moment > self._now:
            future = asyncio.get_running_loop().create_future()
            heapq.heappush(self._sleepers, (moment, next(self._order), future))
            await future

    def advance(self, by: timedelta) -> None:
        """Move on by a duration, not negative."""
        check_duration("what a clock is advanced by", by)
        try:
            moment = self._now + by
        except OverflowError:
            raise DefinitionError(f"a clock cannot be advanced by {by}: that is past the end of the calendar") from None
        self.advance_to(moment)

    def advance_to(self, moment: datetime) -> None:
        """Move on to a moment; one that has passed changes nothing."""
        check_moment("the moment that a clock is moved to", moment)
        self._now = max(self._now, moment.astimezone(UTC))
        while self._sleepers and self._sleepers[0][0] <= self._now:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class EventClock(ManualClock):
    """Time that follows the events: each `handle(event, at=...)` advances it.

    Before an event is handled, the timers of its instance that fell due before it fire at their own time, so that a
    log of years runs through in minutes. Timers of instances that receive no further event fire in
    `SagaRunner.settle`. The events of one instance come one after the other, each after the commands of the one before
    it are accepted and what they were answered is handled, at the time of the step that sent them. One runner at a
    time works on the journal.

    So the same log, in the order of its times, gives the same history, whatever the speed, also where it is fed again,
    as a whole or in part, or a run was killed. Each event needs a message id of its own, and command handlers that
    answer the same, for the instance that asked: what comes from another one, such as the end of a child, comes when it
    does. For that, nothing is forgotten in event time: no retention ends, an event that is passed over is remembered, and
    one that is older than the life it meets is not for it. One that was refused with an error may come again with another
    time; with the same one it is a duplicate as soon as something came behind it. An event without `at` comes at the time
    that the events before it have moved the clock to. A log that is fed in parts is to be cut between two moments: an
    event that found no instance in one part is recognised in the next one only by being older than a life that has begun
    since.

    It begins at `start`, or else with its first event, wherever that lies; until then it shows 1970.
    """

    def __init__(self, start: datetime | None = None) -> None:
        super().__init__(_EPOCH if start is None else start)
        self._begun = start is not None

    @property
    def begun(self) -> bool:
        """An event has brought a time, or the clock was given one to begin at."""
        return self._begun

    def advance_to(self, moment: datetime) -> None:
        """Move on to the time of an event; one that is older than the newest changes nothing."""
        if not self._begun:
            check_moment("the moment that a clock is moved to", moment)
            self._now, self._begun = min(self._now, moment.astimezone(UTC)), True
        super().advance_to(moment)
