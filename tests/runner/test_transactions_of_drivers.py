"""`handle(connection=...)` with each driver: the application's rows and the step stand or fall together."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiosqlite
import asyncpg
import psycopg
import pytest
from sqlalchemy import create_engine

from sagalog import (
    ConflictError,
    DefinitionError,
    JournalFormatError,
    JournalUnavailableError,
    NoInstanceError,
    SagaRunner,
    SqliteJournal,
    Status,
    open_journal,
)
from sagalog.journal.callers import CallersConnection
from sagalog.journal.postgres.same_database import TRY_LOCK

from ..orders import Closed, Failing, Noted, OrderSaga, Placed, World
from ..servers.processes import eventually
from .callers import POSTGRES, SQLITE, Application, of_asyncpg, of_sqlalchemy, of_sqlite3
from .conftest import Bench


class Shop:
    """A journal, an application with a table beside it, and how many rows that has."""

    def __init__(self, bench: Bench, begin: Application, count: Any) -> None:
        self.bench = bench
        self.begin = begin
        self.count = count


@pytest.fixture(params=[*POSTGRES, *SQLITE])
async def shop(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Shop]:
    OrderSaga.fail_times = 0
    if request.param in SQLITE:
        path = str(tmp_path / "shop.db")
        async with SqliteJournal(path, history=2) as journal:
            with sqlite3.connect(path) as connection:
                connection.execute("CREATE TABLE orders (id TEXT)")

            async def rows() -> int:
                (found,) = connection.execute("SELECT count(*) FROM orders").fetchone()
                return int(found)

            yield Shop(Bench(journal), SQLITE[request.param](path), rows)
            connection.close()
        return
    given = request.getfixturevalue("postgres_schema")
    url, _, query = given.partition("?")
    schema = query.partition("=")[2].partition("&")[0]
    async with open_journal(given) as journal:
        watcher = await asyncpg.connect(url)
        await watcher.execute(f"CREATE TABLE {schema}.orders (id text)")
        await watcher.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET search_path = {schema}")

        async def rows_there() -> int:
            return int(await watcher.fetchval(f"SELECT count(*) FROM {schema}.orders"))

        yield Shop(Bench(journal), POSTGRES[request.param](url), rows_there)
        await watcher.execute(f"ALTER DATABASE {url.rpartition('/')[2]} RESET search_path")
        await watcher.close()


async def test_rows_and_steps_hold_together_and_commands_leave_after_the_commit(shop: Shop) -> None:
    bench = shop.bench
    async with bench.runner(lease=timedelta(seconds=60)) as runner:
        async with shop.begin() as transaction:
            await transaction.execute("INSERT INTO orders VALUES ('a')")
            handle = runner.handle
            assert (await handle(Placed("a"), message_id="1", connection=transaction.connection)).handled
            assert (await handle(Placed("a"), message_id="1", connection=transaction.connection)).duplicate
            assert (await handle(Noted("a", "é"), message_id="2", connection=transaction.connection)).handled
            OrderSaga.fail_times = 1
            with pytest.raises(RuntimeError, match="boom"):
                await handle(Failing("a"), message_id="3", connection=transaction.connection)
            await transaction.execute("INSERT INTO orders VALUES ('b')")
            assert await bench.stored("a") is None  # to everybody else
            await asyncio.sleep(0.05)  # time enough to do it wrong
            assert bench.world.seen == []
            await transaction.commit()
            await eventually(lambda: len(bench.world.seen) == 2, seconds=40)  # and not by the end of the lease
        assert (await runner.handle(Noted("a", "é"), message_id="2")).duplicate
        await runner.handle(Noted("a", "on"))
        assert await bench.log("a") == ["placed", "é", "on"]
        assert await shop.count() == 2
        async with shop.begin() as transaction:
            await transaction.execute("INSERT INTO orders VALUES ('c')")
            await runner.handle(Closed("a"), message_id="end", connection=transaction.connection)
            await transaction.rollback()
        assert (await runner.state(OrderSaga, "a")).log[-1] == "on"
        async with shop.begin() as transaction:
            await runner.handle(Closed("a"), message_id="end", connection=transaction.connection)
            await transaction.commit()
        assert (await runner.outcome(OrderSaga, "a")).status is Status.COMPLETED
        assert await shop.count() == 2
    ids = [one for one, _ in bench.world.seen]
    assert ids[:2] == ["saga::order::a/1/0", "saga::order::a/2/0"]
    assert len(ids) == len(set(ids))


async def test_a_client_leaves_the_commands_of_a_transaction_to_a_worker_at_once(shop: Shop) -> None:
    bench = shop.bench
    async with bench.runner(dispatch=World()).using(client=True) as client, bench.runner():
        async with shop.begin() as transaction:
            for number in range(2):  # the second builds on what nobody else has seen
                await client.handle(Placed("a"), message_id=str(number), connection=transaction.connection)
            await transaction.commit()
        await eventually(lambda: len(bench.world.seen) == 2)  # the clock stands still: no lease has ended
    assert [one for one, _ in bench.world.seen] == ["saga::order::a/1/0", "saga::order::a/2/0"]


async def test_a_record_written_by_hand_is_one_like_any_other(tmp_path: Path) -> None:
    """In SQLite the rows are written by other statements than those of the journal: what they leave is the same."""
    tables = []
    for inside in (False, True):
        path = tmp_path / f"{inside}.db"
        async with SqliteJournal(path, history=1) as journal:
            bench = Bench(journal)
            async with bench.runner(dispatch=lambda command: None) as runner:
                for number, event in enumerate(
                    (Placed("a"), Noted("a", "x"), Placed("b"), Noted("a", "y"), Closed("a"))
                ):
                    async with of_sqlite3(str(path))() as transaction:
                        given = transaction.connection if inside else None
                        await runner.handle(event, message_id=str(number), connection=given)
                        if inside:
                            await transaction.commit()
                    await runner.settle()
        with sqlite3.connect(path) as connection:
            tables.append(
                [
                    connection.execute(
                        "SELECT persistence_id, sequence_nr, deleted, due_at, epoch > 0, (SELECT count(*) FROM record r"
                        " WHERE r.instance_id = i.instance_id) FROM instance i ORDER BY 1"
                    ).fetchall(),
                    connection.execute("SELECT term, instance_id FROM term ORDER BY 1").fetchall(),
                    connection.execute("SELECT manifest, tags FROM label").fetchall(),
                    connection.execute("SELECT json_extract(record, '$.state') FROM saga ORDER BY 1").fetchall(),
                ]
            )
        connection.close()
    assert tables[0] == tables[1]


async def test_a_competing_write_is_seen_before_anything_is_decided_on_it(tmp_path: Path) -> None:
    path = str(tmp_path / "shop.db")
    async with SqliteJournal(path, busy_timeout=timedelta(milliseconds=200)) as journal:
        bench = Bench(journal)
        async with bench.runner() as runner, of_sqlite3(path, begins=True)() as transaction:
            await transaction.rollback()
            transaction.connection.execute("BEGIN")
            transaction.connection.execute("SELECT * FROM instance").fetchall()  # its view of the file is of now
            await runner.handle(Placed("a"), message_id="1")
            with pytest.raises(JournalUnavailableError, match="holds its lock"):
                await runner.handle(Noted("a"), connection=transaction.connection)
            await transaction.rollback()
            transaction.connection.execute("BEGIN IMMEDIATE")
            assert (await runner.handle(Placed("a"), message_id="1", connection=transaction.connection)).duplicate
            with pytest.raises(JournalUnavailableError):  # others wait for the file, and are told
                await runner.handle(Placed("b"))
            await transaction.rollback()


async def test_a_conflict_leaves_the_transaction_of_psycopg_usable(postgres_schema: str) -> None:
    async with open_journal(postgres_schema) as journal:
        bench = Bench(journal)
        async with bench.runner() as runner:
            await runner.handle(Placed("a"))
            connection = await psycopg.AsyncConnection.connect(postgres_schema.partition("?")[0])
            await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
            await connection.execute("SELECT 1")  # the snapshot is taken
            await runner.handle(Noted("a", "first"))
            with pytest.raises(ConflictError):
                await runner.handle(Noted("a", "late"), connection=connection)
            await connection.execute("SELECT 1")
            await connection.close()
        assert await bench.log("a") == ["placed", "first"]


async def test_what_cannot_hold_together_is_told_before_anything_is_stored(
    tmp_path: Path, postgres_schema: str
) -> None:
    path, url = str(tmp_path / "shop.db"), postgres_schema.partition("?")[0]
    other = sqlite3.connect(tmp_path / "other.db")
    engine = create_engine(f"sqlite:///{path}")
    async with (
        SagaRunner(f"sqlite:///{path}", sagas=[OrderSaga]) as runner,
        SagaRunner(postgres_schema, sagas=[OrderSaga]) as on_server,
        SagaRunner("memory://", sagas=[OrderSaga]) as in_memory,
    ):
        automatic = await psycopg.AsyncConnection.connect(url, autocommit=True)
        synchronous = psycopg.connect(url)
        nothing_begun = sqlite3.connect(path, isolation_level=None)
        with engine.connect() as connection:
            for used, given, says in (
                (runner, other, "another file"),
                (runner, nothing_begun, "an open transaction:"),
                (runner, connection, "sagalog.blocking"),
                (runner, "shop.db", "builtins.str"),
                (on_server, automatic, "an open transaction:"),
                (on_server, synchronous, "sagalog.blocking"),
                (on_server, sqlite3.connect(path), "in PostgreSQL"),
                (in_memory, sqlite3.connect(path), "same database"),
            ):
                with pytest.raises(DefinitionError, match=says):
                    await used.handle(Placed("a"), connection=given)
                if isinstance(given, sqlite3.Connection):
                    given.close()
        with pytest.raises(DefinitionError, match="SQLite file"):
            async with await psycopg.AsyncConnection.connect(url) as elsewhere:
                await runner.handle(Placed("a"), connection=elsewhere)
        async with of_sqlalchemy(f"sqlite+aiosqlite:///{path}")() as transaction:
            await transaction.rollback()
        await automatic.close()
        synchronous.close()
    engine.dispose()


async def test_a_connection_to_another_database_with_such_a_journal_is_told_before_anything_is_stored(
    postgres_schema: str,
) -> None:
    url, _, query = postgres_schema.partition("?")
    admin, name = await asyncpg.connect(url), "another_" + query.partition("=")[2].partition("&")[0]
    await admin.execute(f"CREATE DATABASE {name}")
    there = f"{url.rpartition('/')[0]}/{name}"
    try:
        async with (
            SagaRunner(postgres_schema, sagas=[OrderSaga], dispatch=World()) as here,
            SagaRunner(f"{there}?{query}", sagas=[OrderSaga], dispatch=World()) as other,
        ):
            for driver in ("asyncpg", "psycopg"):
                for _ in range(2):  # it does not count as seen
                    async with POSTGRES[driver](there)() as transaction:
                        with pytest.raises(DefinitionError, match="another database than the journal's"):
                            await here.handle(Placed("a"), connection=transaction.connection)
                        assert (await other.handle(Placed("a"), connection=transaction.connection)).handled
                        await transaction.commit()
            with pytest.raises(NoInstanceError):
                await here.state(OrderSaga, "a")
            assert (await other.state(OrderSaga, "a")).total == 4
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


async def test_a_connection_of_a_pool_is_looked_at_once(postgres_schema: str) -> None:
    asked: list[str] = []
    url = postgres_schema.partition("?")[0]
    async with (
        SagaRunner(postgres_schema, sagas=[OrderSaga], dispatch=World()) as runner,
        asyncpg.create_pool(url, min_size=1, max_size=1) as pool,
    ):
        for _ in range(3):
            async with pool.acquire() as connection, connection.transaction():
                with connection.query_logger(lambda query: asked.append(query.query)):
                    assert (await runner.handle(Placed("a"), connection=connection)).handled
        assert (await runner.state(OrderSaga, "a")).total == 3
    assert asked.count(TRY_LOCK) == 1


def execute(path: str, statement: str) -> list[Any]:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


async def test_an_applications_file_is_given_a_journal_beside_its_tables(tmp_path: Path) -> None:
    place = str(tmp_path / "shop.db")
    execute(place, "CREATE TABLE orders (id TEXT)")
    with pytest.raises(JournalFormatError, match="beside=true"):
        open_journal(f"sqlite:///{place}")
    async with SagaRunner(f"sqlite:///{place}?beside=true", sagas=[OrderSaga], dispatch=World()) as runner:
        await runner.handle(Placed("a"))
    async with SagaRunner(f"sqlite:///{place}", sagas=[OrderSaga], dispatch=World()) as runner:
        assert (await runner.state(OrderSaga, "a")).total == 1
    assert execute(place, "SELECT * FROM orders") == []
    for wrong in ("CREATE TABLE record (id TEXT)", "PRAGMA user_version=7"):
        other = str(tmp_path / f"{len(wrong)}.db")
        execute(other, "CREATE TABLE orders (id TEXT)")
        execute(other, wrong)
        with pytest.raises(JournalFormatError, match="of its own"):
            open_journal(f"sqlite:///{other}?beside=true")
        assert execute(other, "PRAGMA application_id") == [(0,)]


async def test_a_connection_that_is_in_another_transaction_by_then_holds_up_no_command(postgres_schema: str) -> None:
    async with open_journal(postgres_schema) as journal:
        bench = Bench(journal)
        async with bench.runner(lease=timedelta(seconds=60)) as runner:
            connection = await psycopg.AsyncConnection.connect(postgres_schema.partition("?")[0])
            await runner.handle(Placed("a"), connection=connection)
            await connection.commit()
            await connection.execute("SELECT 1")  # of whoever was given the connection next
            await eventually(lambda: bench.world.seen, seconds=40)
            await connection.close()


async def waiting_for_a_lock(watcher: asyncpg.Connection, count: int) -> None:
    async with asyncio.timeout(60):
        while await watcher.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted AND pid <> 0") < count:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_a_transaction_waits_for_another_one_of_the_same_instance(
    postgres_schema: str, driver: str, end: str
) -> None:
    url = postgres_schema.partition("?")[0]
    begin, watcher = POSTGRES[driver](url), await asyncpg.connect(url)
    async with SagaRunner(postgres_schema, sagas=[OrderSaga], dispatch=World()) as runner:
        await runner.handle(Placed("old"))

        async def place(order_id: str) -> None:
            async with begin() as transaction:
                await runner.handle(Placed(order_id), connection=transaction.connection)
                await transaction.commit()

        async with begin() as first:
            for order_id in ("old", "new"):
                await runner.handle(Placed(order_id), connection=first.connection)
            others = [asyncio.create_task(place(order_id)) for order_id in ("old", "new")]
            await waiting_for_a_lock(watcher, 2)
            await getattr(first, end)()
            await asyncio.gather(*others)
        for order_id, total in (("old", 2), ("new", 1)):
            assert (await runner.state(OrderSaga, order_id)).total == total + (end == "commit")
    await watcher.close()


async def test_two_transactions_that_wait_for_each_other_are_told(postgres_schema: str) -> None:
    begin = of_asyncpg(postgres_schema.partition("?")[0])
    async with SagaRunner(postgres_schema, sagas=[OrderSaga], dispatch=World()) as runner:
        both = asyncio.Barrier(2)

        async def place(first: str, second: str) -> bool:
            async with begin() as transaction:
                await runner.handle(Placed(first), connection=transaction.connection)
                await both.wait()
                try:
                    await runner.handle(Placed(second), connection=transaction.connection)
                except JournalUnavailableError as error:
                    assert "wait for each other" in str(error)
                    await transaction.rollback()
                    return False
                await transaction.commit()
                return True

        told = await asyncio.gather(place("a", "b"), place("b", "a"))
        assert sorted(told) == [False, True]
        assert (await runner.state(OrderSaga, "a")).total == 1


async def test_a_task_that_has_the_lock_of_the_file_can_go_on_while_another_one_waits_for_it(tmp_path: Path) -> None:
    path = str(tmp_path / "shop.db")
    async with SqliteJournal(path) as journal:
        bench, entered = Bench(journal), asyncio.Event()

        async def place(order_id: str, *, first: bool) -> None:
            async with of_sqlite3(path)() as transaction:
                if not first:
                    await entered.wait()
                await runner.handle(Placed(order_id), message_id=order_id, connection=transaction.connection)
                entered.set()
                if first:
                    await asyncio.sleep(0.2)  # in which the other one asks for the lock
                await transaction.commit()

        async with bench.runner() as runner, asyncio.timeout(40):  # SQLite would wait 5 s, and then fail
            await asyncio.gather(place("a", first=True), place("b", first=False))
        assert await bench.log("b") == ["placed"]


async def test_a_commit_that_is_under_way_still_is_waited_for(tmp_path: Path) -> None:
    """To another thread, a connection of SQLite is in no transaction any more as soon as its COMMIT begins."""
    path, said = str(tmp_path / "shop.db"), True
    async with SqliteJournal(path) as journal:
        bench = Bench(journal)
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        caller = CallersConnection(connection, "sqlite3", lambda: said, asynchronous=False)
        async with bench.runner(lease=timedelta(seconds=60)) as runner:
            await runner.handle(Placed("a"), connection=caller)
            said = False
            await asyncio.sleep(0.1)  # of a slow disk
            connection.execute("COMMIT")
            await eventually(lambda: bench.world.seen, seconds=40)
        connection.close()


def as_dict(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> dict[str, Any]:
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


@pytest.mark.parametrize("setting", [{"row_factory": as_dict}, {"text_factory": bytes}])
async def test_a_connection_of_sqlite_may_give_its_rows_and_texts_in_any_form(
    tmp_path: Path, setting: dict[str, Any]
) -> None:
    path = str(tmp_path / "shop.db")
    async with SqliteJournal(path) as journal, aiosqlite.connect(path) as beside:
        bench, plain = Bench(journal), sqlite3.connect(path)
        async with bench.runner() as runner:
            for connection in (plain, beside):
                for name, value in setting.items():
                    setattr(connection, name, value)
                await runner.handle(Placed("é"), connection=connection)
                for name, value in setting.items():
                    assert getattr(connection, name) is value
                plain.commit()
                await beside.commit()
        plain.close()
        assert await bench.log("é") == ["placed", "placed"]


async def test_a_temporary_table_that_hides_one_of_the_journal_is_told(tmp_path: Path) -> None:
    path = str(tmp_path / "shop.db")
    async with SqliteJournal(path) as journal, Bench(journal).runner() as runner:
        connection = sqlite3.connect(path)
        connection.execute("CREATE TEMP TABLE record (id TEXT)")
        with pytest.raises(DefinitionError, match="temporary table 'record'"):
            await runner.handle(Placed("a"), connection=connection)
        connection.close()
