"""A command whose answer has a deadline: what ends the wait, what a late answer means, and what is refused at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sagalog import Compensate, Complete, DefinitionError, Saga, Send, SetTimer, starts
from sagalog.decision.entries import Request
from sagalog.decision.record import SagaRecord, decode_record, encode_record
from sagalog.decision.requests import overdue
from sagalog.testing import Scenario

from ..asking import Answered, Ask, Asking, AskSaga, Confirmed, Silence, Told, Wanted

MINUTE = timedelta(minutes=1)
START = datetime(2030, 1, 1, tzinfo=UTC)


def log(scenario: Scenario[Asking]) -> list[str]:
    return scenario.state.log[1:]


def test_without_an_answer_the_event_comes_when_the_time_is_over() -> None:
    asked = Scenario(AskSaga).given(Wanted("a"))
    assert asked.awaited == [("Ask", START + 2 * MINUTE)]
    assert list(asked.timers) == ["over"]
    asked.after(2 * MINUTE - timedelta(microseconds=1))
    assert log(asked) == []
    asked.after(timedelta(microseconds=1))
    assert log(asked) == ["silence"]
    assert asked.awaited == []


def test_what_the_handler_answers_ends_the_wait() -> None:
    asked = Scenario(AskSaga).answers(Ask, lambda command: Answered(command.id)).given(Wanted("a"))
    assert asked.awaited == []
    assert log(asked.after(MINUTE * 60)) == ["answered"]


def test_an_event_that_is_no_answer_does_not_end_the_wait() -> None:
    asked = Scenario(AskSaga).given(Wanted("a"), Answered("a"), Told("a", "x"))
    assert log(asked.after(MINUTE * 60)) == ["answered", "x", "silence"]


def test_with_a_declared_type_an_event_of_it_ends_the_wait_wherever_it_comes_from() -> None:
    asked = Scenario(AskSaga).answers(Ask, Answered("a")).given(Wanted("a", by_type=True))
    assert len(asked.awaited) == 1, "its handler answers that it has begun, and not what is waited for"
    asked.when(Confirmed("a"))
    assert asked.awaited == []
    assert log(asked.after(MINUTE * 60)) == ["answered", "confirmed"]


def test_of_several_that_wait_for_one_type_the_oldest_is_answered_first() -> None:
    asked = Scenario(AskSaga).given(Wanted("a", by_type=True), Told("a", "again"))
    asked.when(Confirmed("a"))
    assert asked.awaited == [("Ask", START + 5 * MINUTE)]
    asked.when(Confirmed("a"))
    assert asked.awaited == []
    asked.when(Confirmed("a"))
    assert log(asked.after(MINUTE * 60)) == ["again", "confirmed", "confirmed", "confirmed"]


def test_a_refusal_ends_the_wait() -> None:
    asked = Scenario(AskSaga).refuses(Ask).given(Wanted("a"))
    assert asked.awaited == []
    assert log(asked.after(MINUTE * 60)) == ["refused"]


@pytest.mark.parametrize(
    ("late", "expected"), [("handle", ["silence", "confirmed"]), ("ignore", ["silence"]), ("park", ["silence"])]
)
def test_a_late_answer_meets_its_policy(late: str, expected: list[str]) -> None:
    asked = Scenario(AskSaga).given(Wanted("a", late, by_type=True)).after(2 * MINUTE)
    asked.when(Confirmed("a"), message_id="late")
    assert log(asked) == expected
    record: Any = asked._instance.record
    assert bool(record.parked) is (late == "park")
    if late == "park":
        assert record.parked.startswith("Confirmed answers Ask (1/0) after its deadline")
        assert [held.id for held in record.held] == ["late"]
        return
    assert not record.requests
    before = asked._instance._version
    asked.when(Confirmed("a"), message_id="late")
    assert asked._instance._version == before, "it is known, and consumed"
    assert log(asked.when(Confirmed("a"))) == [*expected, "confirmed"], "only one answers it"


def test_its_end_and_its_compensation_drop_deadline_and_request() -> None:
    class Ending(Saga[Asking]):
        name = "ending"

        @starts(Wanted, key="id")
        def wanted(self, state: Asking, event: Wanted) -> Any:
            yield Send(Ask(event.id), reply_within=MINUTE, otherwise=event)
            yield SetTimer("t", event, after=MINUTE / 2)
            if state.log:
                yield Complete() if event.late == "handle" else Compensate()
            state.log.append("x")

    for late in ("handle", "ignore"):
        ending = Scenario(Ending).given(Wanted("a", late), Wanted("a", late))
        record: Any = ending._instance.record
        assert (record.requests, record.timers) == ((), {})


def test_the_late_ones_that_are_kept_are_bounded() -> None:
    record = SagaRecord(1, "running", b"null", START, START)  # type: ignore[arg-type]
    record.requests = tuple(Request(f"{n}/0", "Ask", "Confirmed", "ignore") for n in range(1500))
    for n in range(1200):
        overdue(record, f"answer/{n}/0")
    late = [request.id for request in record.requests if request.overdue]
    assert len(late) == 1000
    assert late[-1] == "1199/0"
    assert sum(not request.overdue for request in record.requests) == 300


def test_a_record_without_requests_is_stored_as_before() -> None:
    asked = Scenario(AskSaga).given(Wanted("a"), Told("a", "x"))
    record: Any = asked._instance.record
    assert b"requests" in encode_record(record)
    record.requests = ()
    assert b"requests" not in encode_record(record)
    assert decode_record(encode_record(record)).requests == ()


WRONG = [
    (Send(Ask("a"), reply_within=MINUTE), "reply_within= and otherwise= together"),
    (Send(Ask("a"), otherwise=Silence("a")), "reply_within= and otherwise= together"),
    (Send(Ask("a"), reply=Confirmed), "reply_within= and otherwise= together"),
    (Send(Ask("a"), reply_within=timedelta(0), otherwise=Wanted("a")), "a time above zero"),
    (Send(Ask("a"), reply_within=-MINUTE, otherwise=Wanted("a")), "a time above zero"),
    (Send(Ask("a"), reply_within=5, otherwise=Wanted("a")), "needs a timedelta"),  # type: ignore[arg-type]
    (Send(Ask("a"), reply_within=timedelta.max, otherwise=Wanted("a")), "a time from 0001-01-02 to 9998-12-31"),
    (
        Send(Ask("a"), reply_within=MINUTE, otherwise=Silence("a")),
        "has a Silence as otherwise=, which no handler takes",
    ),
    (Send(Ask("a"), reply_within=MINUTE, otherwise=Wanted("a"), reply=Silence), "waits for a Silence as reply="),
    (Send(Ask("a"), reply_within=MINUTE, otherwise=Wanted("a"), reply="x"), "an event type as reply="),  # type: ignore[arg-type]
    (Send(Ask("a"), reply_within=MINUTE, otherwise=Wanted("a"), late="drop"), "late="),  # type: ignore[arg-type]
    (
        [Complete(), Send(Ask("a"), reply_within=MINUTE, otherwise=Wanted("a"))],
        "after the saga's end and would outlive it",
    ),
    (SetTimer("answer/1/0", Wanted("a"), after=MINUTE), "does not begin with schedule/ or answer/"),
]


@pytest.mark.parametrize(("actions", "told"), WRONG)
def test_a_wrong_request_is_refused_before_anything_is_stored(actions: Any, told: str) -> None:
    class Wrong(Saga[Asking]):
        name = "wrong"

        @starts(Wanted, key="id")
        def wanted(self, state: Asking, event: Wanted) -> Any:
            return actions

    scenario = Scenario(Wrong)
    with pytest.raises(DefinitionError, match=told):
        scenario.when(Wanted("a"))
    assert scenario.status is None
