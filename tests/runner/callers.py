"""Applications with a table of their own, each with another driver, in the database or file of the journal."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import aiosqlite
import asyncpg
import psycopg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine

Execute = Callable[[str], Any]


class Transaction:
    """What is given to `handle`, how the application's rows are written beside it, and how it ends."""

    def __init__(self, connection: Any, execute: Execute, commit: Execute | Any, rollback: Any) -> None:
        self.connection = connection
        self.execute = execute
        self.commit = commit
        self.rollback = rollback


Application = Callable[[], AbstractAsyncContextManager[Transaction]]


def of_asyncpg(url: str) -> Application:
    @asynccontextmanager
    async def begin() -> AsyncIterator[Transaction]:
        connection = await asyncpg.connect(url)
        transaction = connection.transaction()
        await transaction.start()
        yield Transaction(connection, connection.execute, transaction.commit, transaction.rollback)
        await connection.close()

    return begin


def of_psycopg(url: str) -> Application:
    @asynccontextmanager
    async def begin() -> AsyncIterator[Transaction]:
        connection = await psycopg.AsyncConnection.connect(url)
        yield Transaction(connection, connection.execute, connection.commit, connection.rollback)  # type: ignore[arg-type]
        await connection.close()

    return begin


def of_sqlalchemy(url: str, *, session: bool = False) -> Application:
    @asynccontextmanager
    async def begin() -> AsyncIterator[Transaction]:
        engine = create_async_engine(url)
        used: AsyncSession | AsyncConnection = AsyncSession(engine) if session else await engine.connect()

        async def execute(statement: str) -> None:
            await used.execute(text(statement))

        yield Transaction(used, execute, used.commit, used.rollback)
        await used.close()
        await engine.dispose()

    return begin


def of_sqlite3(path: str, *, begins: bool = False) -> Application:
    """`begins`: it says BEGIN itself, and not the driver."""

    @asynccontextmanager
    async def begin() -> AsyncIterator[Transaction]:
        connection = sqlite3.connect(path, isolation_level=None if begins else "")
        connection.row_factory = sqlite3.Row
        if begins:
            connection.execute("BEGIN IMMEDIATE")

        async def execute(statement: str) -> None:
            connection.execute(statement)

        async def commit() -> None:
            connection.execute("COMMIT")

        async def rollback() -> None:
            connection.execute("ROLLBACK")

        yield Transaction(connection, execute, commit, rollback)
        connection.close()

    return begin


def of_aiosqlite(path: str) -> Application:
    @asynccontextmanager
    async def begin() -> AsyncIterator[Transaction]:
        async with aiosqlite.connect(path) as connection:
            yield Transaction(connection, connection.execute, connection.commit, connection.rollback)

    return begin


POSTGRES: dict[str, Callable[[str], Application]] = {
    "asyncpg": of_asyncpg,
    "psycopg": of_psycopg,
    "SQLAlchemy, asyncpg": lambda url: of_sqlalchemy(url.replace("postgresql:", "postgresql+asyncpg:")),
    "SQLAlchemy, psycopg": lambda url: of_sqlalchemy(url.replace("postgresql:", "postgresql+psycopg:")),
    "session": lambda url: of_sqlalchemy(url.replace("postgresql:", "postgresql+asyncpg:"), session=True),
}
SQLITE: dict[str, Callable[[str], Application]] = {
    "sqlite3": of_sqlite3,
    "sqlite3, BEGIN": lambda path: of_sqlite3(path, begins=True),
    "aiosqlite": of_aiosqlite,
    "SQLAlchemy, aiosqlite": lambda path: of_sqlalchemy(f"sqlite+aiosqlite:///{path}"),
}
