"""What follows for the activities of a saga: which are ready, what a failure means, what waits for an event."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from sagalog import (
    Action,
    Call,
    Compensate,
    Complete,
    DefinitionError,
    ItinerarySaga,
    Run,
    Saga,
    SagaParkedError,
    Send,
    activity,
    on,
    starts,
)
from sagalog.decision.record import encode_record
from sagalog.testing import Scenario

from ..trips import TripRequested, TripSaga


@dataclass
class Begun:
    id: str


@dataclass
class Approved:
    id: str
    by: str = "Ann"


@dataclass
class Rejected:
    id: str


@dataclass
class Asked:
    begun: Begun | None = None
    approval: Approved | None = None
    log: list[str] = field(default_factory=list)


@dataclass
class Told:
    text: str


def trip(**request: Any) -> Scenario[Any]:
    return Scenario(TripSaga).given(TripRequested("T-1", **request))


def test_without_after_activities_run_in_the_order_of_definition() -> None:
    class Plain(ItinerarySaga[Asked]):
        name = "plain"
        starts_with, key = Begun, "id"

        @activity
        async def zebra(self, state: Asked, call: Call) -> None: ...

        @activity
        async def ape(self, state: Asked, call: Call) -> None: ...

    scenario = Scenario(Plain).given(Begun("1")).then(running={"zebra"})
    scenario.when_done("zebra").then(running={"ape"})
    scenario.when_done("ape").then(running=set(), completed=True)


def test_a_failure_undoes_by_completion_and_not_by_beginning() -> None:
    scenario = trip().given_done("flight", "LH").given_done("car", "VW").given_done("hotel", "Ritz")
    scenario.when_failed("payment").then(undone=["hotel", "car", "flight"], compensated=True)


def test_what_failed_without_being_refused_may_be_done_and_is_undone_first() -> None:
    scenario = trip(car=False).given_done("flight", "LH")
    scenario.when_failed("hotel", refused=False).then(undone=["hotel", "flight"], compensated=True)


def test_two_failures_at_once_undo_once() -> None:
    scenario = trip().given_done("flight", "LH").given()
    scenario.when_failed("hotel").then(running={"car"}, undone=[], status="running")
    scenario.when_failed("car").then(undone=["flight"], activities={"hotel": "failed", "car": "failed"})


def test_the_deadline_of_an_activity_ends_it_and_a_result_after_it_changes_nothing() -> None:
    class Slow(ItinerarySaga[Asked]):
        name = "slow"
        starts_with, key = Begun, "id"

        @activity(after=())
        async def first(self, state: Asked, call: Call) -> None: ...

        @first.undo
        async def unfirst(self, state: Asked, call: Call) -> None: ...

        @activity(after=(), within=timedelta(minutes=2))
        async def second(self, state: Asked, call: Call) -> None: ...

        @second.undo
        async def unsecond(self, state: Asked, call: Call) -> None: ...

    scenario = Scenario(Slow).given(Begun("1"))
    late = scenario._instance.running()["second"]
    scenario.after(timedelta(minutes=2)).then(running={"first"}, activities={"second": "failed"})
    before = scenario._instance._version
    step = Slow.activities.steps["second"]  # type: ignore[union-attr]
    scenario._instance.running = lambda: {"first": "1/0", "second": late}  # type: ignore[method-assign]
    scenario._instance.end("second", step.done(), "too late")
    del scenario._instance.running  # type: ignore[method-assign]
    assert scenario._instance._version == before
    scenario.when_done("first").then(undone=["first", "second"], compensated=True)


def approval(**options: Any) -> type[ItinerarySaga[Asked]]:
    class Approval(ItinerarySaga[Asked]):
        name = "approval"
        starts_with, key = Begun, "id"

        @activity
        async def work(self, state: Asked, call: Call) -> None: ...

        @work.undo
        async def unwork(self, state: Asked, call: Call) -> None: ...

        @activity(until=Approved, unless=Rejected, within=timedelta(days=3), **options)
        async def approval(self, state: Asked, call: Call) -> None: ...

        @activity
        async def ship(self, state: Asked, call: Call) -> None: ...

    return Approval


def test_an_activity_waits_for_its_event_and_the_event_is_its_result() -> None:
    scenario = Scenario(approval()).given(Begun("1")).when_done("work")
    scenario.then(running=set(), activities={"approval": "waiting"})
    scenario.when(Approved("1")).then(running={"ship"}, state={"approval": Approved("1")})
    scenario.when(Approved("1", "Bob")).then(state={"approval": Approved("1")})
    scenario.after(timedelta(days=9)).then(running={"ship"})
    scenario.when_done("ship").then(completed=True)


def test_an_event_that_comes_before_its_activity_begins_counts() -> None:
    scenario = Scenario(approval()).given(Begun("1"), Approved("1")).then(activities={"approval": "early"})
    scenario.when_done("work").then(running={"ship"}, activities={"approval": "done"})


def test_a_no_that_comes_before_its_activity_begins_counts() -> None:
    scenario = Scenario(approval()).given(Begun("1"), Rejected("1"))
    scenario.when_done("work").then(undone=["work"], compensated=True)


def test_a_no_and_a_silence_undo_what_was_done() -> None:
    scenario = Scenario(approval()).given(Begun("1")).given_done("work")
    scenario.when(Rejected("1")).then(undone=["work"], compensated=True, activities={"approval": "failed"})
    scenario = Scenario(approval()).given(Begun("1")).given_done("work")
    scenario.after(timedelta(days=2, hours=23)).then(activities={"approval": "waiting"})
    scenario.after(timedelta(hours=1)).then(undone=["work"], compensated=True)


def test_reminders_call_it_again_until_the_event_comes() -> None:
    scenario = Scenario(approval(remind=timedelta(days=1))).given(Begun("1")).given_done("work")
    story = scenario._story
    scenario.after(timedelta(days=2, hours=1))
    assert "\n".join(story._lines).count("asks for approval") == 3
    scenario.when(Approved("1")).after(timedelta(days=5))
    assert "\n".join(story._lines).count("asks for approval") == 3
    assert scenario._instance.record is not None
    assert not scenario._instance.record.timers


def test_what_waits_for_an_event_is_stopped_when_another_fails() -> None:
    class Both(ItinerarySaga[Asked]):
        name = "both"
        starts_with, key = Begun, "id"

        @activity(after=())
        async def work(self, state: Asked, call: Call) -> None: ...

        @activity(after=(), until=Approved)
        async def approval(self, state: Asked, call: Call) -> None: ...

        @approval.undo
        async def withdraw(self, state: Asked, call: Call) -> None: ...

    scenario = Scenario(Both).given(Begun("1"))
    scenario.when_failed("work").then(undone=["approval"], compensated=True)
    scenario = Scenario(Both).given(Begun("1"), Approved("1"))
    scenario.when_failed("work").then(undone=["approval"], activities={"approval": "undone"})


def test_without_what_is_optional_it_goes_on() -> None:
    class Trip(ItinerarySaga[Asked]):
        name = "t"
        starts_with, key = Begun, "id"

        @activity
        async def seat(self, state: Asked, call: Call) -> None: ...

        @activity(optional=True)
        async def upgrade(self, state: Asked, call: Call) -> None: ...

        @upgrade.failed
        def no_upgrade(self, state: Asked, reason: str) -> Iterator[Action]:
            state.log.append(reason)
            yield Send(Told(reason))

        @activity
        async def pay(self, state: Asked, call: Call) -> None: ...

        @pay.then
        def paid(self, state: Asked) -> Iterator[Action]:
            yield Send(Told("paid"))

    scenario = Scenario(Trip).given(Begun("1")).given_done("seat")
    scenario.when_failed("upgrade", "full").then(running={"pay"}, sent=[Told("full")], activities={"upgrade": "left"})
    scenario.when_done("pay").then(completed=True, sent=[Told("paid")], state={"log": ["full"]})


def pivoted() -> type[ItinerarySaga[Asked]]:
    class Pivoted(ItinerarySaga[Asked]):
        name = "pivoted"
        starts_with, key = Begun, "id"

        @activity
        async def reserve(self, state: Asked, call: Call) -> None: ...

        @reserve.undo
        async def release(self, state: Asked, call: Call) -> None: ...

        @activity(pivot=True)
        async def charge(self, state: Asked, call: Call) -> None: ...

        @charge.undo
        async def refund(self, state: Asked, call: Call) -> None: ...

        @activity
        async def ship(self, state: Asked, call: Call) -> None: ...

    return Pivoted


def test_a_pivot_that_fails_lets_everything_be_undone() -> None:
    scenario = Scenario(pivoted()).given(Begun("1")).given_done("reserve")
    scenario.when_failed("charge").then(undone=["reserve"], compensated=True)
    scenario = Scenario(pivoted()).given(Begun("1")).given_done("reserve")
    scenario.when_failed("charge", refused=False).then(undone=["charge", "reserve"])


def test_behind_a_pivot_nothing_is_undone_and_a_failure_is_the_operators() -> None:
    scenario = Scenario(pivoted()).given(Begun("1")).given_done("reserve").given_done("charge")
    assert scenario._instance.record is not None
    assert scenario._instance.record.undo == ()
    with pytest.raises(SagaParkedError):
        scenario.when_failed("ship")
    scenario.when_done("ship").then(completed=True)


def test_results_come_again_without_effect() -> None:
    scenario = trip().given_done("flight", "LH")
    version = scenario._instance._version
    scenario._instance.running = lambda: {"flight": "1/0"}  # type: ignore[method-assign]
    step = TripSaga.activities.steps["flight"]  # type: ignore[union-attr]
    for event in (step.done("LH"), step.done("KLM"), step.failed("no")):
        scenario._instance.end("flight", event, "again")
    assert scenario._instance._version == version
    scenario.then(state={"flight": "LH"})


@dataclass
class Order:
    invoice: str | None = None
    log: list[str] = field(default_factory=list)


@dataclass
class Again:
    id: str


@dataclass
class Closed:
    id: str


class OrderSaga(Saga[Order]):
    name = "orders"

    @starts(Begun, key="id")
    def begun(self, state: Order, event: Begun) -> Iterator[Action]:
        yield Run("invoice")

    @on(Again, key="id")
    def once_more(self, state: Order, event: Again) -> Action:
        return Run(OrderSaga.invoice)

    @on(Closed, key="id")
    def closed(self, state: Order, event: Closed) -> Action:
        return Complete()

    @on(Rejected, key="id")
    def rejected(self, state: Order, event: Rejected) -> Action:
        return Compensate()

    @activity
    async def invoice(self, state: Order, call: Call) -> str: ...  # type: ignore[empty-body]

    @invoice.undo
    async def storno(self, state: Order, call: Call) -> None: ...

    @invoice.then
    def invoiced(self, state: Order) -> Iterator[Action]:
        state.log.append(str(state.invoice))
        yield Send(Told("invoiced"))

    @activity(after=invoice)
    async def mail(self, state: Order, call: Call) -> None: ...


def test_activities_run_inside_a_saga_of_events() -> None:
    scenario = Scenario(OrderSaga).when(Begun("1")).then(running={"invoice"})
    scenario.when(Again("1")).then(running={"invoice"})
    scenario.when_done("invoice", "R-1").then(running={"mail"}, sent=[Told("invoiced")], state={"invoice": "R-1"})
    scenario.when_done("mail").then(running=set(), status="running")
    scenario.when(Again("1")).then(running={"invoice"})
    scenario.when_done("invoice", "R-2").then(running=set(), state={"log": ["R-1", "R-2"]})
    scenario.when(Rejected("1")).then(undone=["invoice", "invoice"], compensated=True)


def test_a_saga_does_not_complete_while_an_activity_of_it_runs() -> None:
    scenario = Scenario(OrderSaga).given(Begun("1"))
    with pytest.raises(DefinitionError, match=r"Complete\(\) while invoice is under way"):
        scenario.when(Closed("1"))
    scenario.given_done("invoice", "R-1").given_done("mail")
    scenario.when(Closed("1")).then(completed=True)


def test_compensating_waits_for_what_runs_and_then_undoes_it() -> None:
    scenario = Scenario(OrderSaga).given(Begun("1"))
    scenario.when(Rejected("1")).then(status="compensating", undone=[], activities={"invoice": "stopped"}, sent=[])
    assert scenario.running == {"invoice"}
    scenario.when_done("invoice", "R-1").then(
        undone=["invoice"], status="compensated", state={"invoice": "R-1", "log": []}
    )
    for refused in (True, False):
        scenario = Scenario(OrderSaga).given(Begun("1"), Rejected("1"))
        scenario.when_failed("invoice", refused=refused)
        scenario.then(undone=[] if refused else ["invoice"], status="compensated", state={"invoice": None})


def test_run_of_an_unknown_activity_is_an_error() -> None:
    class Wrong(Saga[Order]):
        name = "wrong"

        @starts(Begun, key="id")
        def begun(self, state: Order, event: Begun) -> Action:
            return Run("nothing")

    with pytest.raises(DefinitionError, match="has no activities to Run"):
        Scenario(Wrong).when(Begun("1"))

    class Other(OrderSaga):
        name = "other"

        @starts(Begun, key="id")
        def begun(self, state: Order, event: Begun) -> Iterator[Action]:
            yield Run("nothing")

    with pytest.raises(DefinitionError, match="no activity 'nothing' to Run; it has invoice, mail"):
        Scenario(Other).when(Begun("1"))


def changed(scenario: Scenario[Any], saga: type[Saga[Any]]) -> Scenario[Any]:
    """Let newer code go on with an instance."""
    instance = scenario._instance
    instance.saga = scenario._saga = saga()
    instance.registry = saga.registry()
    return scenario


class Shop(ItinerarySaga[Asked]):
    name = "shop"
    starts_with, key = Begun, "id"

    @activity
    async def pack(self, state: Asked, call: Call) -> None: ...

    @pack.undo
    async def unpack(self, state: Asked, call: Call) -> None: ...

    @activity
    async def ship(self, state: Asked, call: Call) -> None: ...


class Larger(ItinerarySaga[Asked]):
    name = "shop"
    starts_with, key = Begun, "id"

    @activity
    async def check(self, state: Asked, call: Call) -> None: ...

    @activity
    async def pack(self, state: Asked, call: Call) -> None: ...

    @pack.undo
    async def unpack(self, state: Asked, call: Call) -> None: ...

    @activity
    async def ship(self, state: Asked, call: Call) -> None: ...

    @activity
    async def thank(self, state: Asked, call: Call) -> None: ...


class Reordered(ItinerarySaga[Asked]):
    name = "shop"
    starts_with, key = Begun, "id"

    @activity
    async def ship(self, state: Asked, call: Call) -> None: ...

    @activity(after="ship")
    async def pack(self, state: Asked, call: Call) -> None: ...


class Smaller(ItinerarySaga[Asked]):
    name = "shop"
    starts_with, key = Begun, "id"

    @activity
    async def ship(self, state: Asked, call: Call) -> None: ...


def test_new_code_passes_over_what_it_puts_before_and_runs_what_it_puts_behind() -> None:
    scenario = changed(Scenario(Shop).given(Begun("1")).given_done("pack"), Larger)
    scenario.when_done("ship").then(running={"thank"}, activities={"check": "skipped"})
    scenario.when_done("thank").then(completed=True)


def test_another_order_changes_nothing_about_what_is_done() -> None:
    scenario = changed(Scenario(Shop).given(Begun("1")).given_done("pack"), Reordered)
    scenario.when_done("ship").then(running=set(), completed=True)


def test_without_an_activity_that_is_done_the_rest_goes_on() -> None:
    scenario = changed(Scenario(Shop).given(Begun("1")).given_done("pack"), Smaller)
    scenario.when_done("ship").then(completed=True)


def test_old_records_have_no_activities_and_new_ones_leave_out_the_empty() -> None:
    @dataclass
    class Nothing:
        id: str = ""

    class Plain(Saga[Nothing]):
        name = "plain"

        @starts(Begun, key="id")
        def begun(self, state: Nothing, event: Begun) -> None: ...

    scenario = Scenario(Plain).given(Begun("1"))
    assert scenario._instance.record is not None
    assert b"activities" not in encode_record(scenario._instance.record)
