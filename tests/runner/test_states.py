"""How an instance stands, asked of a runner."""

from __future__ import annotations

from datetime import timedelta

import pytest

from sagalog import (
    CodecError,
    DefinitionError,
    InMemoryJournal,
    InvalidEventError,
    JournalSagaStateStore,
    NoInstanceError,
    RunnerStoppedError,
    Saga,
    Status,
    starts,
)
from sagalog.decision.record import decode_record, encode_record

from .asking import runner
from .conftest import Bench
from .trips import Asked, Booked, Trip, TripSaga


@pytest.fixture
async def memory() -> Bench:
    return Bench(InMemoryJournal())


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
