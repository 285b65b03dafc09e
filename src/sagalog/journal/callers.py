"""A caller's own connection with its own transaction: which driver's it is, and whether the transaction is still open.

    asyncpg · psycopg · sqlite3 · aiosqlite · SQLAlchemy's and Django's over them ─► [callers] ─► journal

No driver is imported: a connection is known by the module of its class. A journal then uses the driver's connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from typing import Any, Literal, TypeVar

from ..errors import DefinitionError, JournalUnavailableError, SagalogError

T = TypeVar("T")
DriverName = Literal["asyncpg", "psycopg", "sqlite3", "aiosqlite"]
InThread = Callable[[Callable[[], Any]], Awaitable[Any]]

_IDLE = 0  # libpq's name for a connection without a transaction
_TAKES = (
    "connection= takes a connection of asyncpg, psycopg, sqlite3 or aiosqlite, or SQLAlchemy's AsyncConnection or "
    "AsyncSession over one of them"
)
_NO_TRANSACTION = (
    "connection= takes a connection with an open transaction: async with connection.transaction(): ... (asyncpg, psycopg), "
    "engine.begin() (SQLAlchemy), BEGIN IMMEDIATE (SQLite), transaction.atomic() (Django); nothing was stored"
)


class CallersConnection:
    """A connection of the driver, within whose open transaction a step is to be stored.

    `in_thread`: runs a function in the thread that the connection belongs to; None: it may be used where it is.
    """

    __slots__ = ("_is_open", "asynchronous", "driver", "family", "in_thread")

    def __init__(
        self,
        driver: Any,
        family: DriverName,
        is_open: Callable[[], bool],
        *,
        asynchronous: bool,
        in_thread: InThread | None = None,
    ) -> None:
        self.driver: Any = driver
        self.family = family
        self.asynchronous: bool = asynchronous
        self.in_thread: InThread | None = in_thread
        self._is_open = is_open

    def is_open(self) -> bool:
        """Say whether the transaction is still open."""
        try:
            return self._is_open()
        except Exception:  # the connection was closed or given back to its pool, so the transaction has ended
            return False

    async def call(self, function: Callable[[], T]) -> T:
        """Run a function that uses a connection which is not asynchronous, where that may be used."""
        if self.in_thread is None:
            return function()
        result: T = await self.in_thread(function)
        return result


async def callers_connection(connection: Any) -> CallersConnection:
    """Return the driver's connection under a caller's, in asynchronous code. Raises DefinitionError for what cannot be."""
    if isinstance(connection, CallersConnection):
        return _open(connection)
    family = _family(connection)
    if family == "sqlalchemy":
        return _open(await _of_sqlalchemy(connection))
    found = _of_driver(connection, family)
    if found is None or (found.family == "psycopg" and not found.asynchronous):
        raise DefinitionError(
            f"{_TAKES}, not {_name(connection)}; from threads, use sagalog.blocking. Nothing was stored"
        )
    if found.is_open() or await _begins_there(found):
        return found
    raise DefinitionError(_NO_TRANSACTION)


def callers_connection_of_thread(connection: Any, in_thread: InThread) -> CallersConnection:
    """Return the driver's connection under one that belongs to the calling thread. Raises DefinitionError."""
    family = _family(connection)
    is_open: Callable[[], bool] | None = None
    driver = connection
    if family == "sqlalchemy":
        try:
            if not hasattr(type(connection), "exec_driver_sql"):
                connection = connection.connection()  # of a Session
            connection.exec_driver_sql("SELECT 1")  # the transaction begins with the first statement
            transaction, driver = connection.get_transaction(), connection.connection.driver_connection
        except Exception as error:
            raise _unusable(error) from error
        is_open = None if transaction is None else lambda: bool(transaction.is_active)
    elif family == "django":
        wrapper = _django_wrapper(connection)
        if not wrapper.in_atomic_block:
            raise DefinitionError(_NO_TRANSACTION)
        wrapper.ensure_connection()
        driver = wrapper.connection  # whose own state tells the end: Django's says so before it commits
    found = _of_driver(driver, _family(driver))
    if found is None or found.asynchronous:
        raise DefinitionError(
            "connection= takes a connection of psycopg or sqlite3 here, SQLAlchemy's Connection or Session over one of "
            f"them, or Django's, not {_name(driver)}; nothing was stored"
        )
    opened = _open(found)
    return CallersConnection(
        opened.driver,
        opened.family,
        is_open or opened.is_open,
        asynchronous=False,
        in_thread=in_thread,
    )


def _open(found: CallersConnection) -> CallersConnection:
    if found.is_open() or _begins(found):
        return found
    raise DefinitionError(_NO_TRANSACTION)


def _begins(found: CallersConnection) -> bool:
    """Say whether the driver begins a transaction by itself with the first statement that writes."""
    try:
        if found.family == "psycopg":
            return found.driver.info.transaction_status == _IDLE and not found.driver.autocommit
        if found.family == "sqlite3":
            return _begins_sqlite(found.driver)
    except Exception:  # it is closed
        return False
    return False


async def _begins_there(found: CallersConnection) -> bool:
    """As `_begins`; aiosqlite's connection is asked in its own thread: since Python 3.12 it answers no other one."""
    if found.family != "aiosqlite":
        return _begins(found)
    try:
        begins: bool = await found.driver._execute(_begins_sqlite, found.driver._conn)
    except Exception:  # it is closed
        return False
    return begins


def _begins_sqlite(driver: Any) -> bool:
    return driver.isolation_level is not None and getattr(driver, "autocommit", -1) is not True  # Python 3.12


async def _of_sqlalchemy(connection: Any) -> CallersConnection:
    if not hasattr(type(connection), "get_raw_connection") and iscoroutinefunction(
        getattr(type(connection), "connection", None)
    ):
        try:
            connection = await connection.connection()  # of an AsyncSession
        except Exception as error:
            raise _unusable(error) from error
    if not hasattr(type(connection), "get_raw_connection"):
        raise DefinitionError(
            f"{_TAKES}, not {_name(connection)}; from threads, use sagalog.blocking. Nothing was stored"
        )
    try:
        await connection.exec_driver_sql("SELECT 1")  # the transaction begins with the first statement
        driver = (await connection.get_raw_connection()).driver_connection
    except Exception as error:
        raise _unusable(error) from error
    found = _of_driver(driver, _family(driver))
    if found is None or not found.asynchronous:
        raise DefinitionError(f"{_TAKES}, not one over {_name(driver)}; nothing was stored")
    transaction = connection.sync_connection.get_transaction()
    if transaction is None or not (found.is_open() or await _begins_there(found)):
        raise DefinitionError(_NO_TRANSACTION)
    return CallersConnection(driver, found.family, lambda: bool(transaction.is_active), asynchronous=True)


def _unusable(error: Exception) -> SagalogError:
    """Return the error of ours for a connection of SQLAlchemy that runs no statement."""
    name = type(error).__name__
    # Of a server that is away, a pool that is empty, a file that is locked: all of them go away.
    passing = ("OperationalError", "TimeoutError")
    if isinstance(error, OSError) or name in passing or getattr(error, "connection_invalidated", False):
        return JournalUnavailableError(
            f"connection= is lost, or could not be opened ({name}): begin a new transaction; nothing was stored"
        )
    return DefinitionError(
        f"connection= runs no statements now ({name}): it is closed, or its transaction has already failed; nothing "
        "was stored"
    )


def _of_driver(driver: Any, family: str) -> CallersConnection | None:
    told = {
        "asyncpg": "is_in_transaction",
        "psycopg": "info",
        "sqlite3": "in_transaction",
        "aiosqlite": "in_transaction",
    }
    wrapped = family == "asyncpg" and hasattr(driver, told[family])  # and used like asyncpg's
    if not wrapped and not hasattr(type(driver), told.get(family, "")):
        return None  # a pool, or a cursor
    if family == "asyncpg":
        return CallersConnection(driver, "asyncpg", driver.is_in_transaction, asynchronous=True)
    if family == "psycopg":
        name = type(driver).__mro__
        asynchronous = any(one.__name__ == "AsyncConnection" for one in name)
        return CallersConnection(
            driver, "psycopg", lambda: bool(driver.info.transaction_status != _IDLE), asynchronous=asynchronous
        )
    if family == "sqlite3":
        return CallersConnection(driver, "sqlite3", lambda: bool(driver.in_transaction), asynchronous=False)
    if family == "aiosqlite":
        return CallersConnection(driver, "aiosqlite", lambda: bool(driver.in_transaction), asynchronous=True)
    return None


def _family(connection: Any) -> str:
    """Return the package that a connection is of, also one of a class derived from it."""
    known = ("asyncpg", "psycopg", "sqlite3", "aiosqlite", "sqlalchemy", "django")
    for kind in type(connection).__mro__:
        package = kind.__module__.partition(".")[0]
        if package in known:
            return package
    if callable(getattr(connection, "is_in_transaction", None)):  # wrapped, and used like asyncpg's
        return "asyncpg"
    return ""


def _django_wrapper(connection: Any) -> Any:
    """Return Django's connection itself: `django.db.connection` stands for that of whichever thread uses it."""
    from importlib import import_module

    return import_module("django.db").connections[connection.alias]


def _name(connection: Any) -> str:
    return f"{type(connection).__module__}.{type(connection).__qualname__}"
