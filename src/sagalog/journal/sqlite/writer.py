"""Group commit: everything that waits goes into one transaction, with one fsync.

A batch of records is one INSERT of many rows, and mostly nothing else: in SQLite's autocommit mode that one statement
begins, writes and commits. Python's lock is given up once and taken once for the whole batch, however busy the event loop
is meanwhile; with a statement for each table, a BEGIN and a COMMIT the batch would wait for it some seven times, up to
Python's switch interval (5 ms) each. Compare-and-set and the table `instance` are kept by triggers of this connection:
a row whose number is not the next is left out, and noted as a loser.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain

import msgspec

from ...errors import OutcomeUnknownError, SequenceOutOfOrder
from ...logs import about, log
from ..protocol import CommitCounts, PersistentRepr
from .schema import is_busy, translate
from .threads import Job

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
LOG_PAGES = 8000  # some 32 MB, then a checkpoint

_RECORDS = """INSERT INTO record (persistence_id, sequence_nr, payload, manifest, writer_uuid, deleted, tags, due_at,
 previous_id) SELECT column1, column2, column3, column4, column5, column6, column7, column8,
 (SELECT record_id FROM instance WHERE persistence_id = column1) FROM (VALUES {}) WHERE column1 IS NOT NULL"""

# Not in the file: they live as long as the connection. RAISE(IGNORE) leaves out the row, and keeps what the trigger did.
_TRIGGERS = (
    "CREATE TEMP TABLE loser (persistence_id TEXT)",
    """CREATE TEMP TRIGGER not_the_next BEFORE INSERT ON main.record
       WHEN NEW.sequence_nr - 1 IS NOT
            ifnull((SELECT sequence_nr FROM instance WHERE persistence_id = NEW.persistence_id), 0)
       BEGIN
           INSERT INTO loser VALUES (NEW.persistence_id);
           SELECT RAISE(IGNORE);
       END""",
    """CREATE TEMP TRIGGER newest AFTER INSERT ON main.record
       BEGIN
           INSERT INTO instance (persistence_id, sequence_nr, record_id, deleted, due_at)
           VALUES (NEW.persistence_id, NEW.sequence_nr, NEW.record_id, NEW.deleted, NEW.due_at)
           ON CONFLICT (persistence_id) DO UPDATE SET sequence_nr = excluded.sequence_nr,
               record_id = excluded.record_id, deleted = excluded.deleted, due_at = excluded.due_at;
       END""",
)


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


_BY_SIZE = [(size, _RECORDS.format(", ".join([f"({', '.join('?' * 8)})"] * size))) for size in _SIZES]


def _insert(connection: sqlite3.Connection, rows: Sequence[Row]) -> int:
    """Insert rows of different ids, at least one and at most MOST_ROWS; return how many are stored."""
    size, sql = next(entry for entry in _BY_SIZE if entry[0] >= len(rows))  # Python's sqlite3 keeps them prepared
    values: list[object] = list(chain.from_iterable(rows))
    values.extend([None] * ((size - len(rows)) * 8))
    return connection.execute(sql, values).rowcount


def _records(work: Work) -> int:
    return 1 if isinstance(work, tuple) else len(work.rows) if isinstance(work, Write) else 0


class Writer:
    """The one connection that writes. `history`: how many records before the newest are kept, None for all."""

    def __init__(self, connection: sqlite3.Connection, path: str, history: int | None, *, busy_seconds: float) -> None:
        self._connection = connection
        self._busy_ms = int(busy_seconds * 1000)
        self._path = path
        self._history = history
        self.counts = CommitCounts()
        self._checkpointed_at = connection.total_changes
        self._pages_a_change = 2.0  # in the log; a guess until the first checkpoint tells
        connection.execute("PRAGMA temp_store=MEMORY")
        for statement in _TRIGGERS:
            connection.execute(statement)
        connection.execute("PRAGMA busy_timeout=0")  # who has time to wait for a lock says so

    def close(self) -> None:
        self._connection.close()

    def serve(self, jobs: list[Job[Work]], *, patient: bool = False) -> bool:
        """Carry out a batch of jobs in one transaction.

        Another process's lock is waited for if `patient`; else it means False, and nothing was done.
        """
        connection = self._connection
        owners: dict[str, Job[Work]] = {}
        rows: list[Row] = []  # one of each id
        others: list[Job[Work]] = []
        for job in jobs:
            work = job.work
            if isinstance(work, tuple) and work[0] not in owners:
                rows.append(work)
                owners[work[0]] = job
            else:
                others.append(job)
        committing, begun = False, time.perf_counter()
        try:
            if patient:
                connection.execute(f"PRAGMA busy_timeout={self._busy_ms}")
            if others or self._history is not None:
                connection.execute("BEGIN IMMEDIATE")
                self._serve_rows(rows, owners)
                for job in others:
                    self._serve_other(job)
                committing = True
                connection.execute("COMMIT")
            else:
                committing = True
                self._serve_rows(rows, owners)
            records = len(rows) + sum(_records(job.work) for job in others)
            if records:  # not a mere claim of due work
                self.counts.add(records, time.perf_counter() - begun)
        except Exception as error:
            self._roll_back()
            if not patient and is_busy(error):
                return False
            # A commit that was refused (busy, full) leaves the transaction open: rolled back, nothing was stored. One
            # that broke off with a disk error may have reached the file, so `translate` calls its outcome unknown.
            failure = translate(error, self._path, committing=committing)
            for job in jobs:
                job.error = failure
        except BaseException:  # Ctrl-C: what is open must not become part of the next batch
            self._roll_back()
            for job in jobs:
                job.error = OutcomeUnknownError(f"{self._path}: interrupted while committing; it may be stored")
            raise
        finally:
            if patient:
                connection.execute("PRAGMA busy_timeout=0")
        return True

    @property
    def log_is_long(self) -> bool:
        """Whether it is time to copy the write-ahead log into the file."""
        changes = self._connection.total_changes - self._checkpointed_at
        return changes * self._pages_a_change > LOG_PAGES

    def checkpoint(self) -> None:
        """Copy the write-ahead log into the file, as far as readers let it, so that it is written from its start again."""
        changes = self._connection.total_changes
        try:
            _, pages, _ = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:  # nothing is lost: the log holds it, and the next one tries again
            log.warning("%s: the log could not be copied into the file: %s", self._path, error, extra=about())
        else:
            if pages > 0:
                self._pages_a_change = pages / (changes - self._checkpointed_at)
        self._checkpointed_at = changes

    def _serve_rows(self, rows: list[Row], owners: dict[str, Job[Work]]) -> None:
        for loser in self._store(rows):
            owners[loser].error = SequenceOutOfOrder((loser,))

    def _serve_other(self, job: Job[Work]) -> None:
        work = job.work
        if isinstance(work, tuple):
            self._store_call(job, Write([work], atomic=False))
        elif isinstance(work, Write):
            self._store_call(job, work)
        else:
            job.result = work(self._connection)

    def _roll_back(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:  # SQLite rolled back by itself, or the next BEGIN will say what is wrong
            log.warning("%s: rolling back failed: %s", self._path, error, extra=about())

    def _store(self, rows: list[Row]) -> list[str]:
        """Store one record each of different ids; return the ids that lost."""
        if not rows:
            return []
        losers: list[str] = []
        if _insert(self._connection, rows) != len(rows):
            losers = [row[0] for row in self._connection.execute("SELECT persistence_id FROM loser").fetchall()]
            self._connection.execute("DELETE FROM loser")
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
