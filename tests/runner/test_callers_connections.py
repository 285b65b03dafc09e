"""A caller's connection that is in an odd state: used where it can be, and told what is wrong with it where it cannot."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from sagalog import (
    ConflictError,
    DefinitionError,
    JournalUnavailableError,
    NoInstanceError,
    SagaRunner,
)
from sagalog.blocking import BlockingRunner

from ..orders import Noted, OrderSaga, Placed, World


@pytest.fixture
async def runner(postgres_schema: str) -> AsyncIterator[SagaRunner]:
    OrderSaga.fail_times = 0
    async with SagaRunner(postgres_schema, sagas=[OrderSaga], dispatch=World()) as runner:
        yield runner


@pytest.fixture
def url(postgres_schema: str) -> str:
    return postgres_schema.partition("?")[0]


@pytest.fixture
async def connection(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    yield connection
    connection.terminate()


async def test_a_transaction_of_asyncpg_may_be_begun_by_hand(runner: SagaRunner, connection: Any) -> None:
    await connection.execute("BEGIN")
    assert (await runner.handle(Placed("a"), message_id="1", connection=connection)).handled
    assert (await runner.handle(Noted("a", "x"), message_id="2", connection=connection)).handled
    await connection.execute("ROLLBACK")
    with pytest.raises(NoInstanceError):
        await runner.state(OrderSaga, "a")
    await connection.execute("BEGIN")
    assert (await runner.handle(Placed("a"), message_id="1", connection=connection)).handled
    await connection.execute("COMMIT")
    assert (await runner.state(OrderSaga, "a")).log == ["placed"]


async def test_a_conflict_leaves_a_transaction_begun_by_hand_usable(runner: SagaRunner, connection: Any) -> None:
    await runner.handle(Placed("a"))
    await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await connection.execute("SELECT 1 FROM pg_class LIMIT 1")  # the snapshot is taken
    await runner.handle(Noted("a", "first"))
    with pytest.raises(ConflictError):
        await runner.handle(Noted("a", "late"), connection=connection)
    assert await connection.fetchval("SELECT 7") == 7
    await connection.execute("COMMIT")
    assert (await runner.state(OrderSaga, "a")).log == ["placed", "first"]


async def test_a_transaction_that_has_failed_before_is_told_as_such(
    runner: SagaRunner, connection: Any, url: str
) -> None:
    transaction = connection.transaction()
    await transaction.start()
    with pytest.raises(asyncpg.PostgresError):
        await connection.execute("SELECT 1 / 0")
    with pytest.raises(DefinitionError, match="has already failed.* roll it back"):
        await runner.handle(Placed("a"), connection=connection)
    await transaction.rollback()
    async with await psycopg.AsyncConnection.connect(url) as other:
        with pytest.raises(psycopg.Error):
            await other.execute("SELECT 1 / 0")
        with pytest.raises(DefinitionError, match="has already failed.* roll it back"):
            await runner.handle(Placed("a"), connection=other)
        await other.rollback()
        assert (await runner.handle(Placed("a"), connection=other)).handled


async def test_a_transaction_that_may_only_read_is_told_as_such_and_is_usable(
    runner: SagaRunner, connection: Any
) -> None:
    async with connection.transaction(readonly=True):
        with pytest.raises(JournalUnavailableError, match="is read-only: begin it READ WRITE,"):
            await runner.handle(Placed("a"), connection=connection)
        assert await connection.fetchval("SELECT 7") == 7


async def test_a_connection_that_the_server_has_ended_is_told_and_the_journal_is_not_blamed(
    runner: SagaRunner, connection: Any, url: str
) -> None:
    watcher = await asyncpg.connect(url)
    await connection.execute("BEGIN")
    assert (await runner.handle(Placed("a"), message_id="1", connection=connection)).handled
    await watcher.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
    async with asyncio.timeout(30):
        while not connection.is_closed():
            await asyncio.sleep(0.01)
    with pytest.raises(JournalUnavailableError, match="it is lost, closed, or in use by another task"):
        await runner.handle(Noted("a", "x"), connection=connection)
    other = await psycopg.AsyncConnection.connect(url)
    await other.execute("SELECT 1")
    await watcher.execute("SELECT pg_terminate_backend($1)", other.info.backend_pid)
    with pytest.raises(JournalUnavailableError, match="it is lost, closed, or in use by another task") as told:
        await runner.handle(Placed("b"), connection=other)
    assert "host and port" not in str(told.value)
    await other.close()
    await watcher.close()
    assert (await runner.handle(Placed("a"), message_id="1")).handled  # not as a duplicate


async def test_a_pool_or_a_cursor_is_told_as_what_it_is(runner: SagaRunner, url: str) -> None:
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool:
        with pytest.raises(DefinitionError, match=r"not asyncpg\.pool\.Pool"):
            await runner.handle(Placed("a"), connection=pool)
    async with await psycopg.AsyncConnection.connect(url) as connection:
        with pytest.raises(DefinitionError, match=r"not psycopg\.AsyncCursor"):
            await runner.handle(Placed("a"), connection=connection.cursor())
    plain = sqlite3.connect(":memory:")
    with pytest.raises(DefinitionError, match=r"not sqlite3\.Cursor"):
        await runner.handle(Placed("a"), connection=plain.cursor())
    plain.close()


async def test_a_connection_of_sqlalchemy_that_runs_nothing_is_told_as_such(runner: SagaRunner, url: str) -> None:
    engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"))
    async with engine.connect() as used:
        await used.execute(text("SELECT 1"))
    with pytest.raises(DefinitionError, match=r"runs no statements now \(ResourceClosedError\)"):
        await runner.handle(Placed("a"), connection=used)
    async with AsyncSession(engine) as session:
        with pytest.raises(Exception, match="division by zero"):
            await session.execute(text("SELECT 1 / 0"))
        with pytest.raises(DefinitionError, match="runs no statements now"):
            await runner.handle(Placed("a"), connection=session)
    await engine.dispose()
    away = create_async_engine("postgresql+asyncpg://127.0.0.1:9/x")
    async with AsyncSession(away) as session:
        with pytest.raises(JournalUnavailableError, match="is lost, or could not be opened"):
            await runner.handle(Placed("a"), connection=session)
    await away.dispose()


def test_a_closed_connection_of_sqlalchemy_is_told_to_a_thread(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with BlockingRunner(SagaRunner(f"sqlite:///{path}", sagas=[OrderSaga], dispatch=World())) as sagas:
        engine = create_engine(f"sqlite:///{path}")
        with engine.connect() as used:
            used.execute(text("SELECT 1"))
        with pytest.raises(DefinitionError, match=r"runs no statements now \(ResourceClosedError\)"):
            sagas.handle(Placed("a"), connection=used)
        with Session(engine) as session, session.begin():
            assert sagas.handle(Placed("a"), connection=session).handled
        engine.dispose()


@pytest.mark.parametrize(
    "setting",
    [
        "standard_conforming_strings=off",
        "bytea_output='escape'",
        "DateStyle='German'",
        "TimeZone='Pacific/Kiritimati'",
        "IntervalStyle='iso_8601'",
        "client_encoding='LATIN1'",
        "search_path=''",
        "array_nulls=off",
    ],
)
async def test_whatever_the_session_is_set_to_an_event_finds_what_the_one_before_has_stored(
    runner: SagaRunner, connection: Any, url: str, setting: str
) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as other:
        for name, used in (("a\\x41", connection), ("\\x42 é", other)):
            for number, event in enumerate((Placed(name), Noted(name, "x"))):
                await used.execute("BEGIN")
                await used.execute(f"SET LOCAL {setting}")
                assert (await runner.handle(event, message_id=f"{name} {number}", connection=used)).handled
                again = await runner.handle(event, message_id=f"{name} {number}", connection=used)
                assert again.duplicate
                await used.execute("COMMIT")
            assert (await runner.state(OrderSaga, name)).log == ["placed", "x"]
