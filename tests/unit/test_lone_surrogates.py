"""A text that is no Unicode: whatever carries it is refused by an error that says what is wrong, where, and what helps."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from sagalog import (
    Call,
    CodecError,
    Compensate,
    Complete,
    Gather,
    InvalidEventError,
    ItinerarySaga,
    Saga,
    SagalogError,
    Schedule,
    Send,
    SetTimer,
    activity,
    on,
    starts,
)
from sagalog.definition.codec import check_event, encode
from sagalog.testing import Scenario

BAD = "\ud800"


@dataclass
class Begun:
    id: str
    text: str = ""


@dataclass
class Told:
    id: str
    text: str = BAD


@dataclass
class Tell:
    text: str = BAD


@dataclass
class Note:
    id: str = ""
    text: str = ""


def saga_of(*actions: Any, state: str = "") -> type[Saga[Note]]:
    class NoteSaga(Saga[Note]):
        name = "note"

        @starts(Begun, key="id")
        def begun(self, note: Note, event: Begun) -> Any:
            note.text = state
            yield from actions

        @on(Told, key="id")
        def told(self, note: Note, event: Told) -> None: ...

    return NoteSaga


@pytest.mark.parametrize(
    ("actions", "what"),
    [
        ([Send(Tell())], "Tell"),
        ([Send(Tell("fine"), undo=Tell())], "Tell"),
        ([Send(Tell("fine"), reply_within=timedelta(1), otherwise=Told("1"))], "Told"),
        ([Schedule(Tell(), timedelta(1))], "Tell"),
        ([SetTimer("t", Told("1"), after=timedelta(1))], "Told"),
        ([Gather("g", [Send(Tell())], then=Told("1", "fine"))], "Tell"),
        ([Gather("g", [Send(Tell("fine"))], then=Told("1"))], "Told"),
        ([Compensate((Tell(),))], "Tell"),
    ],
)
def test_what_a_handler_asks_for_names_type_and_field(actions: list[Any], what: str) -> None:
    with pytest.raises(CodecError, match=f"^a {what} cannot be stored: in text, a string contains a lone surrogate"):
        Scenario(saga_of(*actions)).when(Begun("1"))


@pytest.mark.parametrize("result", [BAD, [BAD], {BAD: 1}])
def test_a_result(result: Any) -> None:
    with pytest.raises(CodecError, match=r"^a (str|list|dict) cannot be stored: a string contains a lone surrogate"):
        Scenario(saga_of(Complete(result))).when(Begun("1"))


def test_a_state() -> None:
    with pytest.raises(CodecError, match="^a Note cannot be stored: in text, a string contains a lone surrogate"):
        Scenario(saga_of(state=BAD)).when(Begun("1"))


def test_an_event_from_outside() -> None:
    with pytest.raises(InvalidEventError, match="in text, a string contains a lone surrogate"):
        check_event(Begun("1", BAD), 1_000_000)


@dataclass
class Trip:
    request: Begun | None = None
    flight: str | None = None


class TripSaga(ItinerarySaga[Trip]):
    name = "trip"
    starts_with, key = Begun, "id"

    @activity
    async def flight(self, trip: Trip, call: Call) -> str:
        return BAD


def test_the_result_of_an_activity() -> None:
    with pytest.raises(SagalogError, match="lone surrogate"):
        Scenario(TripSaga).when(Begun("1")).when_done("flight", BAD)


def test_neither_the_text_nor_a_cause_that_quotes_it_is_in_the_error() -> None:
    with pytest.raises(CodecError) as caught:
        encode(Tell("secret" + BAD))
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
