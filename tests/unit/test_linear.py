"""What a step costs grows with what it does: ten times the messages, commands or timers, ten times the work.

The lines that are run are counted, and how often a sequence of the record is made anew, where copying would show.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import FrameType
from typing import Any

import pytest

from sagalog import Compensate, Outcome, Send, SetTimer, on
from sagalog.decision.advance import advance
from sagalog.decision.draft import Draft
from sagalog.decision.message import Message, refusal, unhold
from sagalog.decision.parking import park
from sagalog.decision.record import SagaRecord, decode_record, encode_record
from sagalog.decision.timers import due_timer

from ..orders import Asked, Charge, OrderState, Overdue, Placed, Refund
from .test_step import PID, Told

NOW = datetime(2030, 1, 1, tzinfo=UTC)


class Quiet(Told):
    """Keeps nothing of its timers, so that its state does not grow."""

    name = "quiet"

    @on(Overdue, key="order_id")
    def overdue(self, state: OrderState, event: Overdue) -> None: ...


SAGA, REGISTRY = Quiet(), Quiet.registry()
SEQUENCES = ("handled", "inbox", "recent", "outbox", "undo", "held", "timers")


def draft(record: SagaRecord | None = None, version: int = 1) -> Draft:
    return Draft(SAGA, REGISTRY, PID, record, version, NOW, timedelta(days=7))


def started() -> SagaRecord:
    made = draft()
    advance(made, Message("start", Placed("a")))
    record = made.frozen()
    assert record is not None
    return record


def lines(work: Callable[[], Any]) -> int:
    """Count the lines of Python that are run, each turn of a loop and of a comprehension for itself."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


class Watched(Draft):
    """Counts how often each sequence of its record is another object than after the message before."""

    __slots__ = ("made", "seen")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.made = dict.fromkeys(SEQUENCES, 0)
        self.seen: dict[str, Any] = {}

    def look(self) -> None:
        for name in SEQUENCES:
            found = getattr(self.record, name)
            if found is not self.seen.get(name):
                self.made[name] += 1
            self.seen[name] = found


def in_one_draft(take: Callable[[Watched, int], Any], record: SagaRecord | None = None) -> Callable[[int], Watched]:
    def work(count: int) -> Watched:
        made = Watched(SAGA, REGISTRY, PID, record or started(), 1, NOW, timedelta(days=7))
        for number in range(count):
            take(made, number)
            made.look()
        made.frozen()
        return made

    return work


def event(made: Draft, number: int) -> None:
    assert advance(made, Message(f"m{number}", Asked("a"), own=True)) is Outcome.HANDLED


def sent(made: Draft, number: int) -> None:
    assert advance(made, Message(f"m{number}", Asked("a"))) is Outcome.HANDLED


def many_commands(count: int) -> SagaRecord:
    Told.act = staticmethod(lambda state, event: [Send(Charge("a"), undo=Refund("a")) for _ in range(count)])
    made = draft(started())
    event(made, 0)
    record = made.frozen()
    assert record is not None
    assert len(record.outbox) == len(record.undo) == count + 1
    return record


def many_timers(count: int) -> SagaRecord:
    Told.act = staticmethod(
        lambda state, event: [SetTimer(f"t{n}", Overdue("a"), after=timedelta(seconds=n)) for n in range(count)]
    )
    made = draft(started())
    event(made, 0)
    record = made.frozen()
    assert record is not None
    assert len(record.timers) == count
    return record


def parked(count: int) -> SagaRecord:
    made = draft(started())
    park(made, "because", Message("culprit", Asked("a")))
    for number in range(count):
        assert advance(made, Message(f"h{number}", Asked("a"))) is Outcome.HELD
    record = made.frozen()
    assert record is not None
    return record


@pytest.fixture(autouse=True)
def _still() -> Any:
    Told.act = staticmethod(lambda state, event: None)
    yield
    Told.act = staticmethod(lambda state, event: None)


def test_events_of_one_draft() -> None:
    Told.act = staticmethod(lambda state, event: [Send(Charge("a"), undo=Refund("a"))])
    check(in_one_draft(event))


def test_events_of_senders_in_one_draft() -> None:
    check(in_one_draft(sent), but={"inbox"})  # of so many ids as the saga says


def test_timers_that_are_set_in_one_draft_one_by_one() -> None:
    numbers = iter(range(10**6))
    Told.act = staticmethod(
        lambda state, event: SetTimer(f"t{next(numbers)}", Overdue("a"), after=timedelta(seconds=1))
    )
    check(in_one_draft(event))


def test_events_that_a_parked_instance_holds() -> None:
    record = parked(1)

    def hold(made: Draft, number: int) -> None:
        assert advance(made, Message(f"m{number}", Asked("a"))) is Outcome.HELD

    check(in_one_draft(hold, record))


def check(work: Callable[[int], Any], *, but: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    found: dict[int, int] = {}
    for count in (1_000, 10_000):
        made: list[Any] = []
        found[count] = lines(lambda count=count, made=made: made.append(work(count)))  # type: ignore[misc]
        if isinstance(made[0], Watched):
            copied = {name: times for name, times in made[0].made.items() if times > 3 and name not in but}
            assert not copied, f"made anew so often, for {count:,} messages: {copied}"
    assert found[10_000] < 10.5 * found[1_000] + 1000, found


def test_commands_of_one_step() -> None:
    check(many_commands)


def test_timers_of_one_step() -> None:
    check(many_timers)


def test_the_compensation_of_many_commands() -> None:
    records = {count: many_commands(count) for count in (1_000, 10_000)}
    Told.act = staticmethod(lambda state, event: Compensate())
    check(lambda count: event(draft(records[count], 2), 1))


def test_the_acceptance_of_many_commands() -> None:
    records = {count: many_commands(count) for count in (1_000, 10_000)}

    def accept(count: int) -> None:
        made = draft(records[count], 2)
        made.accept([command.id for command in records[count].outbox])
        assert made.record is not None
        assert made.record.outbox == ()

    check(accept)


def test_a_refusal_among_many_commands() -> None:
    records = {count: many_commands(count) for count in (1_000, 10_000)}

    def refuse(count: int) -> None:
        last = records[count].outbox[-1]
        made = draft(records[count], 2)
        told = refusal(REGISTRY.unpack(last.command), f"{PID}/{last.id}", "no")
        assert advance(made, told) is Outcome.HANDLED

    check(refuse)


def test_timers_that_fire_in_one_draft(monkeypatch: pytest.MonkeyPatch) -> None:
    sorted_so_far: list[int] = []
    heapify = heapq.heapify

    def counted(items: list[Any]) -> None:
        sorted_so_far.append(len(items))
        heapify(items)

    monkeypatch.setattr(heapq, "heapify", counted)
    records = {count: many_timers(count) for count in (1_000, 10_000)}
    Told.act = staticmethod(lambda state, event: None)

    def fire(count: int) -> None:
        made = draft(records[count], 2)
        fired = 0
        while (message := due_timer(made, NOW + timedelta(days=1))) is not None:
            assert advance(made, message) is Outcome.HANDLED
            fired += 1
        assert fired == count

    check(fire)
    assert sorted_so_far == [1_000, 10_000]


def test_held_messages_that_are_replayed_in_one_draft() -> None:
    records = {count: parked(count) for count in (1_000, 10_000)}

    def replay(count: int) -> None:
        made = draft(records[count], 2)
        record = made.touch()
        held, record.parked, record.held = record.held, "", ()
        for one in held:
            assert advance(made, unhold(one, REGISTRY)) is Outcome.HANDLED

    check(replay)


@pytest.mark.parametrize("record_of", [many_commands, many_timers, parked])
def test_the_bytes_of_a_record_grow_with_what_is_in_it(record_of: Callable[[int], SagaRecord]) -> None:
    sizes = [len(encode_record(record_of(count))) for count in (1_000, 10_000)]
    assert sizes[1] < 11 * sizes[0]
    assert decode_record(encode_record(record_of(10))).outbox is not None
