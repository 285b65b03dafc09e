"""How an instance ended, of the life that was meant, though another one has followed."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from sagalog import (
    InMemoryJournal,
    JournalSagaStateStore,
    JournalUnavailableError,
    NoInstanceError,
    OutcomeGoneError,
    OutcomeTimeoutError,
    SagaOutcome,
    Status,
)
from sagalog.runner import follower
from sagalog.runner.awaited import Waiter

from .asking import SOON, runner, waiting
from .conftest import Bench
from .trips import Asked, Booked, Booking, Trip, TripSaga


@pytest.fixture
async def memory() -> Bench:
    return Bench(InMemoryJournal())


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
            with pytest.raises(OutcomeGoneError, match="started again, before its end was seen"):
                await outcome


def signalling(method: Any, event: asyncio.Event) -> Any:
    """Return the method, which sets the event when it was called."""

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        finally:
            event.set()

    return call


@pytest.mark.parametrize("before", ["nothing", "an older life"])
async def test_a_lookup_that_was_on_its_way_when_the_life_began_does_not_say_that_it_is_gone(
    memory: Bench, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    monkeypatch.setattr(follower, "_AGAIN_SECONDS", 0.0)
    assert isinstance(memory.journal, InMemoryJournal)
    real, read, answered = memory.journal.latest_messages, asyncio.Event(), asyncio.Event()

    async def late(ids: Any) -> Any:
        found = await real(ids)
        if "saga::trip::T-1" in ids and not answered.is_set():
            read.set()
            await answered.wait()
        return found

    async with runner(memory) as one:
        if before != "nothing":
            await one.handle(Asked("T-1"))
            await one.handle(Booked("T-1", "B-1"))
            await one.settle()
        life = 1 if before == "nothing" else 2
        asked = asyncio.create_task(one.outcome(TripSaga, "T-1", timeout=SOON, incarnation=life, missing="wait"))
        await waiting(one)
        (waiter,) = one._started.engine.awaited.by_id["saga::trip::T-1"]  # type: ignore[union-attr]
        monkeypatch.setattr(memory.journal, "latest_messages", late)
        async with asyncio.timeout(40):
            await read.wait()
            monkeypatch.setattr(memory.journal, "latest_messages", real)
            await one.handle(Asked("T-1"))
            assert waiter.seen == "it was running"
            told = asyncio.Event()
            monkeypatch.setattr(Waiter, "read", signalling(Waiter.read, told))
            answered.set()
            await told.wait()
        await one.handle(Booked("T-1", "B-2"))
        assert (await asked).result.number == "B-2"


async def test_who_waits_is_not_troubled_by_a_journal_that_is_away(
    memory: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "_MAX_PAUSE", 0.01)
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
