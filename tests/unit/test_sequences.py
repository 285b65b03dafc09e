"""Numbered events: handled in their order, each once, however they come; a missing one has a deadline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import Any

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from sagalog import (
    Complete,
    DefinitionError,
    Enter,
    Gap,
    InvalidEventError,
    Saga,
    Sequence,
    TooManyKeptError,
    on,
    starts,
)
from sagalog.testing import Scenario

MINUTE = timedelta(minutes=1)


@dataclass
class Measured:
    meter: str
    n: int
    station: str = "a"


@dataclass
class Calibrated:
    meter: str
    n: int


@dataclass
class Lost:
    meter: str
    text: str


@dataclass
class Closed:
    meter: str


@dataclass
class Noted:
    meter: str


@dataclass
class State:
    seen: list[Any] = field(default_factory=list)


class Base:
    """What the sagas below do alike."""

    most_kept = 4

    @on(Closed, key="meter")
    def closed(self, state: State, event: Closed) -> Complete:
        return Complete()

    @on(Noted, key="meter")
    def noted(self, state: State, event: Noted) -> None:
        state.seen.append("noted")

    @on(Lost, key="meter")
    def lost(self, state: State, event: Lost) -> None:
        state.seen.append(event.text)


def lost(gap: Gap) -> Lost:
    return Lost(gap.correlation_id, str(gap))


def saga(sequence: Any = "n", **options: Any) -> type[Saga[State]]:
    made = Sequence(sequence, **options) if options else sequence

    class Meters(Base, Saga[State]):
        name = "meters"

        @starts(Measured, key="meter", sequence=made)
        def measured(self, state: State, event: Measured) -> None:
            state.seen.append(event.n)

    return Meters


def run(*numbers: int, **options: Any) -> Scenario[State]:
    return Scenario(saga(**options)).given(*(Measured("m", n) for n in numbers))


def seen(scenario: Scenario[State]) -> list[Any]:
    return scenario.state.seen


def test_what_comes_early_waits_and_is_handled_in_the_step_of_the_missing_one() -> None:
    scenario = run(1, 3, 4)
    scenario.then(kept=[Measured("m", 3), Measured("m", 4)])
    assert seen(scenario) == [1]
    scenario.given(Measured("m", 2)).then(kept=[])
    assert seen(scenario) == [1, 2, 3, 4]


def test_the_event_that_begins_a_life_may_come_after_others_and_those_that_may_not_begin_one_find_none() -> None:
    scenario = run(3, 2)
    scenario.then(status="running", kept=[Measured("m", 3), Measured("m", 2)])
    scenario.given(Noted("m"))
    scenario.given(Measured("m", 1)).given(Noted("m"))
    assert seen(scenario) == [1, 2, 3, "noted"]


def test_a_number_that_was_handled_or_waits_is_a_duplicate_under_any_message_id_and_the_inbox_stays_empty() -> None:
    scenario = run(1, 2, 4)
    for n in (1, 2, 4):
        scenario.when(Measured("m", n), message_id=f"again {n}")
    scenario.then(kept=[Measured("m", 4)])
    assert seen(scenario) == [1, 2]
    record = scenario._instance.record
    assert record is not None
    assert record.inbox == ()
    assert record.sequences == {"Measured": 3}


@drawn(st.permutations(range(1, 8)), st.lists(st.integers(1, 7), max_size=6))
def test_any_order_with_any_repeats_gives_the_same_history(order: list[int], repeats: list[int]) -> None:
    made = saga()
    made.most_kept = 20
    scenario = Scenario(made)
    for at, n in enumerate(order):
        scenario.given(Measured("m", n))
        scenario.given(*(Measured("m", again) for again in repeats if again in order[: at + 1]))
    assert seen(scenario) == [1, 2, 3, 4, 5, 6, 7]
    scenario.then(kept=[])


def test_beyond_most_kept_the_sender_is_told_and_the_missing_one_is_still_taken() -> None:
    scenario = run(1, 3, 4, 5, 6)
    with pytest.raises(TooManyKeptError):
        scenario.when(Measured("m", 7))
    scenario.given(Measured("m", 2))
    assert seen(scenario) == [1, 2, 3, 4, 5, 6]


def test_each_sender_has_numbers_of_its_own() -> None:
    scenario = Scenario(saga(sender="station"))
    scenario.given(Measured("m", 1, "a"), Measured("m", 1, "b"), Measured("m", 3, "b"), Measured("m", 2, "a"))
    scenario.then(kept=[Measured("m", 3, "b")])
    assert seen(scenario) == [1, 1, 2]


def test_two_types_of_event_may_share_one_sequence() -> None:
    class Both(Base, Saga[State]):
        name = "both"

        @starts(Measured, key="meter", sequence=Sequence("n", name="readings"))
        def measured(self, state: State, event: Measured) -> None:
            state.seen.append(event.n)

        @on(Calibrated, key="meter", sequence=Sequence("n", name="readings"))
        def calibrated(self, state: State, event: Calibrated) -> None:
            state.seen.append(-event.n)

    scenario = Scenario(Both).given(Measured("m", 1), Measured("m", 3), Calibrated("m", 2))
    assert seen(scenario) == [1, -2, 3]


def test_numbers_may_begin_at_zero_or_at_the_first_that_comes() -> None:
    scenario = run(1, 0, first=0)
    assert seen(scenario) == [0, 1]
    scenario = run(57, 59, 56, 58, first=None)
    assert seen(scenario) == [57, 58, 59], "56 is before the first, so it is a duplicate"


def test_a_gap_that_lasts_parks_with_the_missing_number_and_the_repairs_say_what_they_do() -> None:
    scenario = run(1, 4, gap_within=MINUTE)
    scenario.after(MINUTE)
    record = scenario._instance.record
    assert record is not None
    assert record.parked == (
        "Measured 2 to 3 did not come within 0:01:00: `skip` continues without it, `retry` waits as long again"
    )
    assert record.gap == "Measured"
    scenario.then(timers={})


def test_a_gap_that_closes_in_time_is_forgotten_and_the_next_one_has_its_own_deadline() -> None:
    scenario = run(1, 3, gap_within=MINUTE, gap="skip")
    scenario.after(MINUTE / 2).given(Measured("m", 6), Measured("m", 2))
    scenario.after(MINUTE / 2).then(kept=[Measured("m", 6)])
    scenario.after(MINUTE / 2).then(kept=[])
    assert seen(scenario) == [1, 2, 3, 6]


def test_a_gap_may_be_skipped_and_what_comes_later_than_that_is_ignored() -> None:
    scenario = run(1, 4, 5, gap_within=MINUTE, gap="skip").after(MINUTE)
    assert seen(scenario) == [1, 4, 5]
    record = scenario._instance.record
    assert record is not None
    assert [(one.action, one.note) for one in record.audit] == [
        ("gap", "Measured 2 to 3 did not come, and is no longer waited for")
    ]
    with pytest.raises(AssertionError, match=r"n=3, station='a'\)\n +ignored"):
        scenario.given(Measured("m", 3)).then(completed=True)
    assert seen(scenario) == [1, 4, 5]


def test_a_gap_may_be_an_event_which_is_handled_before_what_waits_behind_it() -> None:
    scenario = run(1, 4, gap_within=MINUTE, gap=lost).after(MINUTE)
    assert seen(scenario) == [1, "Measured 2 to 3", 4]


def test_an_event_of_a_gap_that_cannot_be_made_parks_and_says_so() -> None:
    for gap, told in (
        (lambda gap: 1 / 0, "making its event raised ZeroDivisionError"),
        (lambda gap: 7, "takes the int"),
    ):
        record = run(1, 3, gap_within=MINUTE, gap=gap).after(MINUTE)._instance.record
        assert record is not None
        assert told in record.parked


def test_the_next_life_goes_on_with_the_numbers_of_the_last_one_unless_they_begin_anew() -> None:
    scenario = run(1, 2).given(Closed("m")).given(Measured("m", 2), Measured("m", 4))
    scenario.then(kept=[Measured("m", 4)])
    scenario.given(Measured("m", 3))
    assert seen(scenario) == [3, 4]
    scenario = run(1, 2, restarts=True).given(Closed("m"), Measured("m", 2), Measured("m", 1))
    assert seen(scenario) == [1, 2]


def test_what_waits_when_the_saga_ends_begins_the_next_life_if_it_may_start_one() -> None:
    scenario = run(1, 3).given(Closed("m"))
    scenario.then(status="running", kept=[Measured("m", 3)])
    scenario.given(Noted("m"), Measured("m", 2))
    assert seen(scenario) == [2, 3]


def test_the_gap_of_a_life_that_is_only_waited_for_has_a_deadline_too() -> None:
    scenario = run(1, 3, gap_within=MINUTE, gap="skip").given(Closed("m")).after(MINUTE)
    assert seen(scenario) == [3]


def test_what_may_not_is_told_to_have_waited_in_vain_and_its_number_is_not_waited_for() -> None:
    class Meters(Saga[State]):
        name = "meters"

        @starts(Calibrated, key="meter")
        def begun(self, state: State, event: Calibrated) -> None: ...

        @on(Measured, key="meter", sequence="n")
        def measured(self, state: State, event: Measured) -> None:
            state.seen.append(event.n)

        @on(Closed, key="meter")
        def closed(self, state: State, event: Closed) -> Complete:
            return Complete()

    scenario = Scenario(Meters).given(Calibrated("m", 0), Measured("m", 1), Measured("m", 3), Closed("m"))
    scenario.then(completed=True, kept=[])
    record = scenario._instance.record
    assert record is not None
    assert [audit.note for audit in record.audit] == ["Measured (message 3) was kept, and ended with the saga"]
    scenario.given(Calibrated("m", 0), Measured("m", 4), Measured("m", 2))
    assert seen(scenario) == [2, 4]


class Phase(Enum):
    OPEN = 1
    SEALED = 2


def phased(unexpected: Any, sequence: Any = "n") -> type[Saga[State]]:
    """Return a saga that takes numbered events while it is sealed."""

    class Phased(Base, Saga[State]):
        name = "phased"
        phases = Phase

        @starts(Calibrated, key="meter")
        def begun(self, state: State, event: Calibrated) -> Any:
            return Enter(Phase.SEALED) if event.n else None

        @on(Measured, key="meter", sequence=sequence, during=Phase.SEALED, unexpected=unexpected)
        def measured(self, state: State, event: Measured) -> None:
            state.seen.append(event.n)

    return Phased


def test_a_numbered_event_that_waits_for_a_phase_lets_those_behind_it_wait_and_one_that_is_ignored_does_not() -> None:
    scenario = Scenario(phased("keep")).given(Calibrated("m", 0), Measured("m", 2), Measured("m", 1))
    scenario.then(kept=[Measured("m", 2), Measured("m", 1)])
    scenario.when(Measured("m", 1)).then(kept=[Measured("m", 2), Measured("m", 1)])
    scenario.given(Calibrated("m", 1)).then(kept=[])
    assert seen(scenario) == [1, 2]
    events = (Calibrated("m", 0), Measured("m", 1), Calibrated("m", 1), Measured("m", 2))
    assert seen(Scenario(phased("ignore")).given(*events)) == [2]


def test_of_a_sequence_that_begins_with_whatever_comes_first_a_phase_that_keeps_some_hands_them_on_in_their_order() -> (
    None
):
    made = phased("keep", Sequence("n", first=None))
    scenario = Scenario(made).given(Calibrated("m", 0), Measured("m", 7), Measured("m", 6), Calibrated("m", 1))
    assert seen(scenario) == [6, 7]
    for n in (6, 7):
        scenario.when(Measured("m", n), message_id=f"again {n}").then(kept=[])
    scenario.given(Measured("m", 8))
    assert seen(scenario) == [6, 7, 8]


def test_a_wrong_number_is_refused_before_anything_is_stored() -> None:
    for wrong in (0, -1, 2**63, "1", 1.0, True, None):
        with pytest.raises(
            InvalidEventError, match=r"Measured.n numbers the events of 'Measured': it must be a whole number"
        ):
            Scenario(saga()).when(Measured("m", wrong))  # type: ignore[arg-type]
    with pytest.raises(InvalidEventError, match="Measured.station tells senders apart"):
        Scenario(saga(sender="station")).when(Measured("m", 1, ""))


def test_definitions_that_do_not_fit_together_are_refused() -> None:
    def refused(told: str, make: Callable[[], Any]) -> None:
        with pytest.raises(DefinitionError, match=told):
            make()

    refused("takes the name of the attribute that holds the number", lambda: saga(7))
    refused("Measured has no attribute 'm' for its field", lambda: saga("m"))
    refused("Measured has no attribute 'x' for its sender", lambda: saga("n", sender="x"))
    refused("first= must be a whole number, 0 or more,", lambda: saga("n", first=-1))
    refused("gap_within= must be a timedelta above zero,", lambda: saga("n", gap_within=timedelta()))
    refused("gap_within= must be a timedelta above zero,", lambda: saga("n", gap_within=timedelta.max))
    refused('gap= must be "park", "skip", or a function', lambda: saga("n", gap="drop", gap_within=MINUTE))
    refused("gap= without gap_within=", lambda: saga("n", gap="skip"))
    refused("restarts= must be True or False", lambda: saga("n", restarts=1))
    refused("its name must be a string without '/'", lambda: saga("n", name="a/b"))
    refused('again="ignore" of Measured would skip numbers', lambda: _again())
    refused("do not give the same sequence=", lambda: _twice())
    refused("share the sequence 'r', but declare it differently", lambda: _shared())


def _again() -> Any:
    starts(Measured, key="meter", again="ignore", sequence="n")


def _twice() -> Any:
    class Twice(Base, Saga[State]):
        name = "twice"
        phases = Phase

        @starts(Measured, key="meter", during=Phase.OPEN, sequence="n")
        def one(self, state: State, event: Measured) -> None: ...

        @on(Measured, key="meter", during=Phase.SEALED)
        def other(self, state: State, event: Measured) -> None: ...


def _shared() -> Any:
    class Shared(Base, Saga[State]):
        name = "shared"

        @starts(Measured, key="meter", sequence=Sequence("n", name="r"))
        def one(self, state: State, event: Measured) -> None: ...

        @on(Calibrated, key="meter", sequence=Sequence("n", name="r", first=0))
        def other(self, state: State, event: Calibrated) -> None: ...
