"""`when_all`: once, after the last leg's own handler, in its step, whatever the order; and what is refused at once."""

from __future__ import annotations

from enum import Enum
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagalog import Compensate, DefinitionError, Enter, Refused, Saga, Send, on, on_enter, starts, when_all
from sagalog.decision.entries import Joined
from sagalog.decision.record import decode_record, encode_record
from sagalog.operating.inspect import SagaView
from sagalog.operating.readable import Code
from sagalog.testing import Scenario

from ..joining import Closed, JoinSaga, Ordered, Paid, Reserved, Ship, Shipping, Thank


@pytest.fixture(autouse=True)
def _works() -> Any:
    JoinSaga.failing = False
    yield
    JoinSaga.failing = False


@pytest.mark.parametrize("legs", list(permutations([Paid, Reserved, Closed])))
def test_whatever_the_order_it_runs_once_after_the_last_leg_in_its_step(legs: tuple[type, ...]) -> None:
    order = Scenario(JoinSaga).given(Ordered("a"))
    for leg in legs:
        order.when(leg("a"))
        assert order.status == "running"
    log = order.state.log
    assert log.count("ready") == log.count("closing") == 1
    last = max(log.index("paid"), log.index("reserved"))
    assert log[last + 1] == "ready"
    assert log[log.index("closed") + 1] == "closing"
    assert order.joins == {"ready": (), "closing": ()}


def test_its_commands_come_behind_those_of_the_leg() -> None:
    order = Scenario(JoinSaga).given(Ordered("a"), Reserved("a"))
    assert order.joins == {"ready": ("Paid",), "closing": ("Closed",)}
    assert order.when(Paid("a")).sent == [Thank("a"), Ship("a")]


def test_a_leg_that_comes_twice_is_handled_twice_and_counts_once() -> None:
    order = Scenario(JoinSaga).given(Ordered("a"), Paid("a"), Paid("a"))
    assert order.state.log == ["ordered", "paid", "paid"]
    order.given(Reserved("a"), Reserved("a"), Paid("a"))
    assert order.state.log == ["ordered", "paid", "paid", "reserved", "ready", "reserved", "paid"]


def test_a_duplicate_of_a_leg_counts_nothing() -> None:
    order = Scenario(JoinSaga).given(Ordered("a")).when(Paid("a"), message_id="m").when(Paid("a"), message_id="m")
    assert order.joins["ready"] == ("Reserved",)


def test_it_does_not_run_in_a_step_that_ends_the_saga() -> None:
    order = Scenario(JoinSaga).given(Ordered("a"), Reserved("a"), Paid("a", ends=True))
    order.then(completed=True, state={"log": ["ordered", "reserved", "paid"]})


def test_where_it_raises_the_leg_has_not_happened() -> None:
    order = Scenario(JoinSaga).given(Ordered("a"), Reserved("a"))
    JoinSaga.failing = True
    with pytest.raises(RuntimeError):
        order.when(Paid("a"), message_id="m")
    assert order.joins["ready"] == ("Paid",)
    JoinSaga.failing = False
    assert order.when(Paid("a"), message_id="m").sent == [Thank("a"), Ship("a")]


def test_the_next_life_waits_for_its_own_legs() -> None:
    order = Scenario(JoinSaga).given(Ordered("a"), Reserved("a"), Paid("a", ends=True), Ordered("a"))
    assert order.joins["ready"] == ("Paid", "Reserved")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from([Ordered, Paid, Reserved, Closed]), max_size=12))
def test_it_is_what_a_set_of_what_came_would_say(events: list[type]) -> None:
    order, expected, seen = Scenario(JoinSaga).given(Ordered("a")), ["ordered"], {"Ordered"}
    ran: set[str] = set()
    for event in events:
        order.when(event("a"))
        if event is Ordered:  # it has begun already
            continue
        expected.append(event.__name__.lower())
        seen.add(event.__name__)
        for name, legs in (("ready", {"Paid", "Reserved"}), ("closing", {"Ordered", "Closed"})):
            if legs <= seen and name not in ran:
                ran.add(name)
                expected.append(name)
    assert order.state.log == expected


def test_a_record_without_joins_is_stored_as_before() -> None:
    record: Any = Scenario(JoinSaga).given(Ordered("a"))._instance.record
    record.joins = {}
    assert b"joins" not in encode_record(record)
    assert decode_record(encode_record(record)).joins == {}


class Older(Saga[Shipping]):
    """Waits for more, and less, than what is stored says."""

    name = "join"

    @starts(Ordered, key="id", again="ignore")
    def ordered(self, state: Shipping, event: Ordered) -> None: ...

    @on(Paid, key="id")
    def paid(self, state: Shipping, event: Paid) -> None: ...

    @on(Closed, key="id")
    def closed(self, state: Shipping, event: Closed) -> None:
        state.log.append("closed")

    @when_all(Paid, Ordered, name="ready")
    def ready(self, state: Shipping) -> None:
        state.log.append("ready")


def test_a_join_that_has_all_by_a_leg_taken_away_runs_with_the_next_message() -> None:
    order = Scenario(Older).given(Ordered("a"))
    record: Any = order._instance.record
    record.joins = {"ready": Joined(("Ordered", "Paid"), ("Reserved",))}
    order.when(Closed("a"))
    assert order.state.log == ["closed", "ready"]


def test_check_tells_of_a_leg_that_was_added_and_of_a_join_that_is_gone() -> None:
    order = Scenario(Older).given(Ordered("a"))
    record: Any = order._instance.record
    record.joins = {
        "ready": Joined(("Ordered",), ("Reserved",)),
        "gone": Joined(("Paid",), ("Closed",)),
        "ran": Joined(done=True),
    }
    reasons = [one.text for one in Code([Older()], lambda command: True).reasons(SagaView("join", "a", 1, record))]
    assert reasons == [
        "when_all ready: this code waits for Paid too, but one that came before does not count",
        "when_all gone: this code has no such join, so nothing happens when all have come",
    ]


def _with(method: Any) -> None:
    type(
        "Wrong",
        (Saga,),
        {
            "__orig_bases__": (Saga[Shipping],),
            "name": "wrong",
            "ordered": starts(Ordered, key="id")(lambda self, state, event: None),
            "paid": on(Paid, key="id")(lambda self, state, event: None),
            **method,
        },
    )


def one_too_many(self: Any, state: Shipping, context: Any, more: Any) -> None: ...
def one_too_few(self: Any) -> None: ...
def other_state(self: Any, state: Ordered) -> None: ...
def fine(self: Any, state: Shipping) -> None: ...


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: when_all(Paid), "two event types:"),
        (lambda: when_all(Paid, Paid), "names an event twice"),
        (lambda: when_all(Paid, "Reserved"), "takes event types, not 'Reserved'"),
        (lambda: when_all(Paid, Refused[Ship]), "takes event types"),
        (lambda: when_all(Paid, Reserved, name=""), "name= as a string"),
        (lambda: when_all(Paid, Reserved)(5), "decorates a method"),
        (lambda: _with({"x": when_all(Paid, Reserved)(fine)}), "waits for Reserved, which Wrong does not handle"),
        (lambda: _with({"x": when_all(Paid, Ordered)(one_too_many)}), "must take \\(self, state\\) or"),
        (lambda: _with({"x": when_all(Paid, Ordered)(one_too_few)}), "must take \\(self, state\\) or"),
        (lambda: _with({"x": when_all(Paid, Ordered)(other_state)}), "take a Ordered as state, but gets a Shipping"),
        (
            lambda: _with(
                {
                    "x": when_all(Paid, Ordered, name="y")(lambda self, state: None),
                    "y": when_all(Ordered, Paid)(lambda self, state: None),
                }
            ),
            "two joins named 'y': x\\(\\) and y\\(\\)",
        ),
        (lambda: when_all(Paid, Ordered)(on(Paid, key="id")(lambda self, state, event: None)), "no event of its own"),
    ],
)
def test_a_wrong_join_is_told_when_the_class_is_made(make: Any, told: str) -> None:
    with pytest.raises(DefinitionError, match=told):
        make()


def test_what_it_asks_for_is_checked_with_the_leg_as_one_step() -> None:
    class Both(Saga[Shipping]):
        name = "both"

        @starts(Ordered, key="id")
        def ordered(self, state: Shipping, event: Ordered) -> None: ...

        @on(Paid, key="id")
        def paid(self, state: Shipping, event: Paid) -> Any:
            return Send(Thank(event.id), undo=Ship(event.id))

        @when_all(Ordered, Paid)
        def first(self, state: Shipping) -> Any:
            return Compensate()

        @when_all(Paid, Ordered)
        def second(self, state: Shipping) -> Any:
            raise AssertionError("the first one has ended it")

    order = Scenario(Both).given(Ordered("a")).when(Paid("a"))
    order.then(sent=[Thank("a"), Ship("a")], compensated=True)


class Phase(Enum):
    NEW = "new"
    READY = "ready"


def test_a_join_may_enter_a_phase_and_what_that_declares_acts_in_the_step() -> None:
    class Phased(Saga[Shipping]):
        name = "phased"
        phases = Phase

        @starts(Ordered, key="id")
        def ordered(self, state: Shipping, event: Ordered) -> None: ...

        @on(Paid, key="id", during=Phase.NEW)
        def paid(self, state: Shipping, event: Paid) -> None:
            state.log.append("paid")

        @on(Closed, key="id", during=Phase.READY, unexpected="keep")
        def closed(self, state: Shipping, event: Closed) -> None:
            state.log.append("closed")

        @when_all(Ordered, Paid)
        def ready(self, state: Shipping) -> Any:
            state.log.append("ready")
            yield Enter(Phase.READY)

        @on_enter(Phase.READY)
        def entering(self, state: Shipping) -> Any:
            state.log.append("entering")
            return Send(Ship("a"))

    order = Scenario(Phased).given(Ordered("a"), Closed("a"))
    assert order.when(Paid("a")).sent == [Ship("a")]
    assert order.state.log == ["paid", "ready", "entering", "closed"]
