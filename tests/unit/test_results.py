"""What a saga completes with is stored like its state: whatever is accepted is read back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest

from sagalog import (
    Action,
    CodecError,
    Compensate,
    Complete,
    DefinitionError,
    Refused,
    Saga,
    Send,
    on,
    on_refused,
    schema,
    starts,
    upcast,
)
from sagalog.decision.record import decode_record, encode_record
from sagalog.definition.codec import Typed
from sagalog.definition.results import pack_result, result_type, unpack_result
from sagalog.testing import Scenario


@schema(version=2)
@dataclass
class Booking:
    number: str
    seats: list[int] = field(default_factory=list)


@upcast(Booking, from_version=1)
def _seat(old: dict[str, Any]) -> dict[str, Any]:
    return {"number": old["number"], "seats": [old["seat"]]}


@dataclass
class Asked:
    trip: str


@dataclass
class Told:
    trip: str
    how: str = ""


@dataclass
class Pay:
    trip: str


@dataclass
class PayBack:
    trip: str


@dataclass
class Trip:
    told: str = ""


class TripSaga(Saga[Trip]):
    name = "trip"
    messages = (Booking,)
    answer: Any = None

    @starts(Asked, key="trip")
    def asked(self, trip: Trip, event: Asked) -> Iterator[Action]:
        yield Send(Pay(event.trip), undo=PayBack(event.trip))

    @on(Told, key="trip")
    def was_told(self, trip: Trip, event: Told) -> Iterator[Action]:
        trip.told = event.how
        if event.how == "and pay":
            yield Send(Pay(event.trip))
        yield Complete(self.answer)

    @on_refused(Pay)
    def refused(self, trip: Trip, refused: Refused[Pay]) -> Iterator[Action]:
        if trip.told == "and pay":
            yield Compensate()


def unknown() -> Any:
    @dataclass
    class Unknown:
        n: int = 0

    return Unknown()


def completing_with(answer: Any) -> Scenario[Trip]:
    saga = TripSaga()
    saga.answer = answer
    return Scenario(saga).given(Asked("T-1"))


@pytest.mark.parametrize(
    "answer",
    [
        Booking("B-1", [1, 2]),
        "paid",
        "",
        0,
        False,
        1.5,
        b"\xff\x00",
        [1, "two", None],
        {"a": {"b": [True]}},
        (1, "two"),
        UUID(int=7),
        Decimal("1.10"),
        datetime(2030, 1, 1, 12, 30, tzinfo=UTC),
        date(2030, 1, 1),
        timedelta(minutes=3),
    ],
    ids=repr,
)
def test_a_result_comes_back_as_it_was(answer: Any) -> None:
    scenario = completing_with(answer).when(Told("T-1"))
    scenario.then(completed=True, result=answer)
    assert type(scenario.result) is type(answer)


@pytest.mark.parametrize(
    ("answer", "error", "named"),
    [
        (unknown(), DefinitionError, "Unknown is not declared"),
        (float("inf"), CodecError, "float"),
        ([Decimal(1)], CodecError, "list"),
        ({1: 2}, CodecError, "dict"),
        (object(), DefinitionError, "object is not declared"),
        ({1, 2}, DefinitionError, "set is not declared"),
        (Booking(7), CodecError, "Booking"),  # type: ignore[arg-type]
    ],
    ids=lambda one: type(one).__name__,
)
def test_a_result_that_could_not_be_read_back_is_refused_and_nothing_changes(
    answer: Any, error: type[Exception], named: str
) -> None:
    scenario = completing_with(answer)
    with pytest.raises(error, match=named):
        scenario.when(Told("T-1"))
    scenario.then(status="running", state={"told": ""}, result=None)


def test_a_saga_that_completes_without_a_result_has_none() -> None:
    completing_with(None).when(Told("T-1")).then(completed=True, result=None)


def test_a_result_is_taken_back_with_what_was_completed() -> None:
    """A command of the last step is refused: the saga has not completed after all."""
    scenario = completing_with("done").refuses(Pay).when(Told("T-1", "and pay"))
    scenario.then(compensated=True, result=None)


def test_the_next_life_begins_without_the_result_of_the_last_one() -> None:
    scenario = completing_with("done").given(Told("T-1")).when(Asked("T-1"))
    scenario.then(status="running", result=None)


def test_a_scenario_says_which_result_came_instead() -> None:
    scenario = completing_with(1).when(Told("T-1"))
    with pytest.raises(AssertionError, match="result: expected True"):
        scenario.then(result=True)


def test_an_old_result_is_upcast_when_it_is_read() -> None:
    stored = Typed("Booking", msgspec.Raw(b'{"number":"B-1","seat":4}'))
    assert unpack_result(stored, TripSaga.registry()) == Booking("B-1", [4])


@pytest.mark.parametrize(
    "stored",
    [
        Typed("Gone", msgspec.Raw(b"{}")),
        Typed("builtins:complex", msgspec.Raw(b"1")),
        Typed("builtins:int", msgspec.Raw(b'"x"')),
        Typed("Booking", msgspec.Raw(b"{}"), 3),
        Typed("Booking", msgspec.Raw(b"[]"), 2),
    ],
    ids=lambda one: f"{one.type} {one.version}",
)
def test_a_stored_result_that_cannot_be_read_is_an_error_of_ours(stored: Typed) -> None:
    with pytest.raises(CodecError, match="the result cannot be read"):
        unpack_result(stored, TripSaga.registry())


def test_a_record_without_a_result_is_stored_as_before_and_old_records_are_read() -> None:
    scenario = completing_with(None).given(Told("T-1"))
    assert scenario._instance.record is not None
    document = msgspec.json.decode(encode_record(scenario._instance.record))
    assert "result" not in document
    assert decode_record(msgspec.json.encode(document)).result is None


def test_the_type_of_a_plain_result_is_shown_without_its_module() -> None:
    registry = TripSaga.registry()
    assert result_type(pack_result(UUID(int=1), registry)) == "UUID"
    assert result_type(pack_result(Booking("B"), registry)) == "Booking"
