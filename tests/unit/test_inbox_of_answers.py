"""The answers of a command are remembered together: each of them is known, no other is, and they take the room of one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from sagalog import Status
from sagalog.decision.draft import Draft
from sagalog.decision.ids import command_id, reply_id, reply_parts
from sagalog.decision.inbox import FEW, count_of, each
from sagalog.decision.record import FORMAT, SagaRecord, decode_record, encode_record

from .test_step import PID, Told

NOW = datetime(2030, 1, 1, tzinfo=UTC)
WEEK = timedelta(days=7)
SAGA, REGISTRY = Told(), Told.registry()


def draft(record: SagaRecord, now: datetime = NOW) -> Draft:
    return Draft(SAGA, REGISTRY, PID, record, 0, now, WEEK)


def empty() -> SagaRecord:
    return SagaRecord(FORMAT, Status.RUNNING, b"{}", NOW, NOW)  # type: ignore[arg-type]


ids = st.one_of(
    st.builds(
        reply_id,
        st.sampled_from([command_id(PID, entry) for entry in ("1/0", "1/1", "11/1")]),
        st.sampled_from(["Done", "Done2", "Progress"]),
        st.integers(0, 12),
    ),
    st.sampled_from(["saga::told::a/1/0/reply/Done/0-3", "m/0-9", "0-9", "7", f"{PID}/1/0/reply/Done"]),
    st.builds("m{}".format, st.integers(0, 200)),
)


@settings(deadline=None)
@given(st.lists(st.lists(ids, max_size=30), max_size=8), st.booleans())
def test_what_was_consumed_is_known_and_nothing_else(steps: list[list[str]], full: bool) -> None:
    record = empty()
    if full:
        record.inbox = tuple(f"before{n}" for n in range(FEW))
    consumed = set(record.inbox)
    for step in steps:
        made = draft(record)
        for one in step:
            stored = made.record
            assert stored is not None
            assert made.knows(one) is (one in consumed or covered(one, consumed)), one
            if not made.knows(one):
                made.remember(stored, one)
                consumed.add(one)
            assert made.knows(one)
        frozen = made.frozen()
        assert frozen is not None
        record = decode_record(encode_record(frozen))
        assert set(each(record.inbox)) == set(each(consumed))


@settings(deadline=None)
@given(st.lists(st.tuples(st.lists(ids, max_size=30), st.booleans(), st.booleans()), max_size=8), st.integers(0, 9))
def test_what_was_consumed_and_taken_back_is_not_known(
    parts: list[tuple[list[str], bool, bool]], before_them: int
) -> None:
    record = empty()
    record.inbox = tuple(f"before{n}" for n in range(FEW - before_them))
    consumed, made = set(record.inbox), draft(record)
    for step, copied, undone in parts:
        before, known = made.copied() if copied or undone else None, set(consumed)
        for one in step:
            assert made.record is not None
            assert made.knows(one) is (one in consumed or covered(one, consumed)), one
            if not made.knows(one):
                made.remember(made.record, one)
                consumed.add(one)
            assert made.knows(one)
        if undone:
            made.go_back(before)
            consumed = known


def covered(one: str, consumed: set[str]) -> bool:
    """A sender cannot bring such an id (ids.sender_id): it is of ours, whichever way it is written."""
    reply = reply_parts(one)
    if reply is None:
        return False
    known = [reply_parts(other) for other in consumed]
    return any(run is not None and run[0] == reply[0] and run[1] <= reply[1] <= run[2] for run in known)


def test_thousands_of_answers_take_the_room_of_one() -> None:
    record, sent = empty(), command_id(PID, "1/0")
    for number in range(3000):
        made = draft(record, NOW + timedelta(seconds=number))
        assert made.record is not None
        made.remember(made.record, reply_id(sent, "Progress", number))
        if number == 1000:
            made.remember(made.record, "from a sender")
        frozen = made.frozen()
        assert frozen is not None
        record = frozen
    assert record.inbox == (reply_id(sent, "Progress", 0) + "-2999", "from a sender")
    assert count_of(record.inbox) == 3001
    made = draft(record)
    assert made.knows(reply_id(sent, "Progress", 2999))
    assert not made.knows(reply_id(sent, "Progress", 3000))
    assert not made.knows(reply_id(sent, "Progres", 5))
    assert not made.knows(reply_id(command_id(PID, "1/00"), "Progress", 5))


def test_what_is_dated_already_is_not_made_younger() -> None:
    """An id is remembered for the window at least, counted from itself: so a later one is not added to an old one."""
    record, sent = empty(), command_id(PID, "1/0")
    record.inbox = tuple(f"m{n}" for n in range(FEW - 1))
    made = draft(record)
    assert made.record is not None
    made.remember(made.record, reply_id(sent, "Done", 0))
    late = draft(made.frozen(), NOW + timedelta(days=1))  # type: ignore[arg-type]
    assert late.record is not None
    late.remember(late.record, "dates what came before it")
    late.remember(late.record, reply_id(sent, "Done", 1))
    assert late.record.inbox_ages
    assert late.record.inbox[-1] == reply_id(sent, "Done", 1)


def test_the_next_life_knows_the_answers_that_the_last_one_took() -> None:
    record, sent = empty(), command_id(PID, "1/0")
    made = draft(record)
    assert made.record is not None
    for number in range(5):
        made.remember(made.record, reply_id(sent, "Done", number))
    made.record.status = Status.COMPLETED
    following = draft(made.frozen())  # type: ignore[arg-type]
    following.record, _ = following.start()
    assert following.knows(reply_id(sent, "Done", 3))
    assert not following.knows(reply_id(sent, "Done", 5))


def test_an_answer_of_an_earlier_step_stays_known_when_this_step_takes_the_next_one() -> None:
    record = empty()
    first, second = (reply_id(command_id(PID, "1/0"), "Done", number) for number in range(2))
    record.inbox = (*(f"before{n}" for n in range(FEW)), first)
    made = draft(record)
    assert made.record is not None
    assert not made.knows(second)
    made.remember(made.record, second)  # the two are one id in the inbox now
    assert made.knows("before0")
    assert made.knows(first)
    assert made.knows(second)
    assert not made.knows(reply_id(command_id(PID, "1/0"), "Done", 2))
