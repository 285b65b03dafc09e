"""In which order the timers of one instance fire."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from sagalog import Status
from sagalog.decision.entries import Timer
from sagalog.decision.record import FORMAT, SagaRecord
from sagalog.decision.timer_queue import TimerQueue
from sagalog.definition.codec import Typed

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def timer(number: int, seconds: int = 0, *, send: bool = False) -> Timer:
    return Timer(f"{number}/0", NOW + timedelta(seconds=seconds), Typed("Overdue", msgspec.Raw(b"{}")), send)


def record(**timers: Timer) -> SagaRecord:
    return SagaRecord(FORMAT, Status.RUNNING, msgspec.Raw(b"{}"), NOW, NOW, timers=timers)


def fire(queue: TimerQueue, of: SagaRecord) -> str | None:
    found = queue.first(of)
    if found is None:
        return None
    del of.timers[found[0]]
    return found[0]


def test_timers_fire_by_their_moment_and_those_of_one_moment_as_they_were_set() -> None:
    of = record(c=timer(1), b=timer(2), a=timer(3), first=timer(4, -1))
    queue = TimerQueue(of.timers)
    assert [fire(queue, of) for _ in range(5)] == ["first", "c", "b", "a", None]


def test_a_timer_that_is_set_while_others_fire_comes_behind_those_of_its_moment() -> None:
    of = record(z=timer(1), y=timer(2), x=timer(3))
    queue = TimerQueue(of.timers)
    assert [fire(queue, of), fire(queue, of)] == ["z", "y"]
    for number, name in enumerate("ba"):
        of.timers[name] = timer(4 + number)
        queue.add(name, of.timers[name])
    assert [fire(queue, of) for _ in range(4)] == ["x", "b", "a", None]


def test_a_timer_that_was_replaced_fires_at_its_new_moment_only() -> None:
    of = record(a=timer(1), b=timer(2, 5))
    queue = TimerQueue(of.timers)
    of.timers["a"] = timer(3, 10)
    queue.add("a", of.timers["a"])
    assert [fire(queue, of) for _ in range(3)] == ["b", "a", None]


def test_a_parked_instance_fires_what_it_sends_only_and_the_rest_after_its_repair() -> None:
    of = record(a=timer(1), b=timer(2, send=True), c=timer(3))
    of.parked = "because"
    queue = TimerQueue(of.timers)
    assert [fire(queue, of), fire(queue, of)] == ["b", None]
    of.parked = ""
    assert [fire(queue, of) for _ in range(3)] == ["a", "c", None]
