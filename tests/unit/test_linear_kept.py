"""What kept messages cost grows with how many there are, in whatever order they came, and whatever they wait for.

As in test_linear.py, the lines that are run are counted, and how often all that is kept is copied.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Any

import pytest

from sagalog import Complete, Enter, Saga, on, starts
from sagalog.decision.advance import advance
from sagalog.decision.draft import Draft
from sagalog.decision.dropping import drop_kept
from sagalog.decision.kept import next_kept
from sagalog.decision.message import Message, kept_message
from sagalog.decision.record import SagaRecord

from .test_linear import NOW, lines

COUNTS = (100, 1_000)


class Phase(Enum):
    CLOSED = 1
    OPEN = 2
    SEALED = 3


@dataclass
class Count:
    """What the handlers below have taken."""

    taken: int = 0


@dataclass
class Begun:
    id: str


@dataclass
class Opened:
    id: str


@dataclass
class Ended:
    id: str


@dataclass
class Waits:
    """For the phase."""

    id: str


@dataclass
class Stays:
    """For a phase that never comes."""

    id: str


@dataclass
class Numbered:
    id: str
    n: int
    sender: str = ""


class Gate(Saga[Count]):
    name = "gate"
    phases = Phase
    unexpected = "keep"
    most_kept = 10**9
    remembered_messages = 10**9

    @starts(Begun, key="id")
    def begun(self, state: Count, event: Begun) -> None: ...

    @on(Opened, key="id")
    def opened(self, state: Count, event: Opened) -> Any:
        return Enter(Phase.OPEN)

    @on(Ended, key="id")
    def ended(self, state: Count, event: Ended) -> Any:
        return Complete()

    @on(Waits, key="id", during=Phase.OPEN)
    def waited(self, state: Count, event: Waits) -> None:
        state.taken += 1

    @on(Stays, key="id", during=Phase.SEALED)
    def stayed(self, state: Count, event: Stays) -> None: ...

    @on(Numbered, key="id", sequence="n")
    def numbered(self, state: Count, event: Numbered) -> None:
        state.taken += 1


SAGA, REGISTRY = Gate(), Gate.registry()


def draft(record: SagaRecord | None) -> Draft:
    return Draft(SAGA, REGISTRY, "saga::gate::a", record, 1, NOW, timedelta(days=7))


def take(made: Draft, events: Iterable[Any]) -> int:
    """Let a draft take these and whatever of the kept ones has its moment; return how often what is kept was copied."""
    copies, before = 0, None
    for at, event in enumerate(events):
        advance(made, Message(f"{type(event).__name__} {at}", event))
        assert made.record is not None
        while True:
            copies += made.record.kept is not before
            before = made.record.kept
            one = next_kept(made)
            if one is None:
                break
            advance(made, kept_message(one, REGISTRY))
    return copies


def keeping(events: Iterable[Any]) -> SagaRecord:
    """Return the record of an instance that keeps all of these."""
    made = draft(None)
    take(made, [Begun("a"), *events])
    record = made.frozen()
    assert record is not None
    return record


def shuffled(count: int) -> list[Any]:
    numbers = list(range(2, count + 2))
    random.Random(count).shuffle(numbers)
    return [Numbered("a", n) for n in numbers]


def forwards(count: int) -> list[Any]:
    return [Numbered("a", n) for n in range(2, count + 2)]


def backwards(count: int) -> list[Any]:
    return forwards(count)[::-1]


def for_a_phase(count: int) -> list[Any]:
    return [Waits("a") for _ in range(count)]


def behind_others(count: int) -> list[Any]:
    """Each waits behind others whose moment does not come."""
    return [*(Stays("a") for _ in range(count // 2)), *(Waits("a") for _ in range(count // 2))]


SHAPES: list[tuple[Callable[[int], list[Any]], Any]] = [
    (shuffled, Numbered("a", 1)),
    (forwards, Numbered("a", 1)),
    (backwards, Numbered("a", 1)),
    (for_a_phase, Opened("a")),
    (behind_others, Opened("a")),
    (for_a_phase, Ended("a")),
    (shuffled, Ended("a")),
]


def check(work: Callable[[int], int]) -> None:
    """`work` returns how often what is kept was copied."""
    found: dict[int, int] = {}
    for count in COUNTS:
        copies: list[int] = []
        found[count] = lines(lambda count=count, copies=copies: copies.append(work(count)))  # type: ignore[misc]
        assert copies[0] <= 3, f"copied so often, for {count:,} messages"
    assert found[1_000] < 11 * found[100] + 500, found


@pytest.mark.parametrize(("shape", "last"), SHAPES, ids=lambda one: getattr(one, "__name__", type(one).__name__))
def test_what_is_kept_is_released_in_one_draft(shape: Callable[[int], list[Any]], last: Any) -> None:
    records = {count: keeping(shape(count)) for count in COUNTS}
    assert [len(record.kept) for record in records.values()] == [*COUNTS]

    def release(count: int) -> int:
        made = draft(records[count])
        copies = take(made, [last])
        record = made.frozen()
        assert record is not None
        left = sum(one.event.type == "Stays" for one in record.kept)
        assert len(record.kept) == left
        assert len(record.handled) == (1 if type(last) is Ended else count - left + 1)
        return copies

    check(release)


@pytest.mark.parametrize("shape", [shuffled, for_a_phase])
def test_what_is_kept_in_one_draft(shape: Callable[[int], list[Any]]) -> None:
    begun = keeping([])
    check(lambda count: take(draft(begun), shape(count)))


def test_each_of_many_events_in_one_draft_releases_one_that_was_kept() -> None:
    records = {count: keeping([Numbered("a", 2 * n) for n in range(1, count + 1)]) for count in COUNTS}
    check(lambda count: take(draft(records[count]), [Numbered("a", 2 * n - 1) for n in range(1, count + 1)]))


def test_many_are_dropped_at_once_and_their_numbers_are_passed() -> None:
    records = {count: keeping(forwards(count)) for count in COUNTS}

    def drop(count: int) -> int:
        made = draft(records[count])
        record = made.record
        assert record is not None
        drop_kept(record)
        copies = take(made, [Numbered("a", 1)])
        assert made.record is not None
        assert made.record.sequences == {"Numbered": count + 2}
        return copies

    check(drop)


def test_others_may_look_at_what_is_kept_while_many_wait() -> None:
    record = keeping(shuffled(1_000))
    made = draft(record)
    take(made, [Opened("a")])
    once = lines(lambda: take(made, [Opened("a")]))
    assert once < 500
    assert made.frozen() is not None
    assert made.record is not None
    assert made.record.kept is record.kept
