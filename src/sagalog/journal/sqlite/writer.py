"""Group commit: everything that waits goes into one transaction, with one fsync.

The fast path puts all records of a batch into a few statements of many rows each: while SQLite works, Python's lock is
free for the event loop, and it is taken once a statement, not once a row. Compare-and-set is the WHERE of the
update (or the primary key, for a first record); whoever lost is found afterwards and only its own row is taken back.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain

import msgspec

from ...errors import SequenceOutOfOrder
from ..protocol import PersistentRepr
from .schema import translate
from .threads import Job

log = logging.getLogger("sagalog")

Row = tuple[str, int, bytes, str, str, int, str, int | None]  # as in `row_of`


class Write:
    """Records of one call: their rows, and whether it is all or nothing."""

    __slots__ = ("atomic", "rows")

    def __init__(self, rows: list[Row], atomic: bool) -> None:
        self.rows = rows
        self.atomic = atomic


Work = Row | Write | Callable[[sqlite3.Connection], object]

# Statements are made for these numbers of rows; a batch takes the next larger one and leaves the other rows NULL.
# So a batch of any size costs a handful of statements, and as many times Python's lock is waited for.
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
MOST_ROWS = _SIZES[-1]

_RECORDS = """INSERT INTO record (record_id, persistence_id, sequence_nr, payload, manifest, writer_uuid, deleted, tags,
 due_at, previous_id) SELECT column1, column2, column3, column4, column5, column6, column7, column8, column9,
 (SELECT record_id FROM instance WHERE persistence_id = column2) FROM (VALUES {}) WHERE column1 IS NOT NULL"""
_CREATE = """INSERT INTO instance (persistence_id, sequence_nr, record_id, deleted, due_at)
 SELECT * FROM (VALUES {}) WHERE column1 IS NOT NULL ON CONFLICT DO NOTHING"""
_UPDATE = """UPDATE instance SET sequence_nr = column2, record_id = column3, deleted = column4, due_at = column5
 FROM (VALUES {}) WHERE persistence_id = column1 AND sequence_nr = column2 - 1"""
_LOSERS = """SELECT column1, column2 FROM (VALUES {}) LEFT JOIN instance i ON i.persistence_id = column1
 WHERE column1 IS NOT NULL AND i.record_id IS NOT column2"""


def row_of(message: PersistentRepr, due_at: int | None) -> Row:
    """Return the columns of a record."""
    return (
        message.persistence_id,
        message.sequence_nr,
        message.payload,
        message.manifest,
        message.writer_uuid,
        int(message.deleted),
        _tags(message.tags),
        due_at,
    )


@lru_cache(maxsize=256)  # a saga's records all have the same
def _tags(tags: tuple[str, ...]) -> str:
    return msgspec.json.encode(tags).decode()


class _Statement:
    """One statement over many rows, in the sizes it may have. Python's sqlite3 keeps them prepared."""

    def __init__(self, template: str, columns: int) -> None:
        row = f"({', '.join('?' * columns)})"
        self._columns = columns
        self._by_size = [(size, template.format(", ".join([row] * size))) for size in _SIZES]

    def execute(self, connection: sqlite3.Connection, rows: Sequence[tuple[object, ...]]) -> sqlite3.Cursor:
        """Run it over `rows`, at least one and at most MOST_ROWS."""
        size, sql = next(entry for entry in self._by_size if entry[0] >= len(rows))
        values = list(chain.from_iterable(rows))
        values.extend([None] * ((size - len(rows)) * self._columns))
        return connection.execute(sql, values)


_INSERT_RECORDS = _Statement(_RECORDS, 9)
_CREATE_INSTANCES = _Statement(_CREATE, 5)
_UPDATE_INSTANCES = _Statement(_UPDATE, 5)
_FIND_LOSERS = _Statement(_LOSERS, 2)


class Writer:
    """The one connection that writes. `history`: how many records before the newest are kept, None for all."""

    def __init__(self, connection: sqlite3.Connection, path: str, history: int | None) -> None:
        self._connection = connection
        self._path = path
        self._history = history

    def close(self) -> None:
        self._connection.close()

    def serve(self, jobs: list[Job[Work]]) -> None:
        """Carry out a batch of jobs in one transaction."""
        connection = self._connection
        committing = False
        try:
            connection.execute("BEGIN IMMEDIATE")
            self._write(jobs)
            for job in jobs:
                if not isinstance(job.work, (tuple, Write)):
                    job.result = job.work(connection)
            committing = True
            connection.execute("COMMIT")
        except Exception as error:
            # A commit that was refused (busy, full) leaves the transaction open: rolled back, nothing was stored. One
            # that broke off with a disk error may have reached the file, so `translate` calls its outcome unknown.
            failure = translate(error, self._path, committing=committing)
            self._roll_back()
            for job in jobs:
                job.error = failure

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error as error:  # SQLite rolled back by itself, or the next BEGIN will say what is wrong
                log.warning("%s: rolling back failed: %s", self._path, error)

    def _write(self, jobs: list[Job[Work]]) -> None:
        fast: list[Row] = []
        owners: dict[str, Job[Work]] = {}
        slow: list[tuple[Job[Work], Write]] = []
        for job in jobs:
            write = job.work
            if isinstance(write, tuple):
                if write[0] not in owners:
                    fast.append(write)
                    owners[write[0]] = job
                else:
                    slow.append((job, Write([write], atomic=False)))
            elif isinstance(write, Write):
                slow.append((job, write))
        for losers in self._store(fast):
            owners[losers].error = SequenceOutOfOrder((losers,))
        for job, write in slow:
            self._store_call(job, write)

    def _next_id(self) -> int:
        # Read under the write lock each time: another process may have written since.
        (highest,) = self._connection.execute("SELECT max(record_id) FROM record").fetchone()
        return (highest or 0) + 1

    def _store(self, rows: list[Row]) -> list[str]:
        """Store one record each of different ids; return the ids that lost."""
        if not rows:
            return []
        number = self._next_id()
        records: list[tuple[object, ...]] = []
        creates: list[tuple[object, ...]] = []
        updates: list[tuple[object, ...]] = []
        for row in rows:
            records.append((number, *row))
            (creates if row[1] == 1 else updates).append((row[0], row[1], number, row[5], row[7]))
            number += 1
        _INSERT_RECORDS.execute(self._connection, records)
        changed = 0
        if creates:
            changed += _CREATE_INSTANCES.execute(self._connection, creates).rowcount
        if updates:
            changed += _UPDATE_INSTANCES.execute(self._connection, updates).rowcount
        losers: list[str] = []
        if changed != len(rows):
            found = _FIND_LOSERS.execute(self._connection, [(r[1], r[0]) for r in records])
            for persistence_id, record_id in found.fetchall():
                losers.append(persistence_id)
                self._connection.execute("DELETE FROM record WHERE record_id = ?", (record_id,))
        if self._history is not None:
            lost = set(losers)
            for row in rows:
                if row[0] not in lost:
                    self._prune(row[0], row[1])
        return losers

    def _store_call(self, job: Job[Work], write: Write) -> None:
        """Store the records of a call with several: those of one id stand or fall together, or all if atomic."""
        self._connection.execute("SAVEPOINT call")
        lost: set[str] = set()
        order = list(dict.fromkeys(row[0] for row in write.rows))
        for persistence_id in order:
            self._connection.execute("SAVEPOINT one")
            for row in write.rows:
                if row[0] == persistence_id and self._store([row]):
                    lost.add(persistence_id)
                    break
            if persistence_id in lost:
                self._connection.execute("ROLLBACK TO one")
            self._connection.execute("RELEASE one")
        if lost:
            job.error = SequenceOutOfOrder(tuple(p for p in order if p in lost))
            if write.atomic:
                self._connection.execute("ROLLBACK TO call")
        self._connection.execute("RELEASE call")

    def _prune(self, persistence_id: str, sequence_nr: int) -> None:
        """Delete the history past the setting. With n records to keep, every n writes: n to 2n are there."""
        keep = self._history
        assert keep is not None
        if sequence_nr > keep and (keep == 0 or sequence_nr % keep == 0):
            delete_chain(self._connection, persistence_id, sequence_nr - keep - 1)


def delete_chain(connection: sqlite3.Connection, persistence_id: str, to_sequence_nr: int) -> None:
    """Delete the records of an id up to and including a number."""
    connection.execute(
        """WITH RECURSIVE chain(record_id, sequence_nr, previous_id) AS (
             SELECT r.record_id, r.sequence_nr, r.previous_id FROM instance i JOIN record r USING (record_id)
              WHERE i.persistence_id = ?
             UNION ALL
             SELECT r.record_id, r.sequence_nr, r.previous_id FROM chain JOIN record r ON r.record_id = chain.previous_id)
           DELETE FROM record WHERE record_id IN (SELECT record_id FROM chain WHERE sequence_nr <= ?)""",
        (persistence_id, to_sequence_nr),
    )
