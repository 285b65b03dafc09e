"""A command is carried out by code that can handle its answer: an old worker leaves those of a newer state to a new one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from sagalog import (
    Call,
    CommandRefused,
    Complete,
    Gather,
    InMemoryJournal,
    ItinerarySaga,
    ManualClock,
    RetryPolicy,
    RunnerSettings,
    Saga,
    SagaRunner,
    Send,
    activity,
    on,
    on_refused,
    schema,
    starts,
    upcast,
)

from .old_and_new import until


@dataclass
class Placed:
    order_id: str


@dataclass
class Charge:
    order_id: str


@dataclass
class Refund:
    order_id: str


@dataclass
class Charged:
    order_id: str


@dataclass
class Asked:
    order_id: str


@dataclass
class Closed:
    order_id: str


@dataclass
class State:
    log: list[str] = field(default_factory=list)


@schema(version=2)
@dataclass
class NewState:
    log: list[str] = field(default_factory=list)


@upcast(NewState, from_version=1)
def _(document: Any) -> Any:
    return document


class Old(Saga[State]):
    name = "order"

    @starts(Placed, key="order_id")
    def placed(self, state: Any, event: Placed) -> Any:
        return Send(Charge(event.order_id), undo=Refund(event.order_id))

    @on(Charged, key="order_id")
    def charged(self, state: Any, event: Charged) -> None:
        state.log.append("charged")

    @on_refused(Charge)
    def not_charged(self, state: Any, refused: Any) -> None:
        state.log.append("refused")

    @on(Asked, key="order_id")
    def asked(self, state: Any, event: Asked) -> None:
        state.log.append("asked")

    @on(Closed, key="order_id")
    def closed(self, state: Any, event: Closed) -> Any:
        return Complete()


class New(Saga[NewState]):
    name = "order"

    placed, charged, not_charged, asked, closed = Old.placed, Old.charged, Old.not_charged, Old.asked, Old.closed


@dataclass
class Done:
    order_id: str


@schema(name="Done", version=2)
@dataclass
class NewDone:
    order_id: str
    how: str = ""


@upcast(NewDone, from_version=1)
def _(document: Any) -> Any:
    return document


class Gathering(Saga[State]):
    name = "order"

    @starts(Placed, key="order_id")
    def placed(self, state: Any, event: Placed) -> Any:
        done = Done(event.order_id)
        return Gather("cards", [Send(Charge(event.order_id)) for _ in range(2)], then=done, failed=done)

    @on(Charged, key="order_id")
    def charged(self, state: Any, event: Charged) -> None:
        state.log.append("charged")

    @on(Done, key="order_id")
    def done(self, state: Any, event: Any) -> None:
        state.log.append("done")


class NewGathering(Gathering):
    @starts(Placed, key="order_id")
    def placed(self, state: Any, event: Placed) -> Any:
        done = NewDone(event.order_id)
        return Gather("cards", [Send(Charge(event.order_id)) for _ in range(2)], then=done, failed=done)

    @on(NewDone, key="order_id")
    def done(self, state: Any, event: Any) -> None:
        state.log.append("done")


CALLS: list[str] = []


class OldTrip(ItinerarySaga[State]):
    name = "order"
    starts_with, key = Placed, "order_id"

    def begin(self, state: Any, event: Placed) -> None:
        state.log.append("placed")

    @activity
    async def charge(self, state: Any, call: Call) -> None:
        CALLS.append(type(state).__name__)


class NewTrip(ItinerarySaga[NewState]):
    name = "order"
    starts_with, key = Placed, "order_id"

    def begin(self, state: Any, event: Placed) -> None:
        state.log.append("placed")

    @activity
    async def charge(self, state: Any, call: Call) -> None:
        CALLS.append(type(state).__name__)


class Shop:
    """Old and new workers on one journal, and who carried out which command."""

    def __init__(self) -> None:
        self.journal, self.clock = InMemoryJournal(), ManualClock()
        self.carried_out: list[tuple[str, str]] = []

    def worker(self, saga: type[Saga[Any]], answer: Callable[[Any], Any] | None = None, **more: Any) -> SagaRunner:
        async def carry_out(command: Any) -> Any:
            self.carried_out.append((saga.__name__, type(command).__name__))
            if answer is not None:
                return await answer(command)
            return Charged(command.order_id) if isinstance(command, Charge) else None

        settings = RunnerSettings(due_poll=timedelta(hours=1))
        dispatch = {Charge: carry_out, Refund: carry_out} if saga in (Old, New) else {Charge: carry_out}
        dispatch = {} if issubclass(saga, ItinerarySaga) else dispatch
        return SagaRunner(self.journal, sagas=[saga], dispatch=dispatch, clock=self.clock, settings=settings, **more)

    async def placed_with(self, saga: type[Saga[Any]]) -> None:
        """Let a process that carries out nothing take the order."""
        async with self.worker(saga, client=True) as client:
            await client.handle(Placed("a"))


@pytest.fixture
def shop() -> Shop:
    CALLS.clear()
    return Shop()


@pytest.mark.parametrize(("old", "new"), [(Old, New), (Gathering, NewGathering)])
async def test_what_only_newer_code_could_be_answered_is_left_to_it(shop: Shop, old: Any, new: Any) -> None:
    await shop.placed_with(new)
    async with shop.worker(old) as worker:
        for _ in range(3):
            shop.clock.advance(timedelta(seconds=20))
            await worker.settle()
        health = await worker.health()
        assert health.ready
        assert "1 instance cannot be read by this worker, 'a' first" in health.reasons[0]
    assert shop.carried_out == []
    shop.clock.advance(timedelta(seconds=20))
    async with shop.worker(new) as worker:
        await worker.settle()
        found = await worker.instance(new, "a")
    legs = 1 if new is New else 2
    assert shop.carried_out == [(new.__name__, "Charge")] * legs
    assert found.state.log == ["charged"] * legs + (["done"] if legs > 1 else [])


async def test_an_old_worker_calls_no_activity_of_a_newer_state_and_parks_nothing(shop: Shop) -> None:
    await shop.placed_with(NewTrip)
    async with shop.worker(OldTrip) as worker:
        shop.clock.advance(timedelta(seconds=20))
        await worker.settle()
        assert worker.counters.parked <= 1  # in the memory of that worker
    assert CALLS == []
    shop.clock.advance(timedelta(seconds=20))
    async with shop.worker(NewTrip) as worker:
        await worker.settle()
        assert (await worker.instance(NewTrip, "a")).status == "completed"
    assert CALLS == ["NewState"]


@pytest.mark.parametrize("answer", ["answers", "refuses"])
async def test_an_answer_that_has_become_too_new_lets_a_new_worker_carry_it_out(shop: Shop, answer: str) -> None:
    begun, goes_on = asyncio.Event(), asyncio.Event()

    async def slow(command: Charge) -> Charged:
        begun.set()
        await goes_on.wait()
        if answer == "refuses":
            raise CommandRefused("no")
        return Charged(command.order_id)

    async with shop.worker(Old, slow) as old, shop.worker(New, slow) as new:
        await old.handle(Placed("a"))
        await begun.wait()
        assert (await new.handle(Asked("a"))).handled
        goes_on.set()
        await until(lambda: old.counters.dispatch_errors)
        for _ in range(2):  # the old worker does not look at it again for three leases
            shop.clock.advance(timedelta(seconds=6))
            await old.settle()
            await new.settle()
        found = await new.instance(New, "a")
    assert shop.carried_out == [("Old", "Charge"), ("New", "Charge")]
    assert found.state.log == ["asked", "charged" if answer == "answers" else "refused"]
    assert not found.parked


async def test_what_answers_nothing_that_matters_is_carried_out_by_an_old_worker(shop: Shop) -> None:
    await shop.placed_with(New)
    async with shop.worker(New, client=True) as client:
        await client.handle(Closed("a"))
    async with shop.worker(Old) as worker:
        shop.clock.advance(timedelta(seconds=20))
        await worker.settle()
    assert shop.carried_out == [("Old", "Charge")]


@dataclass
class Asking:
    asking_id: str


class Source(Saga[State]):
    name = "source"

    @starts(Asking, key="asking_id")
    def asking(self, state: Any, event: Asking) -> Any:
        return Send(Refund(event.asking_id))


async def test_an_answer_for_another_instance_that_only_newer_code_can_read_waits_without_another_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal, calls = InMemoryJournal(), 0
    at_once = RunnerSettings(dispatch_retry=RetryPolicy(base=timedelta(0), cap=timedelta(0)))

    def refund(command: Refund) -> Charged:
        nonlocal calls
        calls += 1
        return Charged("a")

    async with SagaRunner(journal, sagas=[New], dispatch={Charge: lambda command: None}) as worker:
        await worker.handle(Placed("a"))
        await worker.settle()
    async with SagaRunner(
        journal, sagas=[Old, Source], dispatch={Charge: refund, Refund: refund}, settings=at_once
    ) as old:
        await old.handle(Asking("s"))
        await until(lambda: "waits until it can be stored" in caplog.text)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert calls == 1
    clock = ManualClock()
    async with SagaRunner(
        journal, sagas=[New, Source], dispatch={Charge: refund, Refund: refund}, clock=clock
    ) as worker:
        clock.advance(timedelta(days=1))
        await worker.settle()
        assert (await worker.instance(New, "a")).state.log == ["charged"]
    assert calls == 2
