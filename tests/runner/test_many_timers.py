"""Thousands of timers of one instance: all fire, in their order, and the event loop stays free meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sagalog import (
    EventClock,
    InMemoryJournal,
    JournalUnavailableError,
    ManualClock,
    RunnerSettings,
    Saga,
    SagaRunner,
    SetTimer,
    on,
    starts,
)
from sagalog.runner import fire
from sagalog.runner.due import DueLoop
from sagalog.runner.stranded import Stranded

MANY = 5000


@dataclass
class Begun:
    id: str
    timers: int


@dataclass
class Rang:
    id: str
    number: int


@dataclass
class Asked:
    id: str


@dataclass
class Counted:
    rang: int = 0
    in_order: bool = True
    seen_by_asked: list[int] = field(default_factory=list)


class Bells(Saga[Counted]):
    name = "bells"

    @starts(Begun, key="id")
    def begun(self, state: Counted, event: Begun) -> Any:
        for number in range(event.timers):
            yield SetTimer(f"t{number}", Rang(event.id, number), after=timedelta(seconds=1 + number))

    @on(Rang, key="id")
    def rang(self, state: Counted, event: Rang) -> Any:
        state.in_order = state.in_order and event.number == state.rang
        state.rang += 1

    @on(Asked, key="id")
    def asked(self, state: Counted, event: Asked) -> Any:
        state.seen_by_asked.append(state.rang)


class Restless(Saga[Counted]):
    name = "restless"

    @starts(Begun, key="id")
    def begun(self, state: Counted, event: Begun) -> Any:
        return SetTimer("t", Rang(event.id, 0), after=timedelta(0))

    @on(Rang, key="id")
    def rang(self, state: Counted, event: Rang) -> Any:
        state.rang += 1
        return SetTimer("t", Rang(event.id, 0), after=timedelta(0)) if state.rang < 3000 else None


def runner_of(saga: type[Saga[Any]], clock: Any) -> SagaRunner:
    return SagaRunner(
        InMemoryJournal(), sagas=[saga], clock=clock, settings=RunnerSettings(max_payload_bytes=16 * 1024 * 1024)
    )


async def state_of(runner: SagaRunner, saga: str) -> Counted:
    instance = runner._started.caches[saga].instance("a")
    assert instance.cached.record is not None
    state: Counted = runner.sagas[0].decode_state(instance.cached.record.state_bytes())
    return state


async def test_an_event_in_event_time_comes_after_all_timers_before_it() -> None:
    start = datetime(2030, 1, 1, tzinfo=UTC)
    async with runner_of(Bells, EventClock()) as runner:
        await runner.handle(Begun("a", MANY), at=start)
        await runner.handle(Asked("a"), at=start + timedelta(seconds=MANY + 1))
        state = await state_of(runner, "bells")
    assert (state.rang, state.in_order, state.seen_by_asked) == (MANY, True, [MANY])


async def test_timers_of_one_instance_fire_in_parts() -> None:
    clock = ManualClock()
    async with runner_of(Bells, clock) as runner:
        await runner.handle(Begun("a", MANY))
        clock.advance(timedelta(seconds=MANY + 1))
        saves = runner.counters.saves
        while runner.counters.timers < MANY:
            await asyncio.sleep(0)
        parts = runner.counters.saves - saves
        state = await state_of(runner, "bells")
    assert (state.rang, state.in_order) == (MANY, True)
    assert parts > 1


async def test_a_machine_on_which_every_timer_is_late_saves_a_share_of_them_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each save writes all that are left, so a save for each timer would cost the square of their number."""
    monkeypatch.setattr(fire, "STRETCH_SECONDS", -1.0)
    monkeypatch.setattr(fire, "_LONGEST_SECONDS", 3600.0)
    clock = ManualClock()
    async with runner_of(Bells, clock) as runner:
        await runner.handle(Begun("a", 1000))
        clock.advance(timedelta(seconds=1001))
        saves = runner.counters.saves
        async with asyncio.timeout(40):
            while runner.counters.timers < 1000:
                await asyncio.sleep(0)
        parts = runner.counters.saves - saves
        state = await state_of(runner, "bells")
    assert (state.rang, state.in_order) == (1000, True)
    assert 16 < parts < 200


async def test_a_timer_that_sets_itself_again_at_once_leaves_room_for_events() -> None:
    async with runner_of(Restless, None) as runner:
        await runner.handle(Begun("a", 1))
        await runner.settle()
        while runner.counters.timers < 3000:
            await asyncio.sleep(0.001)
        state = await state_of(runner, "restless")
    assert state.rang == 3000


@pytest.mark.parametrize(
    "fails", [(DueLoop, "scan"), (Stranded, "take_over")], ids=["the scan", "what comes behind it"]
)
async def test_a_scan_that_failed_delays_no_timer_until_the_next_poll(
    fails: tuple[type, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is due next is known by then, or asked for again soon: the next poll of the journal may be an hour away."""
    journal, hourly, failed = InMemoryJournal(), RunnerSettings(due_poll=timedelta(seconds=3600)), asyncio.Event()
    async with SagaRunner(journal, sagas=[Bells], settings=hourly) as first:
        await first.handle(Begun("a", 1))
    kind, name = fails
    real = getattr(kind, name)

    async def once(*arguments: Any) -> Any:
        if failed.is_set():
            return await real(*arguments)
        failed.set()
        raise JournalUnavailableError("away")

    monkeypatch.setattr(kind, name, once)
    async with SagaRunner(journal, sagas=[Bells], settings=hourly) as second:
        async with asyncio.timeout(40):
            while second.counters.timers == 0:
                await asyncio.sleep(0.01)
    assert failed.is_set()
