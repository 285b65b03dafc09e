"""Which message ids an instance remembers: at least for the window, at most the declared number, at a constant size."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagalog import Complete, DefinitionError, Outcome, Saga, Status
from sagalog.decision.advance import advance
from sagalog.decision.draft import Draft
from sagalog.decision.inbox import FEW, remember
from sagalog.decision.message import Message
from sagalog.decision.record import FORMAT, SagaRecord, decode_record, encode_record

from ..orders import Asked, Placed
from .test_step import PID, Told

NOW = datetime(2030, 1, 1, tzinfo=UTC)
WEEK = timedelta(days=7)


class Short(Told):
    name = "short"
    remembered_messages = 5


SAGA = Told()
REGISTRY = Told.registry()


def empty() -> SagaRecord:
    return SagaRecord(FORMAT, Status.RUNNING, b"{}", NOW, NOW)  # type: ignore[arg-type]


def draft(record: SagaRecord | None, now: datetime = NOW, saga: Saga[Any] = SAGA) -> Draft:
    return Draft(saga, REGISTRY, PID, record, 0, now, WEEK)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(1, 100)), min_size=1, max_size=40), st.sampled_from([70, 1000])
)
def test_an_id_is_remembered_for_the_window_unless_too_many_came_after_it(
    bursts: list[tuple[int, int]], most: int
) -> None:
    record, now = empty(), NOW
    record.inbox = ids = []  # type: ignore[assignment]  # as in a draft
    sent: list[tuple[datetime, str]] = []
    for hours, count in bursts:
        now += timedelta(hours=hours)
        for _ in range(count):
            sent.append((now, f"m{len(sent)}"))
            remember(record, ids, sent[-1][1], now, most, WEEK)
    young = [one for at, one in sent if now - at < WEEK][-most:]
    assert list(record.inbox) == [one for _, one in sent][-len(record.inbox) :]
    assert set(young) <= set(record.inbox)
    assert len(record.inbox) <= most
    assert sum(count for _, count in record.inbox_ages) <= len(record.inbox)


def test_ids_that_are_older_than_the_window_are_forgotten_and_the_record_stays_small() -> None:
    record, sizes = draft(None), []
    advance(record, Message("m0", Placed("a")))
    stored = record.frozen()
    for hour in range(1, 2000):
        made = draft(stored, NOW + timedelta(hours=hour))
        assert advance(made, Message(f"message {hour:05}", Asked("a"))) is Outcome.HANDLED
        stored = decode_record(encode_record(made.frozen() or made.record))  # type: ignore[arg-type]
        sizes.append(len(encode_record(stored)))
    assert stored is not None
    assert 7 * 24 <= len(stored.inbox) <= 8 * 24
    assert len(stored.inbox_ages) <= 9
    assert max(sizes[1000:]) < 1.05 * max(sizes[:300]), "it grows"
    late = draft(stored, NOW + timedelta(hours=2000))
    assert late.knows(f"message {2000 - 7 * 24 + 1:05}")
    assert not late.knows(f"message {2000 - 9 * 24:05}")


def test_of_a_few_ids_none_is_forgotten_for_its_age() -> None:
    made = draft(None)
    advance(made, Message("m0", Placed("a")))
    stored = made.frozen()
    for month in range(1, FEW):
        made = draft(stored, NOW + timedelta(days=30 * month))
        advance(made, Message(f"m{month}", Asked("a")))
        stored = made.frozen()
    assert stored is not None
    assert len(stored.inbox) == FEW
    assert stored.inbox_ages == ()


def test_no_more_ids_are_kept_than_the_saga_says() -> None:
    made = draft(None, saga=Short())
    for number in range(20):
        assert advance(made, Message(f"m{number}", Placed("a"))) is Outcome.HANDLED
    stored = made.frozen()
    assert stored is not None
    assert stored.inbox == ("m15", "m16", "m17", "m18", "m19")
    assert advance(draft(stored, saga=Short()), Message("m15", Placed("a"))) is Outcome.DUPLICATE


@pytest.mark.parametrize("count", [FEW - 1, FEW, 3 * FEW])
def test_a_duplicate_within_one_batch_is_known_whatever_the_number_before_it(count: int) -> None:
    made = draft(None)
    for number in range(count):
        assert advance(made, Message(f"m{number}", Placed("a"))) is Outcome.HANDLED
    for number in range(count):
        assert advance(made, Message(f"m{number}", Placed("a"))) is Outcome.DUPLICATE
        assert advance(made, Message(f"new {number}", Placed("a"))) is Outcome.HANDLED


def test_ids_that_no_sender_gave_are_not_in_the_inbox_and_only_the_last_are_kept() -> None:
    stored: SagaRecord | None = None
    for number in range(500):
        made = draft(stored)
        assert advance(made, Message(f"own {number}", Placed("a"), own=True)) is Outcome.HANDLED
        stored = made.frozen()
    assert stored is not None
    assert stored.inbox == ()
    assert stored.recent == tuple(f"own {number}" for number in range(400, 500))
    assert draft(stored).knows("own 499")


def test_ids_that_no_sender_gave_are_known_for_the_step_after_theirs_however_many_they_were() -> None:
    made = draft(None)
    for number in range(256):
        assert advance(made, Message(f"own {number}", Placed("a"), own=True)) is Outcome.HANDLED
        assert advance(made, Message(f"own {number}", Placed("a"), own=True)) is Outcome.DUPLICATE
    stored = made.frozen()  # it is saved, the answer is lost, and another worker takes a step
    made = draft(stored)
    assert advance(made, Message("another worker has it,", Placed("a"), own=True)) is Outcome.HANDLED
    again = draft(made.frozen())
    for number in range(256):
        assert advance(again, Message(f"own {number}", Placed("a"), own=True)) is Outcome.DUPLICATE
    for number in range(10):
        again = draft(again.frozen())
        assert advance(again, Message(f"later {number}", Placed("a"), own=True)) is Outcome.HANDLED
    stored = again.frozen()
    assert stored is not None
    assert len(stored.recent) == 100


@pytest.mark.parametrize("every", [timedelta(days=1), timedelta(hours=5)])
def test_a_key_that_is_used_again_and_again_remembers_what_came_within_retention(every: timedelta) -> None:
    Told.act = staticmethod(lambda state, event: Complete())
    try:
        stored: SagaRecord | None = None
        for life in range(400):
            made = draft(stored, NOW + every * life)
            assert advance(made, Message(f"start {life}", Placed("a"))) is Outcome.HANDLED
            assert advance(made, Message(f"end {life}", Asked("a"))) is Outcome.HANDLED
            stored = made.frozen()
    finally:
        Told.act = staticmethod(lambda state, event: None)
    assert stored is not None
    assert stored.incarnation == 400
    within = WEEK // every
    assert 2 * within <= len(stored.inherited) <= 2 * within * 9 / 8 + 2
    assert len(stored.inherited_ages) <= 10
    last = draft(stored, NOW + every * 399)
    assert all(last.knows(f"{what} {life}") for what in ("start", "end") for life in range(400 - within, 400))


def test_a_new_life_knows_what_the_last_one_consumed_until_retention_has_ended() -> None:
    Told.act = staticmethod(lambda state, event: Complete())
    try:
        made = draft(None)
        advance(made, Message("m1", Placed("a")))
        advance(made, Message("m2", Asked("a")))
        advance(made, Message("m3", Placed("a")))
    finally:
        Told.act = staticmethod(lambda state, event: None)
    stored = made.frozen()
    assert stored is not None
    assert (stored.incarnation, stored.inbox, stored.inherited) == (2, ("m3",), ("m1", "m2"))
    assert draft(stored, NOW + WEEK - timedelta(seconds=1)).knows("m1")
    assert not draft(stored, NOW + WEEK).knows("m1")
    stored.inherited_ages = ()  # as it was written before there were any
    stored.status = Status.COMPLETED
    for later, remembered in ((WEEK / 2, ("m1", "m2", "m3")), (WEEK, ("m3",))):
        made = draft(stored, NOW + later)
        assert advance(made, Message("m4", Placed("a"))) is Outcome.HANDLED
        assert made.record is not None
        assert made.record.inherited == remembered


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("remembered_messages", 0),
        ("remembered_messages", True),
        ("remembered_messages", 5.0),
        ("remembered_for", timedelta()),
        ("remembered_for", 7),
    ],
)
def test_a_window_that_remembers_nothing_is_refused_when_the_class_is_made(name: str, value: Any) -> None:
    with pytest.raises(DefinitionError, match=f"Forgetful.{name}"):
        type("Forgetful", (Told,), {name: value, "name": "forgetful"})
