"""What a handler is called with, and what is made of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from sagalog import (
    Complete,
    DefinitionError,
    Outcome,
    Refused,
    Saga,
    Schedule,
    Send,
    SetTimer,
    StepContext,
    on,
    on_refused,
    starts,
)
from sagalog.decision.advance import advance
from sagalog.decision.checked import actions_of, plan_of
from sagalog.decision.draft import Draft
from sagalog.decision.message import Message

NOW = datetime(2030, 1, 1, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")


@dataclass
class Placed:
    id: str


@dataclass
class Paid:
    id: str


@dataclass
class State:
    seen: str = ""


class Timely(Saga[State]):
    name = "timely"

    @starts(Placed, key="id", again="ignore")
    def placed(self, state: State, event: Placed, context: StepContext) -> None:
        state.seen = f"{context.now.isoformat()} {context.correlation_id} {context.message_id}"

    @on(Paid, key="id")
    def paid(self, state: State, event: Paid) -> None:
        state.seen = "paid"

    @on_refused(Paid)
    def refused_paid(self, state: State, refused: Refused[Paid], context: StepContext) -> None:
        state.seen = context.message_id


def test_a_handler_that_takes_a_context_is_given_one_and_another_is_not() -> None:
    draft = Draft(Timely(), Timely.registry(), "saga::timely::a::b", None, 0, NOW, timedelta(days=1))
    assert advance(draft, Message("m", Placed("a::b"))) is Outcome.HANDLED
    assert advance(draft, Message("n", Paid("a::b"))) is Outcome.HANDLED
    state = State()
    Timely().handle_in(state, Placed("a"), StepContext(NOW, "a", "m1"))
    assert state.seen == "2030-01-01T00:00:00+00:00 a m1"
    Timely().handle(state, Paid("a"))
    assert state.seen == "paid"
    with pytest.raises(DefinitionError, match=r"Timely\.placed\(\) takes the context"):
        Timely().handle(state, Placed("a"))


def test_what_a_second_starting_event_means_is_declared() -> None:
    assert Timely().again(Placed("a")) == "ignore"
    assert Timely().again(Paid("a")) == "handle"
    with pytest.raises(DefinitionError, match="again= of Placed"):
        starts(Placed, key="id", again="never")  # type: ignore[arg-type]


def test_an_action_that_a_generator_returns_is_taken_last() -> None:
    def handler() -> Any:
        yield Send(Paid("a"))
        return Complete()

    assert actions_of(handler(), Timely()) == [Send(Paid("a")), Complete()]


def test_every_form_of_answer_gives_its_actions() -> None:
    async def coroutine(value: Any) -> Any:
        return value

    async def stream() -> AsyncIterator[Any]:
        yield Complete()

    def generator() -> Any:
        yield Send(Paid("a"))
        return [Complete()]

    saga = Timely()
    for given, expected in (
        (coroutine(None), []),
        (coroutine(Complete()), [Complete()]),
        (coroutine(generator()), [Send(Paid("a")), Complete()]),
        (stream(), [Complete()]),
        (coroutine(stream()), [Complete()]),
    ):
        found = actions_of(given, saga)
        assert not isinstance(found, list)

        async def wait(found: Any = found) -> Any:
            return await found

        assert asyncio.run(wait()) == expected
    for plain in ((Complete(),), iter([Complete()])):
        assert actions_of(plain, saga) == [Complete()]
    with pytest.raises(DefinitionError):
        actions_of("Complete", saga)


def due(action: Any, now: datetime = NOW) -> datetime:
    moment: datetime = plan_of([action], Timely(), Timely.registry(), now)[0][1][1]
    return moment


def test_timers_are_in_utc_from_the_moment_they_come_in() -> None:
    later = due(SetTimer("t", Paid("a"), at=datetime(2030, 10, 27, 2, 15, tzinfo=BERLIN, fold=1)))
    sooner = due(SetTimer("t", Paid("a"), at=datetime(2030, 10, 27, 2, 30, tzinfo=BERLIN)))
    assert sooner < later
    assert later.tzinfo is UTC
    before = datetime(2030, 10, 26, 12, tzinfo=BERLIN)
    assert due(SetTimer("t", Paid("a"), after=timedelta(hours=24)), before) - before.astimezone(UTC) == timedelta(1)


@pytest.mark.parametrize(
    "action",
    [
        SetTimer("t", Paid("a"), at=datetime.max.replace(tzinfo=UTC)),
        SetTimer("t", Paid("a"), at=datetime.min.replace(tzinfo=BERLIN)),
        SetTimer("t", Paid("a"), after=timedelta.max),
        Schedule(Paid("a"), after=timedelta(days=366 * 7_970)),
        Schedule(Paid("a"), after=5),  # type: ignore[arg-type]
    ],
)
def test_a_moment_that_journals_cannot_carry_is_refused(action: Any) -> None:
    with pytest.raises(DefinitionError, match="a time from 0001-01-02 to 9998-12-31|needs a timedelta"):
        due(action)
