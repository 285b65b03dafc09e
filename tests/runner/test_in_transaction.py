"""`handle(connection=...)`: business rows and the saga commit or roll back together, and commands leave after that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from sagalog import (
    ConflictError,
    DefinitionError,
    RunnerStoppedError,
    SagaRunner,
    SqliteJournal,
    open_journal,
)
from sagalog.decision.repair import retry
from sagalog.operating.apply import apply
from sagalog.runner import commit, settle

from ..orders import Closed, Failing, Noted, OrderSaga, Paid, Placed, World
from ..servers.processes import eventually
from .conftest import Bench


@pytest.fixture
async def postgres(postgres_schema: str) -> AsyncIterator[Bench]:
    OrderSaga.fail_times = 0
    OrderSaga.calls = []
    async with open_journal(postgres_schema) as journal:
        yield Bench(journal)


@pytest.fixture
async def connection(postgres_schema: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(postgres_schema.partition("?")[0])
    await connection.execute("CREATE TEMPORARY TABLE orders (id text)")
    yield connection
    await connection.close()


def ids(bench: Bench) -> list[str]:
    """Return the ids of the commands that arrived, without repeats of the same."""
    return list(dict.fromkeys(command_id for command_id, _ in bench.world.seen))


async def test_commands_leave_after_the_commit_and_not_before(postgres: Bench, connection: Any) -> None:
    async with postgres.runner() as runner:
        async with connection.transaction():
            await connection.execute("INSERT INTO orders VALUES ('a')")
            receipt = await runner.handle(Placed("a"), message_id="1", connection=connection)
            assert receipt.handled
            assert await postgres.stored("a") is None  # to everybody else
            await asyncio.sleep(0.1)  # time enough to do it wrong
            assert postgres.world.seen == []
        await eventually(lambda: len(postgres.world.seen) == 1, seconds=40)  # and not by the end of the lease
        assert (await runner.handle(Placed("a"), message_id="1")).duplicate
    assert ids(postgres) == ["saga::order::a/1/0"]
    assert await connection.fetchval("SELECT count(*) FROM orders") == 1


def watching() -> int:
    """Return how many tasks wait for the end of a transaction."""
    return sum("_look_when_ended" in repr(task.get_coro()) for task in asyncio.all_tasks())


async def test_one_task_waits_for_the_end_of_a_transaction_however_many_events_are_in_it(
    postgres: Bench, connection: Any
) -> None:
    async with postgres.runner() as runner:
        async with connection.transaction():
            for number in range(40):
                await runner.handle(Placed(f"o{number % 20}"), connection=connection)
                assert watching() == 1
        await eventually(lambda: len(ids(postgres)) == 40, seconds=30)
        await runner.settle()
        assert not watching()


@pytest.mark.parametrize("commits", [True, False])
async def test_the_end_of_a_transaction_is_seen_though_the_next_one_is_open_on_its_connection(
    postgres: Bench, connection: Any, *, commits: bool
) -> None:
    async with postgres.runner(lease=timedelta(seconds=60)) as runner:
        first = connection.transaction()
        await first.start()
        for name in ("a", "b", "c"):
            await runner.handle(Placed(name), connection=connection)
        await (first.commit() if commits else first.rollback())  # and nobody looks before the next one has begun
        second = connection.transaction()
        await second.start()
        await runner.handle(Placed("d"), connection=connection)
        if commits:
            await eventually(lambda: len(ids(postgres)) == 3, seconds=30)
            assert not any("::d/" in command_id for command_id in ids(postgres))
        await second.commit()
        await eventually(lambda: len(ids(postgres)) == (4 if commits else 1), seconds=30)
        await eventually(lambda: not watching())


async def test_after_a_rollback_nothing_is_there_and_the_event_is_new_again(postgres: Bench, connection: Any) -> None:
    async with postgres.runner() as runner:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("INSERT INTO orders VALUES ('a')")
        assert (await runner.handle(Placed("a"), message_id="1", connection=connection)).handled
        await transaction.rollback()
        assert await postgres.stored("a") is None
        assert await connection.fetchval("SELECT count(*) FROM orders") == 0
        assert (await runner.handle(Placed("a"), message_id="1")).handled
        await runner.settle()
    assert ids(postgres) == ["saga::order::a/1/0"]


async def test_several_events_of_one_transaction_build_on_each_other(postgres: Bench, connection: Any) -> None:
    async with postgres.runner() as runner:
        async with connection.transaction():
            assert (await runner.handle(Placed("a"), message_id="1", connection=connection)).handled
            assert (await runner.handle(Placed("a"), message_id="1", connection=connection)).duplicate
            assert (await runner.handle(Noted("a", "x"), message_id="2", connection=connection)).handled
            assert (await runner.handle(Placed("b"), message_id="3", connection=connection)).handled
        await eventually(lambda: len(postgres.world.seen) == 3)
        await runner.settle()
        assert await postgres.log("a") == ["placed", "x"]
    assert sorted(ids(postgres)) == ["saga::order::a/1/0", "saga::order::a/2/0", "saga::order::b/1/0"]


async def test_others_wait_until_the_transaction_has_ended(postgres: Bench, connection: Any) -> None:
    async with postgres.runner() as runner, postgres.runner() as other:
        await runner.handle(Placed("a"))
        await runner.settle()
        async with connection.transaction():
            await runner.handle(Noted("a", "inside"), message_id="2", connection=connection)
            here = asyncio.ensure_future(runner.handle(Noted("a", "here"), message_id="3"))
            there = asyncio.ensure_future(other.handle(Noted("a", "there"), message_id="4"))
            assert (await asyncio.wait_for(runner.handle(Placed("b")), 40)).handled  # other instances do not
            await asyncio.sleep(0.1)
            assert not here.done()
            assert not there.done()
        assert (await here).handled
        assert (await there).handled
        log = await postgres.log("a")
        assert log[:2] == ["placed", "inside"]
        assert sorted(log[2:]) == ["here", "there"]


async def test_others_wait_as_long_as_the_transaction_lasts(
    postgres: Bench, connection: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(commit, "MAX_LOST", 3)
    monkeypatch.setattr(settle, "MAX_LOST", 3)
    async with postgres.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.settle()
        async with connection.transaction():
            await runner.handle(Noted("a", "inside"), connection=connection)
            await runner.handle(Placed("new"), connection=connection)
            meanwhile = [asyncio.create_task(runner.handle(event)) for event in (Noted("a", "outside"), Placed("new"))]
            await eventually(lambda: runner.counters.conflicts >= 20, seconds=30)  # and not only for a while
            await eventually(lambda: len(waits_told(caplog)) == 2, seconds=60)  # one of them may try more often
            assert (await runner.health()).ready
        for receipt in await asyncio.gather(*meanwhile):
            assert receipt.handled
        assert await postgres.log("a") == ["placed", "inside", "outside"]
        assert (await runner.state(OrderSaga, "new")).total == 2
    assert len(waits_told(caplog)) == 2


def waits_told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if "holds its record" in record.message]


async def test_what_the_handler_raises_reaches_the_caller_and_the_transaction_goes_on(
    postgres: Bench, connection: Any
) -> None:
    async with postgres.runner() as runner:
        async with connection.transaction():
            await runner.handle(Placed("a"), message_id="1", connection=connection)
            OrderSaga.fail_times = 1
            with pytest.raises(RuntimeError, match="boom"):
                await runner.handle(Failing("a"), message_id="2", connection=connection)
            await runner.handle(Noted("a", "on"), message_id="3", connection=connection)
        assert await postgres.log("a") == ["placed", "on"]


async def test_a_conflict_that_stays_is_told_and_the_transaction_is_usable(postgres: Bench, connection: Any) -> None:
    async with postgres.runner() as runner:
        await runner.handle(Placed("a"))
        async with connection.transaction(isolation="repeatable_read"):
            await connection.fetchval("SELECT 1")  # the snapshot is taken
            await runner.handle(Noted("a", "first"))
            with pytest.raises(ConflictError):
                await runner.handle(Noted("a", "late"), connection=connection)
            await connection.execute("INSERT INTO orders VALUES ('a')")
        assert await postgres.log("a") == ["placed", "first"]


async def test_a_saga_may_end_within_a_transaction(postgres: Bench, connection: Any) -> None:
    async with postgres.runner(dispatch=lambda command: None) as runner:
        await runner.handle(Placed("a"))
        await runner.settle()
        async with connection.transaction():
            await runner.handle(Closed("a"), message_id="end", connection=connection)
        await runner.settle()
        assert (await postgres.record("a")).status == "completed"
        assert (await runner.handle(Closed("a"), message_id="end")).duplicate


async def test_a_worker_that_dies_after_the_commit_is_replaced_within_the_lease(
    postgres: Bench, connection: Any
) -> None:
    mute = World()
    runner = postgres.runner(dispatch=mute)
    await runner.start()
    async with connection.transaction():
        await runner.handle(Placed("a"), message_id="1", connection=connection)
        for task in asyncio.all_tasks():  # all that it still had in mind is gone
            if "_look_when_ended" in repr(task.get_coro()):
                task.cancel()
    assert runner._started is not None
    runner._started.due_task.cancel()
    postgres.advance(seconds=6)
    async with postgres.runner() as successor:
        await successor.settle()
        assert ids(postgres) == ["saga::order::a/1/0"]
    assert mute.seen == []


async def test_what_cannot_be_part_of_a_transaction_is_told_before_anything_is_stored(
    postgres: Bench, connection: Any, tmp_path: Any
) -> None:
    async with postgres.runner() as runner:
        with pytest.raises(DefinitionError, match="with an open transaction:"):
            await runner.handle(Placed("a"), connection=connection)
        assert await postgres.stored("a") is None
    with pytest.raises(RunnerStoppedError):
        await runner.handle(Placed("a"), connection=connection)
    async with (
        SqliteJournal(tmp_path / "x.db") as journal,
        SagaRunner(journal, sagas=[OrderSaga]) as elsewhere,
        connection.transaction(),
    ):
        with pytest.raises(DefinitionError, match="postgresql://"):
            await elsewhere.handle(Paid("a"), connection=connection)


async def test_what_a_repair_left_to_replay_comes_first_within_the_transaction(
    postgres: Bench, connection: Any
) -> None:
    OrderSaga.fail_times = 3
    async with postgres.runner(due_poll=timedelta(seconds=60)) as runner:  # the event is there before the next look
        await runner.handle(Placed("a"))
        await runner.handle(Failing("a"), message_id="bad")
        await runner.handle(Noted("a", "held"))
        await apply(postgres.journal, "order", "a", retry(), now=postgres.clock.now())
        async with connection.transaction():
            assert (await runner.handle(Noted("a", "joined"), connection=connection)).handled
    assert await postgres.log("a") == ["placed", "recovered", "held", "joined"]
