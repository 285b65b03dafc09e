"""Parents and children that only newer code can read: what is for them is left to a worker that has it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from sagalog import InMemoryJournal, RetryPolicy, SagaRunner
from sagalog.decision.entries import Held, Status
from sagalog.decision.record import SagaRecord, decode_record, encode_record
from sagalog.definition.codec import Typed

from ..families import Delivered, Ordered, OrderSaga, ParcelSaga, Withdrawn
from .conftest import Bench

TWICE = RetryPolicy(attempts=2, base=timedelta(milliseconds=1), cap=timedelta(milliseconds=2))


def newer_record(payload: bytes) -> bytes:
    return payload.replace(b'"format":1', b'"format":9')


def newer_state(payload: bytes) -> bytes:
    record = decode_record(payload)
    record.state_version = 9
    return encode_record(record)


def newer_held(payload: bytes) -> bytes:
    """Let it hold a message of newer code, which is to be replayed: it was repaired."""
    record = decode_record(payload)
    name = "Withdrawn" if record.children else "Delivered"
    record.held = (Held("w", Typed(name, msgspec.Raw(b'{"of":"newer code"}'), 9)),)
    return encode_record(record)


async def rewrite(journal: InMemoryJournal, persistence_id: str, how: Callable[[bytes], bytes]) -> bytes:
    """Store the newest record of an instance otherwise, as a worker with newer code does; return it as it was."""
    newest = await journal.latest_message(persistence_id)
    assert newest is not None
    number = newest.sequence_nr + 1
    await journal.write_messages([msgspec.structs.replace(newest, sequence_nr=number, payload=how(newest.payload))])
    return newest.payload


async def record(journal: InMemoryJournal, persistence_id: str) -> SagaRecord:
    newest = await journal.latest_message(persistence_id)
    assert newest is not None
    return decode_record(newest.payload)


def worker(bench: Bench) -> SagaRunner:
    sagas = [OrderSaga, ParcelSaga]
    return bench.runner(sagas=sagas, dispatch=lambda command: None, dispatch_retry=TWICE, max_takeovers=2)


@pytest.mark.parametrize("newer", [newer_record, newer_state, newer_held])
async def test_an_end_is_left_to_a_worker_that_can_read_the_parent(newer: Any) -> None:
    journal = InMemoryJournal()
    bench = Bench(journal)
    async with worker(bench) as old:
        await old.handle(Ordered("a", 1))
        await old.settle()
        before = await rewrite(journal, "saga::order::a", newer)
        await old.handle(Delivered("a-0"))
        await old.settle()
        child = await record(journal, "saga::parcel::a-0")
        assert (child.status, child.parked) == (Status.COMPLETED, "")
        failures, version = old.counters.dispatch_errors, await journal.highest_sequence_nr("saga::parcel::a-0")
        for _ in range(10):  # each time it looks again, and does not write
            bench.advance(seconds=16)
            await old.settle()
        child = await record(journal, "saga::parcel::a-0")
        assert (child.parked, child.takeovers) == ("", 0)
        assert await journal.highest_sequence_nr("saga::parcel::a-0") == version
        assert old.counters.dispatch_errors <= failures + 11
        await rewrite(journal, "saga::order::a", lambda _: before)  # by a worker that wrote what old code can read
        for _ in range(3):
            bench.advance(seconds=16)
            await old.settle()
        assert (await record(journal, "saga::order::a")).children == {}
        assert (await record(journal, "saga::parcel::a-0")).told


@pytest.mark.parametrize("newer", [newer_record, newer_state])
async def test_another_worker_that_can_read_the_parent_takes_the_end_over_within_the_lease(newer: Any) -> None:
    journal = InMemoryJournal()
    bench = Bench(journal)
    async with worker(bench) as old:
        await old.handle(Ordered("a", 1))
        await old.settle()
        before = await rewrite(journal, "saga::order::a", newer)
        await old.handle(Delivered("a-0"))
        await old.settle()
        await rewrite(journal, "saga::order::a", lambda _: before)
        async with worker(bench) as new:
            bench.advance(seconds=6)
            await new.settle()
            assert new.counters.takeovers == 1
            assert (await record(journal, "saga::order::a")).children == {}


@pytest.mark.parametrize("newer", [newer_record, newer_state, newer_held])
async def test_a_child_that_cannot_be_read_is_asked_to_end_by_a_worker_that_can(newer: Any) -> None:
    journal = InMemoryJournal()
    bench = Bench(journal)
    async with worker(bench) as old:
        await old.handle(Ordered("a", 1))
        await old.settle()
        before = await rewrite(journal, "saga::parcel::a-0", newer)
        await old.handle(Withdrawn("a"))
        for _ in range(10):
            await old.settle()
            bench.advance(seconds=16)
        assert (await record(journal, "saga::order::a")).parked == ""
        await rewrite(journal, "saga::parcel::a-0", lambda _: before)
        for _ in range(4):
            bench.advance(seconds=16)
            await old.settle()
        assert (await record(journal, "saga::order::a")).status is Status.COMPENSATED
