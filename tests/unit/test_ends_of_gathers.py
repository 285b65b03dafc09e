"""The event that ends a gather is an event like any other, though it is handled in the step of the last answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import Any

import pytest

from sagalog import (
    Call,
    ChildEnded,
    Complete,
    Gather,
    InMemoryJournal,
    ItinerarySaga,
    Run,
    Saga,
    SagaRunner,
    Send,
    StartChild,
    activity,
    on,
    on_child,
    starts,
    when_all,
)
from sagalog.decision.record import decode_record
from sagalog.testing import Scenario


class Phase(Enum):
    OPEN = "open"
    CLOSED = "closed"


@dataclass
class Begun:
    id: str


@dataclass
class Weigh:
    id: str


@dataclass
class Weighed:
    id: str


@dataclass
class AllWeighed:
    id: str


@dataclass
class NotWeighed:
    id: str


@dataclass
class Paid:
    id: str


@dataclass
class Ask:
    id: str


@dataclass
class Silence:
    id: str


@dataclass
class Shipment:
    log: list[str] = field(default_factory=list)
    begun: Begun | None = None


class Base:
    @on(Weighed, key="id")
    def weighed(self, state: Shipment, event: Weighed) -> None:
        state.log.append("weighed")

    @on(Paid, key="id")
    def paid(self, state: Shipment, event: Paid) -> None:
        state.log.append("paid")

    @on(NotWeighed, key="id")
    def not_weighed(self, state: Shipment, event: NotWeighed) -> None:
        state.log.append("not weighed")


def gather(key: str) -> Gather:
    return Gather("parcels", [Send(Weigh(key)), Send(Weigh(key))], then=AllWeighed(key), failed=NotWeighed(key))


class JoinSaga(Base, Saga[Shipment]):
    name = "joined"

    @starts(Begun, key="id")
    def begun(self, state: Shipment, event: Begun) -> Any:
        yield gather(event.id)

    @on(AllWeighed, key="id")
    def all_weighed(self, state: Shipment, event: AllWeighed) -> None:
        state.log.append("all weighed")

    @when_all(AllWeighed, Paid)
    def ready(self, state: Shipment) -> None:
        state.log.append("ready")

    @when_all(NotWeighed, Paid)
    def returned(self, state: Shipment) -> None:
        state.log.append("returned")


class SlowJoinSaga(JoinSaga):
    name = "slow"

    @on(AllWeighed, key="id")
    async def all_weighed(self, state: Shipment, event: AllWeighed) -> None:  # type: ignore[override]
        state.log.append("all weighed")


class PhasedJoinSaga(JoinSaga):
    name = "phased"
    phases = Phase

    @on(AllWeighed, key="id", during=Phase.OPEN)
    def all_weighed(self, state: Shipment, event: AllWeighed) -> None:
        state.log.append("all weighed")


@pytest.mark.parametrize("saga", [JoinSaga, SlowJoinSaga, PhasedJoinSaga])
def test_the_end_of_a_gather_is_a_leg_of_a_join(saga: type[Saga[Shipment]]) -> None:
    first = Scenario(saga).answers(Weigh, Weighed("1")).given(Begun("1"))
    assert first.joins["ready"] == ("Paid",)
    first.given(Paid("1"))
    assert first.state.log == ["weighed", "weighed", "all weighed", "paid", "ready"]
    last = Scenario(saga).given(Begun("1"), Paid("1"))
    assert last.joins["ready"] == ("AllWeighed",)
    failed = Scenario(saga).refuses(Weigh).given(Begun("1"), Paid("1"))
    assert failed.state.log == ["not weighed", "paid", "returned"]


def test_a_join_runs_in_the_step_of_the_last_answer() -> None:
    """`then` comes behind what has come before."""

    class Later(JoinSaga):
        name = "later"

        @starts(Begun, key="id")
        def begun(self, state: Shipment, event: Begun) -> None: ...

        @on(Paid, key="id")
        def paid(self, state: Shipment, event: Paid) -> Any:
            state.log.append("paid")
            yield gather(event.id)

    order = Scenario(Later).answers(Weigh, Weighed("1")).given(Begun("1"), Paid("1"))
    assert order.state.log == ["paid", "weighed", "weighed", "all weighed", "ready"]


class WaitingSaga(Base, ItinerarySaga[Shipment]):
    name = "waiting"
    starts_with, key = Begun, "id"

    def begin(self, state: Shipment, event: Begun) -> Any:
        return gather(event.id)

    @activity(until=AllWeighed, unless=NotWeighed)
    async def weighing(self, state: Shipment, call: Call) -> None: ...

    @weighing.then
    def weighed_all(self, state: Shipment) -> None:
        state.log.append("then")


def test_the_end_of_a_gather_ends_the_activity_that_waits_for_it() -> None:
    done = Scenario(WaitingSaga).answers(Weigh, Weighed("1")).given(Begun("1"))
    assert (done.status, done.state.log) == ("completed", ["weighed", "weighed", "then"])
    failed = Scenario(WaitingSaga).refuses(Weigh).given(Begun("1"))
    assert (failed.status, failed.state.log) == ("compensated", ["not weighed"])


def test_the_end_of_a_gather_counts_early_for_an_activity_that_waits_for_it_later() -> None:
    class Later(Base, Saga[Shipment]):
        name = "later"

        @starts(Begun, key="id")
        def begun(self, state: Shipment, event: Begun) -> Any:
            yield gather(event.id)

        @on(Paid, key="id")
        def paid(self, state: Shipment, event: Paid) -> Any:
            yield Run("weighing")

        @activity(until=AllWeighed, key="id")
        async def weighing(self, state: Shipment, call: Call) -> None: ...

        @weighing.then
        def weighed_all(self, state: Shipment) -> Any:
            return Complete("weighed")

    order = Scenario(Later).answers(Weigh, Weighed("1")).given(Begun("1"))
    assert order.activities == {"weighing": "early"}
    assert order.given(Paid("1")).result == "weighed"


def test_the_end_of_a_gather_answers_the_request_that_waits_for_it() -> None:
    class Asking(JoinSaga):
        name = "asking"

        @starts(Begun, key="id")
        def begun(self, state: Shipment, event: Begun) -> Any:
            yield Send(Ask(event.id), reply_within=timedelta(hours=1), otherwise=Silence(event.id), reply=AllWeighed)
            yield gather(event.id)

        @on(Silence, key="id")
        def silence(self, state: Shipment, event: Silence) -> None:
            state.log.append("silence")

    order = Scenario(Asking).answers(Weigh, Weighed("1")).given(Begun("1"))
    assert order.awaited == []
    assert order.after(timedelta(hours=2)).state.log == ["weighed", "weighed", "all weighed"]


@dataclass
class CrateOut:
    id: str


@dataclass
class Nothing: ...


class CrateSaga(Saga[Nothing]):
    name = "crate"

    @starts(CrateOut, key="id")
    def out(self, state: Nothing, event: CrateOut) -> None: ...


class OpenRequestSaga(JoinSaga):
    """A request is open while the gather ends, which may answer it."""

    name = "open"

    @starts(Begun, key="id")
    def begun(self, state: Shipment, event: Begun) -> Any:
        yield Send(Ask(event.id), reply_within=timedelta(hours=1), otherwise=Paid(event.id), reply=Paid)
        yield self.parcels(event.id)

    def parcels(self, key: str) -> Gather:
        return gather(key)

    @on_child(CrateSaga)
    def crate(self, state: Shipment, ended: ChildEnded) -> None:
        state.log.append(f"crate {ended.outcome}")


class CratesSaga(OpenRequestSaga):
    name = "crates"

    def parcels(self, key: str) -> Gather:
        return Gather("parcels", [StartChild(CrateSaga, CrateOut("c"))], then=AllWeighed(key), failed=NotWeighed(key))


def test_the_last_leg_may_be_refused_or_a_child_while_a_request_is_open() -> None:
    refused = Scenario(OpenRequestSaga).refuses(Weigh).when(Begun("1"))
    assert refused.state.log == ["not weighed"]
    crates = Scenario(CratesSaga).given(Begun("1"))
    assert crates.when_child(CrateSaga, "c").state.log == ["crate completed", "all weighed"]


async def test_the_record_names_the_answer_and_not_the_end_that_it_led_to() -> None:
    journal = InMemoryJournal()
    async with SagaRunner(journal, sagas=[OpenRequestSaga], dispatch={Ask: print, Weigh: _weighed}) as runner:
        await runner.handle(Begun("1"))
        await runner.settle()
        assert (await runner.state(OpenRequestSaga, "1")).log == ["weighed", "weighed", "all weighed"]
    steps = [decode_record(step.payload) async for step in journal.replay_messages("saga::open::1")]
    assert [one.type for step in steps for one in step.handled] == ["Begun", "Weighed", "Weighed"]


def _weighed(command: Weigh) -> Weighed:
    return Weighed(command.id)
