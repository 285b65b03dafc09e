"""Several things at once over one connection of a caller: each step is whole, and so is what the application writes."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event
from typing import Any

import aiosqlite
import asyncpg
import psycopg
import pytest

from sagalog import ConflictError, DefinitionError, Saga, SagaRunner, SqliteJournal, open_journal, starts
from sagalog.blocking import BlockingRunner
from sagalog.conformance.records import record
from sagalog.journal.callers import callers_connection

from ..orders import Noted, OrderSaga, Placed, World
from .callers import POSTGRES, SQLITE, Application
from .conftest import Bench


@pytest.fixture(params=[*POSTGRES, *SQLITE])
async def shop(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Bench, Application]]:
    if request.param in SQLITE:
        path = str(tmp_path / "shop.db")
        async with SqliteJournal(path) as journal:
            yield Bench(journal), SQLITE[request.param](path)
        return
    given = request.getfixturevalue("postgres_schema")
    async with open_journal(given) as journal:
        yield Bench(journal), POSTGRES[request.param](given.partition("?")[0])


async def test_events_handled_at_once_over_one_connection_are_all_stored(shop: tuple[Bench, Application]) -> None:
    bench, begin = shop
    async with bench.runner() as runner:
        async with begin() as transaction:
            await asyncio.gather(
                *(
                    runner.handle(Placed(order), message_id=f"{number}", connection=transaction.connection)
                    for number in range(6)
                    for order in "ab"
                )
            )
            await transaction.commit()
        await runner.settle()
        for order in "ab":
            assert (await runner.state(OrderSaga, order)).total == 6
    assert len({one for one, _ in bench.world.seen}) == 12


@asynccontextmanager
async def lines_beside(execute: Any) -> AsyncIterator[list[int]]:
    """Insert rows of the application all the time, and count them."""
    written, over = [0], False

    async def lines() -> None:
        while not over or written[0] < 50:
            await execute("INSERT INTO lines DEFAULT VALUES")
            written[0] += 1

    task = asyncio.create_task(lines())
    try:
        yield written
    finally:
        over = True
        await task


async def test_rows_that_are_inserted_beside_a_step_over_aiosqlite_do_no_harm(tmp_path: Path) -> None:
    path = str(tmp_path / "shop.db")
    async with SqliteJournal(path) as journal, aiosqlite.connect(path, isolation_level=None) as connection:
        bench = Bench(journal)
        await connection.execute("CREATE TABLE lines (number INTEGER PRIMARY KEY)")
        async with bench.runner() as runner:
            await connection.execute("BEGIN IMMEDIATE")
            async with lines_beside(connection.execute) as written:
                for number in range(10):
                    await runner.handle(Placed(f"{number}"), connection=connection)
            await connection.execute("COMMIT")
            for number in range(10):
                assert (await runner.state(OrderSaga, f"{number}")).total == 1
        async with connection.execute("SELECT count(*) FROM lines") as found:
            assert await found.fetchone() == (written[0],)


async def test_a_step_that_is_lost_over_psycopg_undoes_no_row_that_was_written_beside_it(postgres_schema: str) -> None:
    url = postgres_schema.partition("?")[0]
    async with open_journal(postgres_schema) as journal, Bench(journal).runner() as runner:
        connection = await psycopg.AsyncConnection.connect(url)
        await connection.execute("CREATE TEMPORARY TABLE lines (number serial)")
        await connection.commit()
        await runner.handle(Placed("a"))
        await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        await connection.execute("SELECT 1")  # its view is of now
        await runner.handle(Noted("a", "faster"))
        async with lines_beside(connection.execute) as written:
            with pytest.raises(ConflictError):
                await runner.handle(Noted("a", "late"), connection=connection)
        found = await (await connection.execute("SELECT count(*) FROM lines")).fetchone()
        assert found == (written[0],)
        await connection.close()


class Waiting(Saga[dict[str, int]]):
    """Its handler waits for another event, over the connection of its own step."""

    name = "waiting"
    connection: Any = None
    entered: asyncio.Event
    go_on: asyncio.Event

    @starts(Placed, key="order_id")
    async def placed(self, state: dict[str, int], event: Placed) -> None:
        if event.order_id == "outer":
            await asyncio.gather(
                *(runner_of[0].handle(Placed(f"inner {n}"), connection=self.connection) for n in range(3))
            )
        self.entered.set()
        await self.go_on.wait()


runner_of: list[SagaRunner] = []


async def test_a_handler_may_wait_for_events_over_the_connection_of_its_own_step(tmp_path: Path) -> None:
    path = str(tmp_path / "shop.db")
    Waiting.entered, Waiting.go_on = asyncio.Event(), asyncio.Event()
    Waiting.go_on.set()
    async with SagaRunner(f"sqlite:///{path}", sagas=[Waiting]) as runner, aiosqlite.connect(path) as connection:
        runner_of[:], Waiting.connection = [runner], connection
        async with asyncio.timeout(30):
            await runner.handle(Placed("outer"), connection=connection)
        await connection.commit()
        for name in ("outer", "inner 0", "inner 1", "inner 2"):
            await runner.state(Waiting, name)


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
async def test_a_step_whose_transaction_ended_meanwhile_stores_nothing(
    tmp_path: Path, postgres_schema: str, end: str
) -> None:
    path, url = str(tmp_path / "shop.db"), postgres_schema.partition("?")[0]
    plain = sqlite3.connect(path, isolation_level=None)
    on_server = await asyncpg.connect(url)

    async def in_file(statement: str) -> None:
        plain.execute(statement)

    for journal, connection, execute in (
        (f"sqlite:///{path}", plain, in_file),
        (postgres_schema, on_server, on_server.execute),
    ):
        Waiting.entered, Waiting.go_on = asyncio.Event(), asyncio.Event()
        async with SagaRunner(journal, sagas=[Waiting]) as runner:
            await execute("BEGIN")
            handling = asyncio.create_task(runner.handle(Placed("a"), connection=connection))
            await Waiting.entered.wait()
            await execute(end)
            Waiting.go_on.set()
            with pytest.raises(DefinitionError, match="has ended in the meantime;"):
                await handling
            assert (await runner.handle(Placed("a"))).handled  # it is not there
    plain.close()
    await on_server.close()


async def test_a_call_that_is_cancelled_before_its_step_is_stored_leaves_nothing_in_the_transaction(
    tmp_path: Path,
) -> None:
    path, busy, go_on = str(tmp_path / "shop.db"), asyncio.Event(), Event()
    async with SqliteJournal(path) as journal, aiosqlite.connect(path, isolation_level=None) as connection:
        loop = asyncio.get_running_loop()

        def hold() -> None:
            loop.call_soon_threadsafe(busy.set)
            go_on.wait(30)

        await connection.create_function("hold", 0, hold)
        await connection.execute("BEGIN IMMEDIATE")
        callers = await callers_connection(connection)
        holding = asyncio.create_task(connection.execute_fetchall("SELECT hold()"))
        await busy.wait()  # what comes now waits in the queue of the connection's thread
        writing = asyncio.create_task(journal.write_in_transaction(callers, record("p", 1)))
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.wait([writing])
        go_on.set()
        await holding
        assert await journal.latest_in_transaction(callers, "p") is None
        await journal.write_in_transaction(callers, record("p", 1))
        assert await journal.latest_in_transaction(callers, "p") is not None


def test_threads_may_share_a_connection_of_psycopg(postgres_schema: str) -> None:
    with (
        BlockingRunner(SagaRunner(postgres_schema, sagas=[OrderSaga], dispatch=World())) as sagas,
        psycopg.connect(postgres_schema.partition("?")[0]) as connection,
        ThreadPoolExecutor(5) as threads,
    ):
        list(threads.map(lambda n: sagas.handle(Placed("a"), message_id=str(n), connection=connection), range(5)))
        connection.commit()
        assert sagas.state(OrderSaga, "a").total == 5
