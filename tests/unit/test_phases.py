"""Phases: which events each expects, what becomes of the others, what acts when one is entered or left."""

from __future__ import annotations

from datetime import timedelta
from enum import Enum

import pytest

from sagalog import DefinitionError, TooManyKeptError, UnexpectedEventError
from sagalog.testing import Scenario

from ..phased import (
    Asked,
    Cancelled,
    Charge,
    Closed,
    Labelled,
    Order,
    Orders,
    Paid,
    Phase,
    Placed,
    Refund,
    Restarted,
    Reviewed,
    Shipped,
    Told,
)

HOUR = timedelta(hours=1)


def started() -> Scenario[Order]:
    return Scenario(Orders).given(Placed("o"))


def log(scenario: Scenario[Order]) -> list[str]:
    return scenario.state.log


def test_a_new_instance_is_in_the_first_phase_and_entering_it_acts_before_its_event() -> None:
    scenario = Scenario(Orders).when(Placed("o"))
    scenario.then(phase=Phase.PLACED, sent=[Told("in"), Charge("o")])
    assert log(scenario) == ["placed", "in"], "it acts on the state as the handler has left it"


def test_enter_leaves_one_phase_and_enters_the_other_in_the_place_of_the_action() -> None:
    scenario = started().when(Paid("o"))
    scenario.then(phase=Phase.PAID, sent=[Told("out"), Told("in")])
    assert log(scenario)[-3:] == ["paid", "out", "in"]


def test_entering_the_phase_that_it_is_in_has_no_effect() -> None:
    scenario = started().when(Asked("o", "Enter(Phase.PLACED)"))
    scenario.then(phase=Phase.PLACED, sent=[])


def test_one_type_of_event_has_a_handler_for_each_phase_and_the_context_says_which_it_is() -> None:
    scenario = started().given(Paid("o"))
    scenario.when(Paid("o")).then(sent=[Told("twice")])
    assert log(scenario)[-1] == "paid again, PAID"


def test_an_event_that_its_phase_does_not_expect_is_refused_by_an_error_that_says_when_it_is() -> None:
    scenario = started()
    with pytest.raises(
        UnexpectedEventError, match="its phase is PLACED, and this event is expected only during SHIPPED"
    ):
        scenario.when(Reviewed("o"))
    assert log(scenario) == ["placed", "in"]


def test_an_event_that_its_phase_ignores_changes_nothing() -> None:
    scenario = started().given(Paid("o"), Shipped("o"))
    before = log(scenario)
    scenario.when(Labelled("o", "late")).then(kept=[], phase=Phase.SHIPPED)
    assert log(scenario) == before


def test_kept_events_are_handled_in_their_order_in_the_step_that_enters_their_phase() -> None:
    scenario = started().given(Labelled("o", "a"), Labelled("o", "b"))
    scenario.then(kept=[Labelled("o", "a"), Labelled("o", "b")], phase=Phase.PLACED)
    scenario.when(Paid("o")).then(kept=[])
    assert log(scenario)[-5:] == ["paid", "out", "in", "labelled a", "labelled b"]


def test_what_a_kept_event_enters_decides_about_the_ones_behind_it() -> None:
    scenario = started().given(Labelled("o", "a"), Shipped("o"), Labelled("o", "b"))
    scenario.when(Paid("o")).then(phase=Phase.SHIPPED, kept=[Labelled("o", "b")])
    assert log(scenario)[-2:] == ["labelled a", "shipped"]


def test_a_kept_event_that_is_before_another_goes_first_even_if_its_phase_came_later() -> None:
    scenario = started().given(Shipped("o"), Labelled("o", "a"))
    scenario.when(Paid("o")).then(phase=Phase.SHIPPED, kept=[Labelled("o", "a")])


def test_a_kept_message_that_comes_again_is_a_duplicate_before_and_after_it_is_handled() -> None:
    scenario = started()
    scenario.when(Labelled("o", "a"), message_id="m")
    scenario.when(Labelled("o", "a"), message_id="m").then(kept=[Labelled("o", "a")])
    scenario.given(Paid("o")).when(Labelled("o", "a"), message_id="m")
    assert log(scenario).count("labelled a") == 1


def test_beyond_most_kept_the_sender_is_told_and_what_is_expected_is_still_handled() -> None:
    scenario = started().given(*(Labelled("o", str(n)) for n in range(5)))
    with pytest.raises(TooManyKeptError, match="5 events are kept"):
        scenario.when(Labelled("o", "6"))
    scenario.when(Paid("o")).then(phase=Phase.PAID, kept=[])
    assert log(scenario)[-5:] == [f"labelled {n}" for n in range(5)]


def test_a_timer_that_its_phase_does_not_expect_has_fired_and_changes_nothing() -> None:
    scenario = started().given(Paid("o"))
    scenario.after(HOUR).then(timers={})
    assert "overdue" not in log(scenario)


def test_a_timer_may_be_kept_too_and_one_of_its_name_that_is_set_meanwhile_is_another() -> None:
    scenario = started().given(Paid("o")).after(HOUR)
    assert [type(event).__name__ for event in scenario.kept] == ["Reminded"]
    scenario.given(Asked("o", "SetTimer('reminder', Reminded('o'), after=timedelta(hours=1))"))
    scenario.when(Shipped("o")).then(kept=[], timers={"reminder": HOUR})
    assert log(scenario)[-1] == "reminded"
    scenario.after(HOUR).then(timers={})
    assert log(scenario)[-2:] == ["reminded", "reminded"]


def test_kept_events_of_a_saga_that_completes_are_told_in_its_record_and_are_consumed() -> None:
    scenario = started().given(Labelled("o", "a"), Closed("o"))
    scenario.then(completed=True, kept=[])
    record = scenario._instance.record
    assert record is not None
    assert record.finished
    assert [(audit.action, audit.note) for audit in record.audit] == [
        ("kept", "Labelled (message 2) was kept, and ended with the saga")
    ]
    assert "message 2" in record.inbox


def test_kept_events_wait_while_it_compensates_and_are_told_when_that_has_ended() -> None:
    scenario = started().given(Labelled("o", "a")).when(Cancelled("o"))
    scenario.then(compensated=True, kept=[], sent=[Refund("o")])
    assert scenario._instance.record is not None
    assert [audit.action for audit in scenario._instance.record.audit] == ["kept"]


def test_a_kept_starting_event_begins_the_next_life_and_what_came_before_it_ends_with_the_old_one() -> None:
    scenario = started().given(Paid("o"), Shipped("o"), Restarted("o"))
    scenario.then(kept=[Restarted("o")])
    scenario.when(Closed("o")).then(status="running", kept=[], phase=Phase.PLACED)
    assert log(scenario) == ["restarted", "in"]


def test_put_into_a_phase_by_hand_nothing_acts_but_what_is_kept_for_it_is_handled() -> None:
    scenario = started().given(Labelled("o", "a")).in_phase(Phase.PAID)
    scenario.then(phase=Phase.PAID, kept=[], sent=[])
    assert log(scenario)[-1] == "labelled a"


def test_phases_may_be_entered_one_after_the_other_in_one_step() -> None:
    scenario = started().when(Asked("o", "[Enter(Phase.PAID), Send(Told('x')), Enter(Phase.SHIPPED)]"))
    scenario.then(phase=Phase.SHIPPED, sent=[Told("out"), Told("in"), Told("x")])


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("Enter('PAID')", "str is not a phase of Orders; its phases are Phase: PLACED, PAID, SHIPPED"),
        ("Enter(Other.A)", "Other.A is not a phase of Orders"),
        ("[Complete(), Enter(Phase.PAID)]", "an Enter comes after the saga's end;"),
    ],
)
def test_an_enter_that_makes_no_sense_is_an_error_and_changes_nothing(
    what: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(Enum):
        A = 1

    monkeypatch.setattr("tests.phased.Other", Other, raising=False)
    scenario = started()
    with pytest.raises(DefinitionError, match=told):
        scenario.when(Asked("o", what))
    scenario.then(phase=Phase.PLACED)
