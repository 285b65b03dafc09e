"""Gathers of a saga with phases: an end that its phase does not expect, and answers whose handler does not run."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from sagalog import Gather, Saga, Send, leg, on, starts, when_all
from sagalog.testing import Scenario

from ..waybills import (
    Ask,
    Begun,
    Closed,
    Counted,
    KeptEnd,
    Load,
    SomeRefused,
    Unheard,
    Waybill,
    WaybillSaga,
    answered,
)


def scenario() -> Scenario[Waybill]:
    return Scenario(WaybillSaga).answers(Load, lambda command: answered(command))


def parked(waybill: Scenario[Any]) -> str:
    record = waybill._instance.record
    assert record is not None
    return record.parked


def test_an_end_that_its_phase_keeps_is_handled_once_a_phase_expects_it() -> None:
    waybill = scenario().when(Begun("1"))
    assert [type(event).__name__ for event in waybill.kept] == ["KeptEnd"]
    assert waybill.gathers == {}
    waybill.when(Closed("1"))
    assert waybill.state.log == ["counted"] * 3 + ["close", "closed", "KeptEnd: 3 of 3"]
    assert waybill.kept == []


def test_an_end_that_its_phase_ignores_is_over_without_a_handler() -> None:
    waybill = scenario().when(Begun("1", end="ignored"))
    assert (waybill.gathers, waybill.kept) == ({}, [])
    waybill.when(Closed("1"))
    assert waybill.state.log == ["counted"] * 3 + ["close", "closed"]


def test_an_end_that_its_phase_refuses_parks_the_instance_and_says_whose_end_it_is() -> None:
    waybill = scenario().when(Begun("1", end="raised"))
    assert waybill.state.log == ["counted"] * 3
    assert parked(waybill) == (
        "RaisedEnd is the end of the gather 'loads', and its phase is OPEN, which does not expect it (CLOSED does): "
        "`retry` keeps it until then, `skip` drops it"
    )


def test_an_end_that_is_refused_counts_as_any_other_where_a_leg_was_refused() -> None:
    waybill = Scenario(WaybillSaga).refuses(Load).when(Begun("1", wait=True))
    assert waybill.kept == [SomeRefused("1")]
    waybill.when(Closed("1"))
    assert waybill.state.log == ["close", "closed", "SomeRefused: 0 of 3, not (0, 1, 2)"]


@pytest.mark.parametrize("end", ["kept", "ignored", "raised"])
def test_the_last_answer_may_enter_the_phase_that_expects_the_end(end: str) -> None:
    waybill = scenario().when(Begun("1", end=end, legs=1, answer="closing"))
    assert waybill.state.log == ["closed", f"{end.capitalize()}End: 1 of 1"]
    assert waybill.kept == []


def test_where_there_is_no_room_to_keep_an_end_the_instance_is_parked() -> None:
    class NarrowSaga(WaybillSaga):
        name = "narrow"
        most_kept = 1

        @starts(Begun, key="id")
        def begun(self, state: Waybill, event: Begun) -> Any:
            yield Gather("first", [Send(Load("1", 0))], then=KeptEnd("1"))
            yield Gather("second", [Send(Load("1", 1))], then=KeptEnd("1"))

    waybill = Scenario(NarrowSaga).answers(Load, lambda command: answered(command)).when(Begun("1"))
    assert len(waybill.kept) == 1
    assert parked(waybill) == (
        "KeptEnd is the end of the gather 'second', and its phase is OPEN, which does not expect it (CLOSED does), and "
        "most_kept messages are kept already: `retry` keeps it until then, `skip` drops it"
    )


def test_a_leg_counts_when_its_phase_ignores_the_answer() -> None:
    waybill = scenario().when(Begun("1", answer="unheard", end="kept"))
    assert waybill.gathers == {}
    assert waybill.state.log == []
    waybill.when(Closed("1"))
    assert waybill.state.log == ["close", "closed", "KeptEnd: 3 of 3"]


def test_a_request_is_answered_when_its_phase_ignores_the_answer() -> None:
    waybill = scenario().answers(Ask, Unheard("1")).when(Begun("1", asks=True))
    assert waybill.awaited == []
    waybill.after(timedelta(hours=2))
    assert "silence" not in waybill.state.log


def test_an_event_that_is_no_answer_settles_no_request_by_being_ignored() -> None:
    waybill = scenario().when(Begun("1", asks=True)).when(Unheard("1"))
    assert len(waybill.awaited) == 1


@dataclass
class Started:
    id: str
    legs: int = 3


@dataclass
class Measured:
    id: str
    n: int


@dataclass
class Measure:
    id: str
    n: int


@dataclass
class AllMeasured:
    id: str


@dataclass
class Log:
    id: str = ""
    log: list[str] = field(default_factory=list)


class MeterSaga(Saga[Log]):
    name = "meter"

    @starts(Started, key="id", again="ignore")
    def started(self, state: Log, event: Started) -> Any:
        state.id = event.id
        state.log.append("started")
        yield Gather("all", event.legs, then=AllMeasured(event.id))

    @leg("all")
    def one(self, state: Log, number: int) -> Send:
        return Send(Measure(state.id, number))

    @on(Measured, key="id", sequence="n")
    def measured(self, state: Log, event: Measured) -> None:
        state.log.append(str(event.n))

    @on(AllMeasured, key="id")
    def all_measured(self, state: Log, event: AllMeasured) -> Any:
        state.log.append("all")


def test_a_leg_counts_when_its_answer_has_a_number_that_was_handled() -> None:
    meter = Scenario(MeterSaga).answers(Measure, lambda command: Measured(command.id, 1)).when(Started("1"))
    assert meter.state.log == ["started", "1", "all"]


def test_a_leg_counts_when_its_answer_is_the_event_that_the_saga_was_started_by() -> None:
    meter = Scenario(MeterSaga).answers(Measure, lambda command: Started(command.id)).when(Started("1"))
    assert meter.state.log == ["started", "all"]


def test_a_join_does_not_count_what_its_phase_ignores() -> None:
    class Joining(WaybillSaga):
        name = "joining"

        @when_all(Counted, Unheard)
        def both(self, state: Any) -> Any:
            state.log.append("both")

    waybill = Scenario(Joining).when(Begun("1"))
    waybill.when(Unheard("1")).when(Counted("1"))
    assert "both" not in waybill.state.log
    waybill.when(Closed("1")).when(Unheard("1"))
    assert waybill.state.log[-1] == "both"
