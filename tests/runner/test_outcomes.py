"""How an instance stands and how it ended, asked of a runner: whoever ended it, and of the life that was meant."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from sagalog import (
    CodecError,
    CommandRefused,
    DefinitionError,
    InMemoryJournal,
    InvalidEventError,
    JournalSagaStateStore,
    JournalUnavailableError,
    NoInstanceError,
    OutcomeGoneError,
    OutcomeTimeoutError,
    RunnerStoppedError,
    Saga,
    SagaOutcome,
    SagaRunner,
    Status,
    starts,
)
from sagalog.decision.record import decode_record, encode_record
from sagalog.runner import follower

from .conftest import Bench
from .trips import Asked, Booked, Booking, CalledOff, Failed, Trip, TripSaga

SOON = timedelta(seconds=15)  # for what has to come; so long a broken runner is waited for


def runner(bench: Bench, source: Any = None, **more: Any) -> SagaRunner:
    more.setdefault("dispatch", lambda command: None)
    return bench.runner(source, sagas=[TripSaga], **more)


async def waiting(asked: SagaRunner, number: int = 1) -> None:
    """Return when so many calls wait, and each has looked at what is stored."""
    while True:
        started = asked._started
        assert started is not None
        waiters = [one for some in started.engine.awaited.by_id.values() for one in some]
        if len(waiters) == number and all(one.looked for one in waiters):
            return
        await asyncio.sleep(0)


@pytest.fixture
async def memory() -> Bench:
    return Bench(InMemoryJournal())


# The state.


async def test_the_state_of_a_live_and_of_an_ended_instance_is_a_copy(bench: Bench) -> None:
    async with runner(bench) as one:
        await one.handle(Asked("T-1"))
        state = await one.state(TripSaga, "T-1")
        assert state == Trip(log=["asked"])
        state.log.append("changed by its reader")
        assert await one.state(TripSaga(), "T-1") == Trip(log=["asked"])
        await one.handle(Booked("T-1", "B-7"))
        await one.settle()
        assert await one.state(TripSaga, "T-1") == Trip("B-7", ["asked"])


async def test_a_state_that_is_not_there_is_said_so(bench: Bench) -> None:
    async with runner(bench) as one:
        with pytest.raises(NoInstanceError, match="'T-9': there is no such instance"):
            await one.state(TripSaga, "T-9")


async def test_what_cannot_be_asked_is_an_error_that_names_it(memory: Bench) -> None:
    class Other(Saga[Trip]):
        name = "other"

        @starts(Asked, key="trip")
        def asked(self, trip: Trip, event: Asked) -> None: ...

    class Namesake(Other):
        name = "trip"

    one = runner(memory)
    with pytest.raises(RunnerStoppedError):
        await one.state(TripSaga, "T-1")
    async with one:
        for ask in (one.state, one.outcome):
            with pytest.raises(InvalidEventError, match="no saga 'other' in this runner"):
                await ask(Other, "T-1")
            with pytest.raises(DefinitionError, match="runs TripSaga under the name 'trip', not Namesake"):
                await ask(Namesake, "T-1")
            with pytest.raises(DefinitionError, match="ask for a saga by its class"):
                await ask("trip", "T-1")  # type: ignore[arg-type]
            with pytest.raises(InvalidEventError, match="correlation_id"):
                await ask(TripSaga, "")
        for wrong in ({"timeout": 3}, {"timeout": timedelta(0)}, {"incarnation": 0}, {"missing": "maybe"}):
            with pytest.raises(DefinitionError, match=next(iter(wrong))):
                await one.outcome(TripSaga, "T-1", **wrong)  # type: ignore[arg-type]


async def test_a_record_that_this_code_cannot_read_is_said_to_be_so(memory: Bench) -> None:
    assert memory.journal is not None
    store = JournalSagaStateStore(memory.journal, "trip")
    async with runner(memory) as one:
        await one.handle(Asked("T-1"))
        await one.handle(Asked("T-2"))
        await one.settle()
        for name, change in (("T-1", {"format": 9}), ("T-2", {"state_version": 5})):
            saved = await store.load(name)
            assert saved is not None
            record = decode_record(saved.payload)
            for field, value in change.items():
                setattr(record, field, value)
            record.status = Status.COMPLETED
            await store.save(name, encode_record(record), expected_version=saved.version)
            for ask in (one.state, one.outcome):
                with pytest.raises(CodecError, match=f"saga 'trip', id '{name}' cannot be read by this code"):
                    await ask(TripSaga, name)


# The outcome.


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


async def test_where_a_journal_cannot_be_followed_some_are_looked_up_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Unfollowed(InMemoryJournal):
        newest_offset = None  # type: ignore[assignment]

        async def latest_messages(self, persistence_ids: Any) -> Any:
            looked.append(len(persistence_ids))
            return await super().latest_messages(persistence_ids)

    monkeypatch.setattr(follower, "_AT_ONCE", 2)
    looked: list[int] = []
    bench = Bench(Unfollowed())
    async with runner(bench, outcome_poll_seconds=0.001) as one, runner(bench) as other:
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
            calls.append(_name)
            return await _real(*arguments, **keywords)

        monkeypatch.setattr(memory.journal, name, counted)
    async with runner(memory, max_in_flight=3_000, outcome_poll_seconds=0.01) as one, runner(memory) as other:
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
        with pytest.raises(RunnerStoppedError, match="the instance goes on with any worker"):
            await asked


async def test_settling_does_not_wait_for_those_who_wait_for_an_end(memory: Bench) -> None:
    async with runner(memory) as one:
        await one.handle(Asked("T-1"))
        asked = asyncio.create_task(one.outcome(TripSaga, "T-1"))
        await waiting(one)
        await asyncio.wait_for(one.settle(), 10)
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


# Of the life that was meant.


async def test_a_life_that_another_one_has_followed_tells_its_result_and_not_its_state(bench: Bench) -> None:
    async with runner(bench) as one:
        await one.handle(Asked("T-1"))
        await one.handle(Booked("T-1", "B-1"))
        await one.settle()
        ended_at = bench.clock.now()
        bench.advance(minutes=1)
        await one.handle(Asked("T-1"))
        first = await one.outcome(TripSaga, "T-1", incarnation=1, timeout=SOON)
        assert (first.status, first.result, first.ended_at) == (Status.COMPLETED, Booking("B-1", [0, 1]), ended_at)
        assert first.incarnation == 1
        with pytest.raises(OutcomeGoneError, match="life 1: its state is not kept"):
            first.state
        second = asyncio.create_task(one.outcome(TripSaga, "T-1", timeout=SOON))
        third = asyncio.create_task(one.outcome(TripSaga, "T-1", incarnation=3, timeout=SOON, missing="wait"))
        await waiting(one, 2)
        await one.handle(Booked("T-1", "B-2"))
        assert (await second).result.number == "B-2"
        with pytest.raises(NoInstanceError, match="life 3 has not begun, it is in life 2"):
            await one.outcome(TripSaga, "T-1", incarnation=3, timeout=SOON)
        await one.handle(Asked("T-1"))
        with pytest.raises(OutcomeGoneError, match="life 1: life 3 has begun since"):
            await one.outcome(TripSaga, "T-1", incarnation=1, timeout=SOON)
        await one.handle(Booked("T-1", "B-3"))
        assert (await third).result.number == "B-3"


async def test_the_end_of_a_life_is_heard_of_though_the_next_one_begins_in_the_same_record(shared: Bench) -> None:
    async with runner(shared) as one, runner(shared) as other:
        await one.handle(Asked("T-1"))
        await one.settle()
        asked = asyncio.create_task(one.outcome(TripSaga, "T-1", timeout=SOON))
        await waiting(one)
        await asyncio.gather(other.handle(Booked("T-1", "B-1")), other.handle(Asked("T-1")))
        outcome = await asked
        assert (outcome.incarnation, outcome.result) == (1, Booking("B-1", [0, 1]))


async def test_a_large_result_does_not_weigh_on_the_next_life(memory: Bench) -> None:
    async with runner(memory) as one:
        await one.handle(Asked("T-1"))
        await one.handle(Booked("T-1", "large"))
        await one.settle()
        await one.handle(Asked("T-1"))
        with pytest.raises(OutcomeGoneError, match="its result was too large to be kept when the next life began"):
            await one.outcome(TripSaga, "T-1", incarnation=1, timeout=SOON)
        assert memory.journal is not None
        saved = await JournalSagaStateStore(memory.journal, "trip").load("T-1")
        assert saved is not None
        assert len(saved.payload) < 1000


async def test_a_life_that_was_forgotten_and_begun_anew_is_not_taken_for_the_one_that_was_meant(
    memory: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its numbers begin anew: only the time it began tells it from the one before."""
    monkeypatch.setattr(follower, "_AGAIN_SECONDS", 0.0)
    assert isinstance(memory.journal, InMemoryJournal)
    async with runner(memory) as one:
        await one.handle(Asked("T-1"))
        await one.settle()
        asked = [asyncio.create_task(one.outcome(TripSaga, "T-1", timeout=SOON)) for _ in range(2)]
        await waiting(one, 2)
        real = memory.journal.records_after
        with monkeypatch.context() as patch:  # the follower is late

            async def nothing_yet(offset: int, *, limit: int = 1000) -> Any:
                return [], offset

            patch.setattr(memory.journal, "records_after", nothing_yet)
            patch.setattr(type(one._started.follower), "_in_turn", lambda self, most: [])
            async with runner(memory) as other:
                await other.handle(Booked("T-1", "B-1"))
                await other.settle()
                saved = await JournalSagaStateStore(memory.journal, "trip").load_with_tombstone("T-1")
                assert saved is not None
                await memory.journal.purge([("saga::trip::T-1", saved.version)])
                memory.advance(days=30)
                await other.handle(Asked("T-1"))
                await other.handle(Booked("T-1", "B-2"))
        assert memory.journal.records_after == real
        for outcome in asked:
            with pytest.raises(OutcomeGoneError, match="begun anew, before its end was seen"):
                await outcome


async def test_who_waits_is_not_troubled_by_a_journal_that_is_away(
    memory: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "_LONGEST_PAUSE", 0.01)
    assert isinstance(memory.journal, InMemoryJournal)

    async def away(*_: Any, **__: Any) -> Any:
        raise JournalUnavailableError("it is away")

    async with runner(memory) as one, runner(memory) as other:
        await one.handle(Asked("T-1"))
        with monkeypatch.context() as patch:
            patch.setattr(memory.journal, "newest_offset", away)
            with pytest.raises(OutcomeTimeoutError, match="could not be asked: it is away"):
                await one.outcome(TripSaga, "T-1", timeout=timedelta(seconds=0.1))
            asked = asyncio.create_task(one.outcome(TripSaga, "T-1", timeout=SOON))
            while not one._started.follower.trouble:  # type: ignore[union-attr]
                await asyncio.sleep(0)
            await other.handle(Booked("T-1", "B-1"))
        assert (await asked).result.number == "B-1"


def test_an_outcome_can_be_made_for_tests_of_callers(memory: Bench) -> None:
    made = SagaOutcome("trip", "T-1", Status.COMPLETED, "done", memory.clock.now(), last_state=Trip("B"))
    assert made.state.number == "B"
