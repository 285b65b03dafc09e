"""Activities that end by an event or a deadline: `then` and `failed` run in that step, also where phases come in."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import Any

import pytest

from sagalog import (
    Call,
    Complete,
    DefinitionError,
    Enter,
    ItinerarySaga,
    Run,
    Saga,
    Send,
    activity,
    on,
    on_enter,
    starts,
)
from sagalog.diagram.outline import outline
from sagalog.testing import Scenario


class Phase(Enum):
    ASKED = "asked"
    DECIDED = "decided"


@dataclass
class Asked:
    id: str


@dataclass
class Approved:
    id: str


@dataclass
class Rejected:
    id: str


@dataclass
class Decided:
    id: str


@dataclass
class Tell:
    text: str


@dataclass
class Order:
    asked: Asked | None = None
    approval: Approved | None = None
    log: list[str] = field(default_factory=list)


class OrderSaga(ItinerarySaga[Order]):
    name = "order"
    starts_with, key = Asked, "id"
    phases = Phase

    @activity
    async def reserve(self, order: Order, call: Call) -> None: ...

    @activity(until=Approved, unless=Rejected, within=timedelta(days=3))
    async def approval(self, order: Order, call: Call) -> None: ...

    @approval.then
    def approved(self, order: Order) -> Any:
        assert order.approval is not None
        order.log.append("then")
        yield Send(Tell("approved"))
        yield Enter(Phase.DECIDED)

    @approval.failed
    def rejected(self, order: Order, reason: str) -> Any:
        order.log.append(f"failed: {reason}")
        yield Enter(Phase.DECIDED)

    @on_enter(Phase.DECIDED)
    def decided(self, order: Order) -> None:
        order.log.append("decided")

    @activity(when=lambda order: "then" in order.log)
    async def ship(self, order: Order, call: Call) -> None: ...


def asked() -> Scenario[Order]:
    return Scenario(OrderSaga).given(Asked("1")).given_done("reserve")


def test_then_runs_in_the_step_of_the_event_and_before_what_comes_next() -> None:
    asked().when(Approved("1")).then(
        sent=[Tell("approved")], state={"log": ["then", "decided"]}, phase=Phase.DECIDED, running={"ship"}
    )


def test_failed_runs_in_the_step_of_the_event_that_refuses() -> None:
    rejected = asked().when(Rejected("1"))
    rejected.then(compensated=True, state={"log": ["failed: Rejected came", "decided"]})


def test_failed_runs_in_the_step_of_the_deadline() -> None:
    late = asked().after(timedelta(days=3))
    late.then(compensated=True, state={"log": ["failed: it took longer than 3 days, 0:00:00", "decided"]})


@pytest.mark.parametrize(("event", "told"), [(Approved, "then"), (Rejected, "failed: Rejected came")])
def test_they_run_once_when_the_event_came_before_its_activity_began(event: type, told: str) -> None:
    early = Scenario(OrderSaga).given(Asked("1")).when(event("1"))
    assert early.state.log == []
    early.when_done("reserve")
    assert early.state.log == [told, "decided"]
    assert early.phase is Phase.DECIDED


class FreeSaga(Saga[Order]):
    name = "free"
    phases = Phase

    @starts(Asked, key="id")
    def begun(self, order: Order, event: Asked) -> Any:
        yield Run("approval")

    @activity(until=Approved, unless=Rejected, key="id")
    async def approval(self, order: Order, call: Call) -> None: ...

    @approval.then
    def approved(self, order: Order) -> Any:
        yield Run("invoice")

    @approval.failed
    def rejected(self, order: Order, reason: str) -> Any:
        yield Complete(reason)

    @activity
    async def invoice(self, order: Order, call: Call) -> None: ...

    @on(Approved, key="id", during=Phase.DECIDED, unexpected="ignore")
    def heard(self, order: Order, event: Approved) -> None:
        order.log.append("heard")


def test_then_may_run_the_next_activity_and_failed_may_complete() -> None:
    Scenario(FreeSaga).given(Asked("1")).when(Approved("1")).then(running={"invoice"})
    Scenario(FreeSaga).given(Asked("1")).when(Rejected("1")).then(result="Rejected came")


def test_an_event_that_its_phase_ignores_ends_the_activity_that_asked_for_it() -> None:
    free = Scenario(FreeSaga).given(Asked("1")).when(Approved("1"))
    free.then(activities={"approval": "done"}, state={"log": [], "approval": Approved("1")})
    free.when(Approved("1")).then(state={"log": []})


@pytest.mark.parametrize("event", [Approved, Rejected])
def test_an_event_that_its_phase_keeps_has_come_in_time(event: type) -> None:
    class Kept(ItinerarySaga[Order]):
        name = "kept"
        starts_with, key = Asked, "id"
        phases = Phase

        @activity(until=Approved, unless=Rejected, within=timedelta(days=3), remind=timedelta(days=1))
        async def approval(self, order: Order, call: Call) -> None: ...

        @on(Approved, key="id", during=Phase.DECIDED, unexpected="keep")
        def approved(self, order: Order, event: Approved) -> None: ...

        @on(Rejected, key="id", during=Phase.DECIDED, unexpected="keep")
        def rejected(self, order: Order, event: Rejected) -> None: ...

        @on(Decided, key="id")
        def decided(self, order: Order, event: Decided) -> Any:
            return Enter(Phase.DECIDED)

    order = Scenario(Kept).given(Asked("1"), event("1"))
    assert order._instance.record is not None
    assert order._instance.record.timers == {}
    order.after(timedelta(days=4)).then(status="running")
    order.given(Decided("1"))
    assert order.status == ("completed" if event is Approved else "compensated")


def test_an_async_method_of_an_activity_that_ends_by_an_event_is_told_when_the_class_is_made() -> None:
    with pytest.raises(DefinitionError, match=r"^LateSaga.approved\(\) is @approval.then, which ends by an event;"):

        class LateSaga(ItinerarySaga[Order]):
            name = "late"
            starts_with, key = Asked, "id"

            @activity(until=Approved)
            async def approval(self, order: Order, call: Call) -> None: ...

            @approval.then
            async def approved(self, order: Order) -> None: ...


@pytest.mark.parametrize("what", ["undo", "then", "failed"])
def test_an_undo_without_an_activity_is_told_when_the_class_is_made(what: str) -> None:
    with pytest.raises(
        DefinitionError, match=rf"^@activity.{what} does not say for which activity: write @flight.{what}"
    ):

        class LostSaga(ItinerarySaga[Order]):
            name = "lost"
            starts_with, key = Asked, "id"

            @getattr(activity, what)
            async def cancel(self, order: Order, call: Call) -> None: ...


@dataclass
class Stopped:
    id: str


class StoppingSaga(Saga[Order]):
    name = "stopping"

    @starts(Asked, key="id")
    def begun(self, order: Order, event: Asked) -> Any:
        yield Run("approval")

    @activity(until=Approved, key="id", within=timedelta(days=3), remind=timedelta(days=1))
    async def approval(self, order: Order, call: Call) -> None: ...

    @approval.failed
    def too_late(self, order: Order, reason: str) -> Any:
        yield Send(Tell("too late"))

    @on(Stopped, key="id")
    def stopped(self, order: Order, event: Stopped) -> Any:
        yield Complete()


def test_completing_stops_what_waits_for_an_event() -> None:
    stopped = Scenario(StoppingSaga).given(Asked("1")).when(Stopped("1"))
    stopped.then(completed=True, activities={"approval": "stopped"})
    stopped.after(timedelta(days=9)).when(Approved("1")).then(sent=[], completed=True)


def test_the_picture_draws_what_a_failed_activity_asks_for() -> None:
    (approval,) = [one for one in outline(StoppingSaga).reactions if one.activity]
    assert approval.sends == {"Tell": ""}
