"""Clocks and events whose moments are in a time zone: a day is 24 hours, also where the wall clock is changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from sagalog import (
    Clock,
    DefinitionError,
    EventClock,
    InMemoryJournal,
    ManualClock,
    Saga,
    SagaRunner,
    SetTimer,
    StepContext,
    on,
    starts,
)
from sagalog.testing import Scenario

BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 10, 24, 12, tzinfo=BERLIN)  # 13 hours before the clocks are set back


@dataclass
class Ordered:
    id: str


@dataclass
class Overdue:
    id: str


@dataclass
class Seen:
    now: list[datetime] = field(default_factory=list)


class Waiting(Saga[Seen]):
    name = "waiting"

    @starts(Ordered, key="id")
    def ordered(self, state: Seen, event: Ordered, context: StepContext) -> SetTimer:
        state.now.append(context.now)
        return SetTimer("due", Overdue(event.id), after=timedelta(hours=24))

    @on(Overdue, key="id")
    def overdue(self, state: Seen, event: Overdue, context: StepContext) -> None:
        state.now.append(context.now)


class OnTheWall:
    """Tells what the clock on a wall in Berlin shows."""

    def __init__(self) -> None:
        self.inner = ManualClock(NOON)

    def now(self) -> datetime:
        return self.inner.now().astimezone(BERLIN)

    async def sleep_until(self, moment: datetime) -> None:
        await self.inner.sleep_until(moment)


async def due_of(clock: Clock, **at: Any) -> tuple[datetime, list[datetime]]:
    journal = InMemoryJournal()
    async with SagaRunner(journal, sagas=[Waiting], clock=clock) as runner:
        await runner.handle(Ordered("a"), **at)
        state = await runner.state(Waiting, "a")
        ((_, due),) = await journal.due_ids("saga::", datetime(2030, 1, 1, tzinfo=UTC))
    return due, state.now


@pytest.mark.parametrize("clock", [ManualClock(NOON), OnTheWall()], ids=lambda one: type(one).__name__)
async def test_a_timer_of_24_hours_over_the_change_of_the_clocks_takes_24_hours(clock: Clock) -> None:
    due, now = await due_of(clock)
    assert due - NOON.astimezone(UTC) == timedelta(hours=24)
    assert (now[0].tzinfo, now[0]) == (UTC, NOON)


@pytest.mark.parametrize("clock", [EventClock(), EventClock(NOON)], ids=["begun by an event", "begun at a moment"])
async def test_so_does_one_that_an_event_of_that_zone_sets(clock: EventClock) -> None:
    due, now = await due_of(clock, at=NOON)
    assert due - NOON.astimezone(UTC) == timedelta(hours=24)
    assert (now[0].tzinfo, now[0]) == (UTC, NOON)
    assert clock.now().tzinfo is UTC


def test_a_clock_that_is_advanced_by_24_hours_is_24_hours_later() -> None:
    clock = ManualClock(NOON)
    clock.advance(timedelta(hours=24))
    assert clock.now() - NOON.astimezone(UTC) == timedelta(hours=24)
    clock.advance_to(datetime(2026, 10, 26, 12, tzinfo=BERLIN))
    assert clock.now().tzinfo is UTC


@pytest.mark.parametrize("told", [datetime(2026, 10, 24, 12), "noon", None, datetime.max.replace(tzinfo=UTC)], ids=str)  # noqa: DTZ001
async def test_a_clock_that_tells_no_moment_is_refused_at_start_with_nothing_stored(told: Any) -> None:
    class Odd(OnTheWall):
        def now(self) -> datetime:
            return told  # type: ignore[no-any-return]

    runner = SagaRunner(InMemoryJournal(), sagas=[Waiting], clock=Odd())
    with pytest.raises(DefinitionError, match=r"Odd\.now\(\) returns must"):
        await runner.start()


def test_a_scenario_that_begins_at_a_moment_of_that_zone_counts_in_utc() -> None:
    scenario = Scenario(Waiting, now=NOON).when(Ordered("a"))
    assert scenario.now.tzinfo is UTC
    assert scenario.timers == {"due": NOON.astimezone(UTC) + timedelta(hours=24)}
    assert scenario.after(timedelta(hours=24)).timers == {}
    for odd in (datetime(2026, 1, 1), datetime.max.replace(tzinfo=UTC), "noon"):  # noqa: DTZ001
        with pytest.raises(DefinitionError, match="now= of a Scenario must"):
            Scenario(Waiting, now=odd)  # type: ignore[arg-type]
