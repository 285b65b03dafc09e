"""Gather: many commands, one end; bounded, whatever their number; and what is refused at once."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagalog import Complete, DefinitionError, Gather, Saga, Send, leg, starts
from sagalog.decision.gathering import Gathering
from sagalog.decision.record import encode_record
from sagalog.definition.codec import Typed
from sagalog.testing import Scenario

from ..gathering import AllShipped, Begun, Bill, GatherSaga, HeardGatherSaga, Parcels, Ship, Shipped, Weigh


def answered(command: Ship) -> Shipped:
    return Shipped(command.id, command.number)


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("parcels", [1, 19, 20, 21, 45])
def test_when_each_is_answered_it_goes_on_once_in_the_step_of_the_last(parcels: int, listed: bool) -> None:
    gathered = Scenario(GatherSaga).answers(Ship, lambda command: answered(command))
    gathered.when(Begun("a", parcels, listed=listed))
    ships = [command for command in gathered.sent if isinstance(command, Ship)]
    assert ships == [Ship("a", n) for n in range(parcels)]
    assert gathered.sent[0] == Weigh("a")
    assert gathered.sent[-1] == Bill("a", parcels)
    gathered.then(completed=True, state={"ended": [f"all {parcels} of {parcels}"]})


def test_at_most_so_many_are_unanswered_at_a_time() -> None:
    gathered = Scenario(GatherSaga).when(Begun("a", 1000))
    assert [command.number for command in gathered.sent[1:]] == list(range(20))
    assert gathered.gathers == {"parcels": (0, 1000)}


@pytest.mark.parametrize("listed", [True, False])
def test_a_refusal_ends_it_and_what_is_not_sent_stays_so(listed: bool) -> None:
    gathered = Scenario(GatherSaga).refuses(Ship).when(Begun("a", 30, listed=listed))
    gathered.then(status="running", state={"ended": ["0 of 30, not (0,)"]})
    assert gathered.gathers == {}
    assert len(gathered.sent) == 1 + (30 if listed else 20)


def test_a_refusal_without_an_event_for_it_compensates() -> None:
    gathered = Scenario(GatherSaga).refuses(Ship).when(Begun("a", 30, failing=False))
    gathered.then(compensated=True)


def test_with_wait_all_are_sent_and_the_end_tells_which_were_refused() -> None:
    gathered = Scenario(GatherSaga).refuses(Ship).when(Begun("a", 30, wait=True))
    assert gathered.state.ended == [f"0 of 30, not {tuple(range(30))}"]
    assert len(gathered.sent) == 31


def test_the_handler_of_a_refusal_comes_first() -> None:
    gathered = Scenario(HeardGatherSaga).refuses(Ship).when(Begun("a", 3))
    assert gathered.state.ended[:2] == ["heard 0", "0 of 3, not (0,)"]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 120), st.booleans(), st.integers(0, 10**9), st.booleans())
def test_whatever_the_order_of_the_answers_it_is_what_plain_sets_would_say(
    total: int, wait: bool, seed: int, listed: bool
) -> None:
    """Answers in any order, some refused, some twice: a plain model of sets beside the bits and runs."""
    chance = random.Random(seed)
    gathering = Gathering(total, Typed("A", b"{}", 1), None, wait)  # type: ignore[arg-type]
    model: dict[str, int] = {}
    come: dict[int, bool] = {}
    step = sent = 0
    while sent < total or any(leg not in come for leg in model.values()):
        waiting = [entry for entry, leg in model.items() if leg not in come]
        count = min(total - sent, total if listed else chance.randint(0, 7))
        if count and (not waiting or chance.random() < 0.5):
            step, place = step + 1, chance.randint(0, 3)
            gathering = gathering.with_sent(step, place, count)
            for n in range(count):
                model[f"{step}/{place + n}"] = sent + n
            sent += count
        elif waiting:
            entry = chance.choice(waiting)
            leg = gathering.leg_of(entry)
            assert leg == model[entry]
            come[leg] = chance.random() < 0.2
            gathering = gathering.with_leg(leg, refused=come[leg])
            assert gathering.leg_of(entry) is None, "it counts once"
        assert gathering.open == sum(leg not in come for leg in model.values())
        assert gathering.leg_of("999/0") is None
    told = gathering.told()
    assert told.answered == sum(not refused for refused in come.values())
    assert told.refused == tuple(sorted(leg for leg, refused in come.items() if refused))


def test_ten_thousand_legs_stay_within_some_kilobytes() -> None:
    gathering = Gathering(10_000, Typed("A", b"{}", 1))  # type: ignore[arg-type]
    chance, entries, largest = random.Random(1), list[str](), 0
    record: Any = Scenario(GatherSaga).when(Begun("a", 1000))._instance.record
    step = 0
    while gathering.come < 10_000:
        while gathering.open < 100 and gathering.sent < 10_000:
            step += 1
            gathering = gathering.with_sent(step, 0, 1)
            entries.append(f"{step}/0")
        entry = entries.pop(chance.randrange(len(entries)))
        leg = gathering.leg_of(entry)
        assert leg is not None
        gathering = gathering.with_leg(leg, refused=bool(leg % 2))
        if gathering.come % 250 == 0:
            record.gathers = {"parcels": gathering}
            largest = max(largest, len(encode_record(record)))
    assert largest < 12_000


MANY = [Send(Ship("a", n)) for n in range(1001)]
WRONG: list[tuple[Any, str]] = [
    (Gather("", [Send(Ship("a", 1))], then=Begun("a", 1)), "a gather's name must be a string that is"),
    (Gather("g", [], then=Begun("a", 1)), "no legs, so no answer would ever end it"),
    (Gather("g", MANY, then=Begun("a", 1)), "not 1,001: give their number, and make them one by one"),
    (Gather("g", 5, then=Begun("a", 1)), "needs a method that makes its legs: decorate one with @leg\\('g'\\)"),
    (Gather("legs", 0, then=Begun("a", 1)), "no legs, so no answer would ever end it"),
    (Gather("legs", -1, then=Begun("a", 1)), "takes 1 to 100,000 legs, not -1"),
    (Gather("legs", 100_001, then=Begun("a", 1)), "not 100,001"),
    (Gather("g", "many", then=Begun("a", 1)), "a list of Sends, or how many legs, not str"),  # type: ignore[arg-type]
    (Gather("g", [Ship("a", 1)], then=Begun("a", 1)), "legs of Send\\(...\\) or StartChild\\(...\\), not of a Ship"),  # type: ignore[list-item]
    (Gather("g", [Send(Ship("a", 1))], then=AllShipped("a")), "has a AllShipped as then=, which no handler takes"),
    (Gather("g", [Send(Ship("a", 1))], then=Begun("a", 1), failed=AllShipped("a")), "AllShipped as failed="),
    (Gather("g", [Send(Ship("a", 1), reply=Begun)], then=Begun("a", 1)), "cannot have a deadline of its own;"),
    (Gather("g", [Send(Ship("a", 1))], then=Begun("a", 1), wait=1), "wait=True or False"),  # type: ignore[arg-type]
    ([Gather("g", [Send(Ship("a", 1))], then=Begun("a", 1))] * 2, "is under way already"),
    ([Complete(), Gather("g", [Send(Ship("a", 1))], then=Begun("a", 1))], "a Gather comes after the saga's end"),
    (Gather("legs", 3, then=Begun("a", 1)), "makes a Send with undo="),
]


@pytest.mark.parametrize(("actions", "told"), WRONG)
def test_a_wrong_gather_is_refused_before_anything_is_stored_and_named(actions: Any, told: str) -> None:
    class Wrong(Saga[Parcels]):
        name = "wrong"

        @starts(Begun, key="id")
        def begun(self, state: Parcels, event: Begun) -> Any:
            return actions

        @leg("legs")
        def parcel(self, state: Parcels, number: int) -> Send:
            return Send(Ship("a", number), undo=Ship("a", number))

    scenario = Scenario(Wrong)
    with pytest.raises(DefinitionError, match=told):
        scenario.when(Begun("a", 1))
    assert scenario.status is None


def test_a_wrong_leg_is_told_when_the_class_is_made() -> None:
    for at_once in (0, 1001, True, "5"):
        with pytest.raises(DefinitionError, match="at_once= from 1 to 1,000"):
            leg("x", at_once=at_once)  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="takes the name of a gather"):
        leg("")
    with pytest.raises(DefinitionError, match="must take \\(self, state, number\\)"):
        leg("x")(lambda self, state: None)  # type: ignore[arg-type, misc]
    with pytest.raises(DefinitionError, match="makes the legs of 'x' twice"):

        class Twice(Saga[Parcels]):
            name = "twice"
            one = leg("x")(lambda self, state, number: Send(Ship("a", number)))
            two = leg("x")(lambda self, state, number: Send(Ship("a", number)))

            @starts(Begun, key="id")
            def begun(self, state: Parcels, event: Begun) -> None: ...
