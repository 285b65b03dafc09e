"""Activities of an itinerary: what runs when, what becomes of results and failures, and whoever dies in between."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from sagalog import (
    Call,
    Compensate,
    ItinerarySaga,
    JournalSagaStateStore,
    RetryPolicy,
    SagaParkedError,
    SagaRecord,
    SagaRunner,
    Status,
    activity,
    on,
)
from sagalog.decision.record import decode_record

from ..trips import Trip, TripRequested, TripSaga, World, refused
from .conftest import Bench, Gate


def runner(bench: Bench, world: World, saga: Any = TripSaga, **settings: Any) -> SagaRunner:
    return bench.runner(sagas=[saga(world)], **settings)


async def record(bench: Bench, saga: str = "trip") -> SagaRecord:
    if bench.journal is None:
        saved = await bench.plain.load("T-1")
    else:
        saved = await JournalSagaStateStore(bench.journal, saga).load_with_tombstone("T-1")
    assert saved is not None
    return decode_record(saved.payload)


async def trip(bench: Bench) -> Trip:
    return TripSaga().decode_state((await record(bench)).state_bytes())


def stages(found: SagaRecord) -> dict[str, str]:
    return {name: stage.status for name, stage in found.activities.items()}


async def test_all_activities_run_and_their_results_are_in_the_state(bench: Bench) -> None:
    world = World()
    async with runner(bench, world) as running:
        await running.handle(TripRequested("T-1"))
        ended = await running.outcome(TripSaga, "T-1", timeout=timedelta(seconds=10))
    assert (ended.status, ended.result) == (Status.COMPLETED, "LH 1")
    assert ended.state == Trip(TripRequested("T-1"), "LH 1", "Ritz", "Beetle", 100)
    assert sorted(world.names) == ["car", "flight", "hotel", "payment"]
    assert world.calls[0][1].id == "saga::trip::T-1/1/0"


async def test_what_is_ready_runs_together_and_what_comes_after_waits_for_all(quick: Bench) -> None:
    world = World()
    hotel, car = world.gate("hotel"), world.gate("car")
    async with runner(quick, world) as running:
        await running.handle(TripRequested("T-1"))
        await world.reached("hotel")
        await world.reached("car")
        car.set()
        while stages(await record(quick)).get("car") != "done":
            await asyncio.sleep(0)
        assert stages(await record(quick)) == {"flight": "done", "hotel": "running", "car": "done"}
        hotel.set()
        await running.settle()
    assert stages(await record(quick)) == dict.fromkeys(("flight", "car", "hotel", "payment"), "done")


async def test_what_is_not_needed_is_skipped(quick: Bench) -> None:
    world = World()
    async with runner(quick, world) as running:
        await running.handle(TripRequested("T-1", car=False))
        await running.settle()
    assert world.names == ["flight", "hotel", "payment"]
    found = await record(quick)
    assert (found.status, found.activities["car"].status) == (Status.COMPLETED, "skipped")


async def test_a_refusal_lets_what_runs_end_and_undoes_what_was_done_last_first_by_completion(bench: Bench) -> None:
    world = World()
    hotel = world.gate("hotel")
    world.answers["payment"] = refused()

    def then(call: Any) -> str:
        return "Ritz"

    world.answers["hotel"] = then
    async with runner(bench, world) as running:
        await running.handle(TripRequested("T-1"))
        await world.reached("car")
        await world.reached("hotel")
        hotel.set()
        ended = await running.outcome(TripSaga, "T-1", timeout=timedelta(seconds=10))
        await running.settle()
    assert ended.status is Status.COMPENSATED
    assert world.names[-3:] == ["cancel Ritz", "cancel Beetle", "cancel LH 1"]
    found = await record(bench)
    assert stages(found) == {"flight": "undone", "car": "undone", "hotel": "undone", "payment": "failed"}
    assert found.activities["payment"].why == "refused: sold out"
    undo = world.calls[-1][1]
    assert undo.of == "saga::trip::T-1/1/0"
    assert undo.id != undo.of


async def test_a_refusal_stops_what_has_not_begun_while_another_still_runs(quick: Bench) -> None:
    world = World(answers={"car": refused()})
    hotel = world.gate("hotel")
    async with runner(quick, world) as running:
        await running.handle(TripRequested("T-1"))
        await world.reached("hotel")
        while stages(await record(quick)).get("car") != "failed":
            await asyncio.sleep(0)
        assert (await record(quick)).status is Status.RUNNING
        assert "cancel LH 1" not in world.names
        hotel.set()
        await running.settle()
    assert world.names[-2:] == ["cancel Ritz", "cancel LH 1"]  # the car was refused: there is nothing to take back
    assert "payment" not in world.names
    assert (await record(quick)).status is Status.COMPENSATED


@dataclass
class TripAborted:
    trip_id: str


class AbortedSaga(TripSaga):
    name = "aborted"

    @on(TripAborted, key="trip_id")
    def aborted(self, trip: Trip, event: TripAborted) -> Compensate:
        return Compensate()


async def test_an_undo_finds_the_result_of_a_call_that_ran_when_its_saga_began_to_compensate(bench: Bench) -> None:
    world = World(answers={"car": refused()})
    hotel, car = world.gate("hotel"), world.gate("car")
    async with runner(bench, world, AbortedSaga) as running:
        await running.handle(TripRequested("T-1"))
        await world.reached("hotel")
        await world.reached("car")
        await running.handle(TripAborted("T-1"))
        assert (await record(bench, "aborted")).status is Status.COMPENSATING
        hotel.set()
        car.set()
        ended = await running.outcome(AbortedSaga, "T-1", timeout=timedelta(seconds=30))
    assert ended.status is Status.COMPENSATED
    assert world.names[3:] == ["cancel Ritz", "cancel LH 1"]  # the car was refused: there is nothing to take back
    assert ended.state.hotel == "Ritz"


async def test_an_activity_whose_attempts_are_used_up_has_failed_and_is_undone_too(quick: Bench) -> None:
    world = World(answers={"hotel": ConnectionError("quoting a secret")})
    async with runner(
        quick,
        world,
        dispatch_retry=RetryPolicy(attempts=2, base=timedelta(milliseconds=1), cap=timedelta(milliseconds=1)),
    ) as running:
        await running.handle(TripRequested("T-1", car=False))
        await running.settle()
        while (await record(quick)).status is Status.RUNNING:
            await asyncio.sleep(0.001)
        await running.settle()
    assert world.names == ["flight", "hotel", "hotel", "cancel None", "cancel LH 1"]
    assert [call.attempt for name, call in world.calls if name == "hotel"] == [1, 2]
    assert len({call.id for name, call in world.calls if name == "hotel"}) == 1
    found = await record(quick)
    assert found.status is Status.COMPENSATED
    assert found.activities["hotel"].why.startswith("not done in 2 attempts: ConnectionError")
    assert "secret" not in found.activities["hotel"].why


async def test_a_worker_that_dies_in_an_activity_is_followed_by_one_that_calls_it_again_under_its_id(
    quick: Bench,
) -> None:
    first, second = World(), World()
    first.gate("hotel")
    assert quick.journal is not None
    others = asyncio.all_tasks()
    store = Gate(JournalSagaStateStore(quick.journal, "trip"))
    one = quick.runner(store, sagas=[TripSaga(first)], lease=timedelta(milliseconds=300))
    await one.start()
    await one.handle(TripRequested("T-1"))
    await first.reached("hotel")
    while stages(await record(quick)).get("car") != "done":
        await asyncio.sleep(0.01)
    for task in asyncio.all_tasks() - others:
        task.cancel()  # as if it were killed
    store.deaf = True  # what is left of it claims nothing
    await asyncio.sleep(0)
    async with runner(quick, second, lease=timedelta(milliseconds=300)) as two:
        quick.advance(seconds=10)
        ended = await two.outcome(TripSaga, "T-1", timeout=timedelta(seconds=40))
    assert ended.state == Trip(TripRequested("T-1"), "LH 1", "Ritz", "Beetle", 100)
    assert second.names == ["hotel", "payment"]
    assert second.calls[0][1].id == next(call.id for name, call in first.calls if name == "hotel")


async def test_the_state_that_an_activity_gets_is_its_own(quick: Bench) -> None:
    class Greedy(TripSaga):
        pass

    world = World()
    saga = Greedy(world)

    async def spoil(trip: Trip, call: Any) -> str:
        trip.flight = "changed"
        return "LH 2"

    vars(saga)["flight"] = spoil
    async with quick.runner(sagas=[saga]) as running:
        await running.handle(TripRequested("T-1"))
        await running.settle()
    assert (await trip(quick)).flight == "LH 2"


async def test_a_result_of_another_type_than_declared_parks_and_skip_goes_on_without_it(quick: Bench) -> None:
    world = World(answers={"flight": 5})
    async with runner(quick, world) as running:
        await running.handle(TripRequested("T-1"))
        await running.settle()
        found = await record(quick)
        assert found.parked.startswith("command trip.flight was carried out, but its answer, a trip.flight.done")
        with pytest.raises(SagaParkedError):
            raise SagaParkedError("trip", "T-1", found.parked)
        await running.skip("trip", "T-1")
        await running.settle()
    found = await record(quick)
    assert (found.status, found.activities["flight"].status) == (Status.COMPLETED, "skipped")
    assert found.activities["flight"].why == "by an operator"


async def test_retry_calls_a_parked_activity_again_under_its_id(quick: Bench) -> None:
    world = World(answers={"hotel": TypeError()})
    async with runner(quick, world) as running:
        await running.handle(TripRequested("T-1"))
        while not (await record(quick)).parked:
            await asyncio.sleep(0.001)
        world.answers["hotel"] = "Ritz"
        await running.retry("trip", "T-1")
        await running.settle()
    assert (await record(quick)).status is Status.COMPLETED
    ids = [call.id for name, call in world.calls if name == "hotel"]
    assert len(ids) == 2
    assert len(set(ids)) == 1


async def test_cancel_undoes_also_what_was_under_way(quick: Bench) -> None:
    world = World()
    world.gate("hotel")
    async with runner(quick, world) as running:
        await running.handle(TripRequested("T-1", car=False))
        await world.reached("hotel")
        await running.cancel("trip", "T-1")
        await running.settle()
    assert world.names == ["flight", "hotel", "cancel None", "cancel LH 1"]
    found = await record(quick)
    assert found.status is Status.COMPENSATED
    assert stages(found) == {"flight": "undone", "car": "skipped", "hotel": "undone"}


async def test_cancel_as_it_stands_calls_nothing_any_more_and_the_next_life_starts_clean(quick: Bench) -> None:
    world = World()
    world.gate("hotel")
    async with runner(quick, world) as running:
        await running.handle(TripRequested("T-1", car=False))
        await world.reached("hotel")
        await running.cancel("trip", "T-1", compensate=False)
        await running.settle()
        found = await record(quick)
        assert (found.status, stages(found)) == (
            Status.CANCELLED,
            {"flight": "done", "car": "skipped", "hotel": "stopped"},
        )
        world.gates.clear()
        await running.handle(TripRequested("T-1", car=False))
        await running.settle()
    found = await record(quick)
    assert (found.status, found.incarnation) == (Status.COMPLETED, 2)
    assert stages(found) == {"flight": "done", "car": "skipped", "hotel": "done", "payment": "done"}
    assert world.names == ["flight", "hotel", "flight", "hotel", "payment"]


async def test_dropping_a_running_activity_skips_it_and_the_others_go_on(quick: Bench) -> None:
    world = World()
    world.gate("hotel")
    async with runner(quick, world) as running:
        await running.handle(TripRequested("T-1", car=False))
        await world.reached("hotel")
        await running.drop("trip", "T-1", (await record(quick)).activities["hotel"].entry)
        await running.settle()
    found = await record(quick)
    assert found.status is Status.COMPLETED
    assert stages(found) == {"flight": "done", "car": "skipped", "hotel": "skipped", "payment": "done"}


async def test_stop_waits_for_the_activities_that_run(quick: Bench) -> None:
    world = World()
    gate = world.gate("flight")
    running = runner(quick, world)
    await running.start()
    await running.handle(TripRequested("T-1"))
    await world.reached("flight")
    stopping = asyncio.create_task(running.stop())
    await asyncio.sleep(0)
    gate.set()
    await stopping
    assert stages(await record(quick))["flight"] == "done"


async def test_skipping_again_what_could_not_go_on_from_a_skipped_activity_loses_nothing(quick: Bench) -> None:
    class Hasty(TripSaga):
        wrong = True

        def result(self, trip: Trip) -> str | None:
            if self.wrong:
                raise RuntimeError
            return super().result(trip)

    world = World(answers={"payment": TypeError()})
    saga = Hasty(world)
    async with quick.runner(sagas=[saga]) as running:
        await running.handle(TripRequested("T-1", car=False))
        while not (await record(quick)).parked:
            await asyncio.sleep(0.001)
        assert (await running.skip("trip", "T-1")).parked.startswith("replaying trip.proceed failed")
        assert (await running.skip("trip", "T-1")).parked.startswith("replaying trip.proceed failed")
        saga.wrong = False
        await running.skip("trip", "T-1")
        await running.settle()
    found = await record(quick)
    assert (found.status, found.activities["payment"].status) == (Status.COMPLETED, "skipped")


async def test_a_step_that_parks_at_a_result_keeps_it_and_skip_goes_on_without_it(quick: Bench) -> None:
    class Picky(TripSaga):
        @TripSaga.hotel.then
        def check(self, trip: Trip) -> None:
            raise ValueError(trip.hotel)

    world = World()
    async with quick.runner(sagas=[Picky(world)]) as running:
        await running.handle(TripRequested("T-1", car=False))
        while not (await record(quick)).parked:
            await asyncio.sleep(0.001)
        await running.skip("trip", "T-1")
        await running.settle()
    found = await record(quick)
    assert (found.status, found.activities["hotel"].status) == (Status.COMPLETED, "skipped")
    assert world.names == ["flight", "hotel", "payment"]


TRAVELLER: ContextVar[str] = ContextVar("traveller", default="nobody")


class NotedSaga(ItinerarySaga[Trip]):
    """Each activity notes who the traveller is to it, then says who it is for whatever it calls."""

    name = "noted"
    starts_with, key = TripRequested, "trip_id"
    seen: tuple[str, ...] = ()
    tasks: frozenset[asyncio.Task[Any] | None] = frozenset()

    def note(self, call: Call) -> None:
        type(self).seen += (TRAVELLER.get(),)
        type(self).tasks |= {asyncio.current_task()}
        TRAVELLER.set(call.correlation_id)

    @activity
    async def flight(self, trip: Trip, call: Call) -> None:
        self.note(call)

    @activity
    def hotel(self, trip: Trip, call: Call) -> None:
        self.note(call)

    @activity
    async def car(self, trip: Trip, call: Call) -> None:
        self.note(call)
        await asyncio.sleep(0)

    @activity
    async def payment(self, trip: Trip, call: Call) -> None:
        self.note(call)


async def test_activities_that_follow_each_other_share_a_task_and_nothing_that_they_set_in_their_context(
    quick: Bench,
) -> None:
    async with quick.runner(sagas=[NotedSaga]) as running:
        for number in range(3):
            await running.handle(TripRequested(f"T-{number}"))
            await running.outcome(NotedSaga, f"T-{number}", timeout=timedelta(seconds=30))
    assert NotedSaga.seen == ("nobody",) * 12
    assert len(NotedSaga.tasks) <= 3


async def test_what_waits_for_a_task_when_its_worker_stops_is_called_by_the_next_one(quick: Bench) -> None:
    world = World()
    async with runner(quick, world) as running:
        await running.handle(TripRequested("T-1"))
    quick.advance(minutes=5)  # its lease is over
    async with runner(quick, world) as running:
        ended = await running.outcome(TripSaga, "T-1", timeout=timedelta(seconds=30))
    assert ended.status is Status.COMPLETED
    assert sorted(world.names) == ["car", "flight", "hotel", "payment"]
