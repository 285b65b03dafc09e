"""How an instance ended, asked of a runner: whoever ended it."""

from __future__ import annotations

import asyncio
import pickle
from datetime import timedelta
from typing import Any

import pytest

from sagalog import (
    CommandRefused,
    DefinitionError,
    InMemoryJournal,
    NoInstanceError,
    OutcomeGoneError,
    OutcomeTimeoutError,
    RunnerStoppedError,
    Saga,
    SagaOutcome,
    Status,
    starts,
)
from sagalog.decision.ids import CONTROLS
from sagalog.runner import follower

from .asking import SOON, runner, waiting
from .conftest import Bench
from .trips import Asked, Booked, Booking, CalledOff, Failed, Trip, TripSaga


@pytest.fixture
async def memory() -> Bench:
    return Bench(InMemoryJournal())


async def test_an_outcome_tells_how_it_ended_with_its_result_and_state(bench: Bench) -> None:
    async with runner(bench) as one:
        await one.handle(Asked("T-1"))
        asked = asyncio.create_task(one.outcome(TripSaga, "T-1", timeout=SOON))
        await waiting(one)
        bench.advance(seconds=5)
        await one.handle(Booked("T-1", "B-7"))
        outcome = await asked
        assert (outcome.saga, outcome.correlation_id, outcome.status) == ("trip", "T-1", Status.COMPLETED)
        assert outcome.result == Booking("B-7", [0, 1])
        assert outcome.state == Trip("B-7", ["asked"])
        assert outcome.ended_at == bench.clock.now()
        assert outcome.incarnation == 1
        bench.advance(hours=1)
        await one.settle()
        again = await one.outcome(TripSaga, "T-1", timeout=SOON)
        assert again.finished
        assert (again.ended_at, again.result) == (outcome.ended_at, outcome.result)
        assert "B-7" not in repr(again)


async def test_an_outcome_without_its_state_says_so_also_after_it_was_pickled(memory: Bench) -> None:
    gone = SagaOutcome("trip", "T-1", Status.COMPLETED, None, memory.clock.now())
    with pytest.raises(OutcomeGoneError):
        _ = pickle.loads(pickle.dumps(gone)).state


async def test_an_outcome_tells_that_it_was_compensated_or_could_not_be(bench: Bench) -> None:
    def refuse(command: Any) -> None:
        if type(command).__name__ == "Unbook" and command.trip == "T-2":
            raise CommandRefused("no")

    async with runner(bench, dispatch=refuse) as one:
        for name in ("T-1", "T-2"):
            await one.handle(Asked(name))
            await one.settle()
        asked = [asyncio.create_task(one.outcome(TripSaga, name, timeout=SOON)) for name in ("T-1", "T-2")]
        await waiting(one, 2)
        for name in ("T-1", "T-2"):
            await one.handle(CalledOff(name))
        first, second = await asyncio.gather(*asked)
        assert (first.status, first.result) == (Status.COMPENSATED, None)
        assert (second.status, second.finished) == (Status.COMPENSATION_FAILED, False)
        await one.skip("trip", "T-2")
        assert (await one.outcome(TripSaga, "T-2", timeout=SOON)).status is Status.COMPENSATED


async def test_a_cancelled_instance_has_an_outcome(memory: Bench) -> None:
    async with runner(memory) as one:
        await one.handle(Asked("T-1"))
        await one.settle()
        asked = asyncio.create_task(one.outcome(TripSaga, "T-1", timeout=SOON))
        await waiting(one)
        await one.cancel("trip", "T-1", compensate=False)
        assert (await asked).status is Status.CANCELLED


async def test_an_outcome_is_heard_of_when_another_worker_ends_the_instance(shared: Bench) -> None:
    async with runner(shared) as one, runner(shared) as other:
        await one.handle(Asked("T-1"))
        await one.settle()
        asked = [asyncio.create_task(one.outcome(TripSaga, "T-1", timeout=SOON)) for _ in range(3)]
        await waiting(one, 3)
        await other.handle(Booked("T-1", "B-7"))
        assert [(await outcome).result for outcome in asked] == [Booking("B-7", [0, 1])] * 3
        assert not one._started.engine.awaited  # type: ignore[union-attr]


async def test_where_a_journal_cannot_be_followed_some_are_looked_up_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unfollowed(InMemoryJournal):
        newest_offset = None  # type: ignore[assignment]

        async def latest_messages(self, persistence_ids: Any) -> Any:
            looked.append(len(persistence_ids))
            return await super().latest_messages(persistence_ids)

    monkeypatch.setattr(follower, "_AT_ONCE", 2)
    looked: list[int] = []
    bench = Bench(Unfollowed())
    async with runner(bench, outcome_poll=timedelta(milliseconds=1)) as one, runner(bench) as other:
        names = [f"T-{number}" for number in range(7)]
        for name in names:
            await one.handle(Asked(name))
        await one.settle()
        looked.clear()
        asked = [asyncio.create_task(one.outcome(TripSaga, name, timeout=SOON)) for name in names]
        await waiting(one, 7)
        for name in names:
            await other.handle(Booked(name, name))
        assert [(await outcome).result.number for outcome in asked] == names
        assert max(looked) == 2


async def test_thousands_who_wait_cost_the_journal_what_one_does(
    memory: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(memory.journal, InMemoryJournal)
    calls: list[str] = []
    for name in ("latest_messages", "latest_message", "records_after", "newest_offset"):
        real = getattr(memory.journal, name)

        async def counted(*arguments: Any, _real: Any = real, _name: str = name, **keywords: Any) -> Any:
            if arguments != ([CONTROLS],):  # which is looked at whoever waits
                calls.append(_name)
            return await _real(*arguments, **keywords)

        monkeypatch.setattr(memory.journal, name, counted)
    async with (
        runner(memory, max_in_flight=3_000, outcome_poll=timedelta(milliseconds=10)) as one,
        runner(memory) as other,
    ):
        await asyncio.gather(*(one.handle(Asked(f"T-{number}")) for number in range(3_000)))
        await one.settle()
        asked = [asyncio.create_task(one.outcome(TripSaga, f"T-{number}")) for number in range(3_000)]
        calls.clear()
        await waiting(one, 3_000)
        assert len(calls) < 100  # lookups of many at once
        calls.clear()
        while calls.count("records_after") < 5:
            await asyncio.sleep(0.001)
        assert calls.count("latest_messages") + calls.count("latest_message") <= 1
        await asyncio.gather(*(other.handle(Booked(f"T-{number}", str(number))) for number in range(3_000)))
        assert [one.result.number for one in await asyncio.gather(*asked)] == [str(n) for n in range(3_000)]


async def test_who_waits_in_vain_is_told_of_whom_and_how_it_stood(memory: Bench) -> None:
    async with runner(memory) as one:
        await one.handle(Asked("T-1"))
        await one.handle(Failed("T-1"))
        with pytest.raises(
            OutcomeTimeoutError, match=r"saga 'trip', id 'T-1' has not ended within 0.05 s.*parked"
        ) as told:
            await one.outcome(TripSaga, "T-1", timeout=timedelta(seconds=0.05))
        assert isinstance(told.value, TimeoutError)
        assert not one._started.engine.awaited  # type: ignore[union-attr]


async def test_who_is_cancelled_waits_no_longer_and_the_follower_ends_with_the_last(memory: Bench) -> None:
    async with runner(memory) as one:
        await one.handle(Asked("T-1"))
        asked = [asyncio.create_task(one.outcome(TripSaga, "T-1")) for _ in range(2)]
        await waiting(one, 2)
        following = one._started.follower._task  # type: ignore[union-attr]
        assert following is not None
        asked[0].cancel()
        await waiting(one, 1)
        assert not following.done()
        asked[1].cancel()
        await asyncio.wait([following])
        assert not one._started.engine.awaited  # type: ignore[union-attr]


async def test_stopping_tells_those_who_wait(memory: Bench) -> None:
    async with runner(memory) as one:
        await one.handle(Asked("T-1"))
        asked = asyncio.create_task(one.outcome(TripSaga, "T-1"))
        await waiting(one)
        await one.stop()
        with pytest.raises(RunnerStoppedError, match="the instance continues on any other worker"):
            await asked


async def test_settling_does_not_wait_for_those_who_wait_for_an_end(memory: Bench) -> None:
    async with runner(memory) as one:
        await one.handle(Asked("T-1"))
        asked = asyncio.create_task(one.outcome(TripSaga, "T-1"))
        await waiting(one)
        await asyncio.wait_for(one.settle(), 40)
        asked.cancel()


async def test_an_unknown_instance_is_an_error_or_waited_for(bench: Bench) -> None:
    async with runner(bench) as one:
        with pytest.raises(NoInstanceError, match="'T-1': there is no such instance"):
            await one.outcome(TripSaga, "T-1", timeout=SOON)
        asked = asyncio.create_task(one.outcome(TripSaga, "T-1", timeout=SOON, missing="wait"))
        await waiting(one)
        await one.handle(Asked("T-1"))
        await one.handle(Booked("T-1", "B-7"))
        assert (await asked).result == Booking("B-7", [0, 1])


async def test_an_event_handler_may_not_wait_for_an_outcome(memory: Bench) -> None:
    class Circle(Saga[Trip]):
        name = "circle"

        @starts(Asked, key="trip")
        async def asked(self, trip: Trip, event: Asked) -> None:
            await one.outcome(Circle, event.trip)

    one = memory.runner(sagas=[Circle])
    async with one:
        with pytest.raises(DefinitionError, match="its event handler waits for an outcome"):
            await one.handle(Asked("T-1"))
