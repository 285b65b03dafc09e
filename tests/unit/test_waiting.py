"""One policy for all who try again: bounded, with a pause, cancellable."""

from __future__ import annotations

import asyncio
import re
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sagalog
from sagalog.waiting import Attempts, Waiting, is_set_within


def pauses(waiting: Waiting, chance: float = 1.0) -> list[float]:
    """Return the pauses until there is no other attempt, on a clock that only they move."""
    clock = [0.0]
    attempts = Attempts(waiting, clock=lambda: clock[0], chance=lambda: chance)
    found = []
    while (pause := attempts.failed()) is not None:
        found.append(pause)
        clock[0] += pause
    return found


def test_pauses_grow_up_to_the_longest_and_attempts_are_counted() -> None:
    assert pauses(Waiting(attempts=5, first=1.0, factor=3.0, most=5.0)) == [1.0, 3.0, 5.0, 5.0]
    assert pauses(Waiting(attempts=1)) == []


def test_the_last_attempt_begins_when_the_time_is_over() -> None:
    assert pauses(Waiting(first=1.0, factor=2.0, most=10.0, seconds=5.0)) == [1.0, 2.0, 2.0]
    assert pauses(Waiting(seconds=0.0)) == []


def test_what_is_left_of_rounded_pauses_is_not_waited_for() -> None:
    """A clock that only the pauses move would stand still."""
    waiting = Waiting(first=0.05, most=5.0, seconds=30.0)
    assert waiting.pause_seconds(12, 30.0 - 1e-14, 0.5) is None
    assert waiting.pause_seconds(12, 29.9, 0.5) == pytest.approx(0.1)


@given(
    st.integers(1, 20),
    st.floats(0.0001, 1.0),
    st.floats(1.0, 10.0),
    st.floats(0.0001, 5.0),
    st.floats(0, 1, exclude_max=True),
)
def test_each_pause_lies_between_half_and_all_of_its_bound(
    attempts: int, first: float, factor: float, most: float, chance: float
) -> None:
    found = pauses(Waiting(attempts, first, factor, most), chance)
    assert len(found) == attempts - 1
    for number, pause in enumerate(found):
        bound = min(most, first * factor**number)
        assert bound / 2 <= pause <= bound


def test_a_thousand_failures_do_not_overflow() -> None:
    assert Waiting(factor=10.0).pause_seconds(100_000, 0.0, 1.0) == 0.5


async def test_waiting_ends_at_a_cancellation() -> None:
    attempts = Attempts(Waiting(first=3600.0, most=3600.0))
    waits = asyncio.ensure_future(attempts.wait())
    await asyncio.sleep(0)
    waits.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits


async def test_the_last_failure_is_told_at_once_and_a_reset_begins_anew() -> None:
    attempts = Attempts(Waiting(attempts=2, first=0.0, most=0.0))
    assert [await attempts.wait(), await attempts.wait()] == [True, False]
    attempts.reset()
    assert await attempts.wait()
    told: list[bool] = []
    thread = threading.Thread(target=lambda: told.append(attempts.wait_in_thread()))
    thread.start()
    thread.join()
    assert told == [False]


def test_whoever_tries_again_waits_by_the_policy() -> None:
    """A pause that doubles is a retry loop of its own making; outside of the runner there is none left."""
    sources = Path(sagalog.__file__).parent
    own = {
        str(path.relative_to(sources))
        for path in sources.rglob("*.py")
        if path.relative_to(sources).parts[0] not in ("runner", "testing")
        and re.search(r"min\(\w+ \* 2|\* 2\*\*|tenacity|random\.uniform", path.read_text())
    }
    assert own == set()


@pytest.mark.parametrize("seconds", [0.0, 40.0])
async def test_an_event_that_is_set_is_seen_whatever_time_there_is_to_wait(seconds: float) -> None:
    event = asyncio.Event()
    if not seconds:
        assert not await is_set_within(event, seconds)
    event.set()
    assert await is_set_within(event, seconds)
