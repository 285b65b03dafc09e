"""A step within a caller's own transaction on the journal's file: plain statements on the caller's connection.

The writer's triggers live in its own connection. A caller holds the file's write lock from the first statement on, so what
was read stays the newest until its transaction ends: the rest of the journal waits for that as for any other writer.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Generator, Sequence
from typing import Any

from ...errors import DefinitionError, SequenceOutOfOrder
from ...waiting import Attempts, Waiting
from ..callers import CallersConnection
from .layout import TABLES
from .listing import CHAIN
from .rows import COLUMNS, NEWEST, NEWEST_COLUMNS, RECORDS, THERE
from .writer import DELETE_CHAIN, Row

Statement = tuple[str, tuple[Any, ...]]
Statements = Generator[Statement, list[Any], Any]

# It takes the lock, and changes nothing. Behind a read of an older state SQLite refuses it: that transaction cannot write.
_LOCK: Statement = ("UPDATE instance SET sequence_nr = sequence_nr WHERE instance_id IS NULL", ())


def newest(path: str, persistence_id: str) -> Statements:
    """Take the file's lock; return the row of the newest record, as NEWEST_COLUMNS, or None."""
    yield from check_file(path)
    yield _LOCK
    rows = yield (f"SELECT {NEWEST_COLUMNS} FROM {NEWEST} WHERE i.persistence_id = ? AND {THERE}", (persistence_id,))  # noqa: S608
    return rows[0] if rows else None


def with_term(path: str, term: str, place: int, limit: int) -> Statements:
    """Take the file's lock; return live ids with a term, behind a place, and the place to go on from; 0: the end."""
    yield from check_file(path)
    yield _LOCK
    rows = yield (
        """SELECT i.persistence_id, t.instance_id FROM term t CROSS JOIN instance i USING (instance_id)
            WHERE t.term = ? AND t.instance_id > ? AND i.deleted = 0 AND i.deleted_to < i.sequence_nr
            ORDER BY t.instance_id LIMIT ?""",
        (term, place, limit + 1),
    )
    return [row[0] for row in rows[:limit]], rows[limit - 1][1] if len(rows) > limit else 0


def between(persistence_id: str, first: int, last: int) -> Statements:
    """Return the rows of the records of an id, numbers inclusive, in their order, as COLUMNS."""
    places = yield (CHAIN, (persistence_id, first, first, last, -1))
    found: list[Any] = []
    for (place,) in places:
        found += yield (f"SELECT {COLUMNS} FROM {RECORDS} WHERE r.record_id = ?", (place,))  # noqa: S608
    return found


def check_file(path: str) -> Statements:
    """Raise DefinitionError for a connection to another file than the journal's, or one that hides its tables."""
    rows = yield ("PRAGMA database_list", ())
    (opened,) = [row[2] for row in rows if row[1] == "main"]
    if not opened or not os.path.exists(path) or not os.path.samefile(opened, path):
        raise DefinitionError(
            f"the connection is to another file than the journal's, {path}: a transaction spans one file; nothing was "
            "stored"
        )
    hiding = yield (f"SELECT name FROM sqlite_temp_master WHERE name IN ({', '.join('?' * len(TABLES))})", TABLES)  # noqa: S608
    if hiding:
        raise DefinitionError(
            f"the connection has a temporary table {hiding[0][0]!r}, which hides the journal's: rename it; nothing "
            "was stored"
        )


def store(row: Row, history: int | None) -> Statements:
    """Store a record. Raises SequenceOutOfOrder for a number that is not the next; nothing is stored then."""
    persistence_id, number, payload, label, deleted, due_at, epoch, terms = row
    yield _LOCK
    found = yield (
        "SELECT instance_id, sequence_nr, record_id, epoch FROM instance WHERE persistence_id = ?",
        (persistence_id,),
    )
    if not found:
        if number != 1:
            raise SequenceOutOfOrder((persistence_id,))
        yield (
            """INSERT INTO instance (persistence_id, sequence_nr, record_id, deleted, due_at, epoch)
               VALUES (?, 1, 0, ?, ?, ?)""",
            (persistence_id, deleted, due_at, epoch),
        )
        found = yield ("SELECT instance_id FROM instance WHERE persistence_id = ?", (persistence_id,))
        instance_id, previous = found[0][0], None
    else:
        instance_id, newest_nr, previous, known = found[0]
        if number != newest_nr + 1 or not (epoch == 0 or known in (0, epoch)):
            raise SequenceOutOfOrder((persistence_id,))
        epoch = max(known, epoch)
    yield ("INSERT OR IGNORE INTO label (manifest, writer_uuid, tags) VALUES (?, ?, ?)", label)
    labels = yield ("SELECT label_id FROM label WHERE (manifest, writer_uuid, tags) = (?, ?, ?)", label)
    # Nobody else takes that place: the lock is ours. What SQLite says of the last row may be of a row of the application,
    # where another thread uses the same connection.
    ((place,),) = yield ("SELECT coalesce(max(record_id), 0) + 1 FROM record", ())
    yield (
        """INSERT INTO record (record_id, instance_id, sequence_nr, previous_id, label_id, deleted, due_at, payload)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?)""",
        (place, instance_id, number, previous, labels[0][0], deleted, due_at, payload),
    )
    yield (
        """UPDATE instance SET sequence_nr = ?, record_id = ?, deleted = ?, epoch = ?, due_at = ?
            WHERE instance_id = ?""",
        (number, place, deleted, epoch, due_at, instance_id),
    )
    yield from _store_terms(instance_id, deleted, terms)
    if history is not None and number - history - 1 > 0:
        yield (DELETE_CHAIN, (persistence_id, number - history - 1))


def _store_terms(instance_id: int, deleted: int, terms: str | None) -> Statements:
    if deleted:
        yield ("DELETE FROM term WHERE instance_id = ?", (instance_id,))
    elif terms is not None:
        yield (
            "DELETE FROM term WHERE instance_id = ? AND term NOT IN (SELECT value FROM json_each(?))",
            (instance_id, terms),
        )
        yield ("INSERT OR IGNORE INTO term SELECT value, ? FROM json_each(?)", (instance_id, terms))


async def run(connection: Any, statements: Statements, path: str, busy_seconds: float) -> Any:
    """Run statements on a caller's connection, all or none of them; return what they return.

    No statement of the application comes in between: they are one call in the thread that uses the connection.
    """
    if isinstance(connection, CallersConnection) and connection.family == "aiosqlite":
        return await _run_in_its_thread(connection.driver, statements)
    if isinstance(connection, CallersConnection) and connection.family == "sqlite3":
        if connection.in_thread is None:
            _run(connection.driver, check_file(path))
            await _lock(connection.driver, busy_seconds)
        return await connection.call(lambda: _run(connection.driver, statements))
    if isinstance(connection, sqlite3.Connection):
        return _run(connection, statements)
    raise DefinitionError(
        "the journal is an SQLite file, and the connection is to PostgreSQL: open the runner on postgresql://..., or give "
        "a connection to the journal's file; nothing was stored"
    )


async def _lock(connection: sqlite3.Connection, seconds: float) -> None:
    """Take the file's lock on a connection that is used in the event loop, without holding the loop up.

    Who has it may be a task of the same loop, which could never let go while SQLite waits in the loop's own thread.
    """
    attempts = Attempts(Waiting(first=0.005, most=0.05, seconds=seconds), clock=asyncio.get_running_loop().time)
    cursor = connection.cursor()
    cursor.row_factory = None  # whatever the connection's is
    (busy,) = cursor.execute("PRAGMA busy_timeout").fetchone()
    cursor.execute("PRAGMA busy_timeout=0").fetchall()
    try:
        while True:
            try:
                cursor.execute(*_LOCK)
                return
            except sqlite3.OperationalError as error:
                # Behind a read of an older state (SQLITE_BUSY_SNAPSHOT) waiting does not help.
                if error.sqlite_errorname != "SQLITE_BUSY" or not await attempts.wait():
                    raise
    finally:
        cursor.execute(f"PRAGMA busy_timeout={int(busy)}").fetchall()
        cursor.close()


async def _run_in_its_thread(connection: Any, statements: Statements) -> Any:
    """Run statements on a connection of aiosqlite, in its thread, which does one thing after the other."""
    in_thread, driver = getattr(connection, "_execute", None), getattr(connection, "_conn", None)
    if in_thread is None or not isinstance(driver, sqlite3.Connection):
        raise DefinitionError(
            f"this version of aiosqlite runs no function in the thread of a connection ({type(connection).__qualname__})"
            ": use another version, or a connection of sqlite3; nothing was stored"
        )
    wanted = [True]
    try:
        return await in_thread(lambda: _run(driver, statements, wanted))
    except asyncio.CancelledError:
        wanted.clear()  # it may not have begun: then, or if it is under way still, it stores nothing
        raise


def _run(connection: sqlite3.Connection, statements: Statements, wanted: Sequence[bool] = (True,)) -> Any:
    """Run statements. `wanted`: empty as soon as nobody waits for it any more."""
    cursor = connection.cursor()
    texts, connection.text_factory = connection.text_factory, str
    cursor.row_factory = None  # whatever the connection's is
    begun = False
    try:
        sql, values = next(statements)
        while True:
            cursor.execute(sql, values)
            rows = cursor.fetchall()
            if sql == _LOCK[0] and not connection.in_transaction:
                raise DefinitionError("the transaction on connection= has ended in the meantime; nothing was stored")
            if not begun and connection.in_transaction:
                cursor.execute("SAVEPOINT sagalog_step")
                begun = True
            sql, values = statements.send(rows)
    except StopIteration as done:
        if begun and wanted:
            cursor.execute("RELEASE sagalog_step")
        elif begun:
            _take_back(cursor)
        return done.value
    except BaseException:
        if begun and connection.in_transaction:  # else SQLite has rolled back all of it
            _take_back(cursor)
        raise
    finally:
        connection.text_factory = texts
        cursor.close()


def _take_back(cursor: sqlite3.Cursor) -> None:
    cursor.execute("ROLLBACK TO sagalog_step")
    cursor.execute("RELEASE sagalog_step")
