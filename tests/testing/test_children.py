"""Children in the scenario kit."""

from __future__ import annotations

import pytest

from sagalog.testing import Scenario

from ..families import (
    Fetch,
    Loaded,
    LorrySaga,
    Ordered,
    OrderSaga,
    ParcelSaga,
    Receipt,
    Release,
    Reserve,
    ShipParcel,
    Withdrawn,
)


def test_a_scenario_tells_which_children_were_started_and_lets_them_end() -> None:
    scenario = Scenario(OrderSaga).when(Ordered("a", 2))
    scenario.then(sent=[Reserve("a")], started=[ShipParcel("a-0"), ShipParcel("a-1")], children=["a-0", "a-1"])
    scenario.given_child(ParcelSaga, "a-0", result=Receipt("a-0")).then(children=["a-1"], started=[])
    scenario.when_child("parcel", "a-1", "cancelled").then(completed=True, result=2)
    assert scenario.state.ended == ["a-0 completed Receipt", "a-1 cancelled"]


def test_children_that_run_are_asked_to_compensate_before_the_undo_commands_are_sent() -> None:
    scenario = Scenario(OrderSaga).given(Ordered("a", 3, undo=True)).given_child("parcel", "a-1")
    scenario.when(Withdrawn("a"))
    scenario.then(stopped=["a-2", "a-0"], sent=[Fetch("a-1"), Release("a")], compensated=True, children=[])


def test_the_story_is_told_where_no_such_child_runs() -> None:
    scenario = Scenario(OrderSaga).given(Ordered("a", 1))
    with pytest.raises(AssertionError, match="no child parcel a-7 runs; children are \\['a-0'\\]"):
        scenario.when_child("parcel", "a-7")
    with pytest.raises(AssertionError, match="children"):
        scenario.then(children=[])


def test_children_may_be_the_legs_of_a_gather() -> None:
    scenario = Scenario(LorrySaga).given(Loaded("l", 60))
    assert len(scenario.children) == 50
    for number in range(60):
        scenario.when_child("parcel", f"l-{number}")
    scenario.then(completed=True, result=60)
    failing = Scenario(LorrySaga).given(Loaded("l", 3)).when_child("parcel", "l-1", "failed", reason="no")
    failing.then(compensated=True, stopped=["l-2", "l-0"])
