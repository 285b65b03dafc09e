"""Group commit: everything that waits goes into one transaction, with one fsync.

A batch of records is one INSERT of many rows, and mostly nothing else: in SQLite's autocommit mode that one statement
begins, writes and commits. Python's lock is given up once and taken once for the whole batch, however busy the event loop
is meanwhile; with a statement for each table, a BEGIN and a COMMIT the batch would wait for it some seven times, up to
Python's switch interval (5 ms) each. Compare-and-set and the tables are kept by triggers of this connection on a table in
memory, `incoming`: they carry on a row whose number is the next, and leave it out there. What stays in it are the losers.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import msgspec

from ...errors import JournalUnavailableError, OutcomeUnknownError, SagalogError, SequenceOutOfOrder
from ...logs import about, log
from ..protocol import CommitCounts, PersistentRepr
from .file import MAX_LOG_BYTES, OpenedFile
from .rows import ITS_NEWEST
from .schema import is_busy, translate
from .threads import Job

Label = tuple[str, str, str]  # manifest, writer, tags
Row = tuple[str, int, bytes, Label, int, int | None, int, str | None]  # as in `row_of`


class WriteCall:
    """Records of one call: their rows, and whether it is all or nothing."""

    __slots__ = ("atomic", "rows")

    def __init__(self, rows: list[Row], atomic: bool) -> None:
        self.rows: list[Row] = rows
        self.atomic: bool = atomic


class Batch:
    """Records of different ids, each told by itself: the result is the set of ids that lost. At most MAX_ROWS."""

    __slots__ = ("rows",)

    def __init__(self, rows: list[Row]) -> None:
        self.rows: list[Row] = rows


Work = Row | WriteCall | Batch | Callable[[sqlite3.Connection], object]

# Statements are made for these numbers of rows; a batch takes the next larger one and leaves the other rows NULL.
# So a batch of any size costs a handful of statements, and as many times Python's lock is waited for.
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
MAX_ROWS = _SIZES[-1]
LOG_PAGES = 8000  # some 32 MB, then a checkpoint

_LOG_BYTES = LOG_PAGES * 4120
_MAX_LABELS = 4096  # known by heart

_INCOMING = """INSERT INTO incoming SELECT column1, column2, column3, column4, column5, column6, column7,
 column8, i.instance_id, i.sequence_nr, i.record_id, i.epoch
 FROM (VALUES {}) LEFT JOIN instance i ON i.persistence_id = column1 WHERE column1 IS NOT NULL"""

# Not in the file: they live as long as the connection. RAISE(IGNORE) leaves out the row, and keeps what the trigger did.
# `due_at` is set only where it changes, as its index would else be written with every step. A row without terms pays
# nothing for them: SQLite asks such a condition once, before it begins to search.
_TRIGGERS = (
    """CREATE TEMP TABLE incoming (persistence_id TEXT, sequence_nr INTEGER, payload BLOB, label_id INTEGER,
           deleted INTEGER, due_at INTEGER, epoch INTEGER, terms TEXT,
           instance_id INTEGER, newest_nr INTEGER, newest_id INTEGER, known_epoch INTEGER)""",
    """CREATE TEMP TRIGGER next BEFORE INSERT ON incoming
       WHEN NEW.sequence_nr = NEW.newest_nr + 1 AND (NEW.epoch = 0 OR NEW.known_epoch IN (0, NEW.epoch))
       BEGIN
           INSERT INTO record (instance_id, sequence_nr, previous_id, label_id, deleted, due_at, payload) VALUES
               (NEW.instance_id, NEW.sequence_nr, NEW.newest_id, NEW.label_id, NEW.deleted, NEW.due_at, NEW.payload);
           UPDATE instance SET sequence_nr = NEW.sequence_nr, record_id = last_insert_rowid(), deleted = NEW.deleted,
                  epoch = max(NEW.known_epoch, NEW.epoch) WHERE instance_id = NEW.instance_id;
           UPDATE instance SET due_at = NEW.due_at
            WHERE instance_id = NEW.instance_id AND due_at IS NOT NEW.due_at;
           DELETE FROM term WHERE NEW.deleted AND instance_id = NEW.instance_id;
           DELETE FROM term WHERE NEW.terms IS NOT NULL AND instance_id = NEW.instance_id
              AND term NOT IN (SELECT value FROM json_each(NEW.terms));
           INSERT OR IGNORE INTO term SELECT value, NEW.instance_id FROM json_each(NEW.terms)
            WHERE NEW.terms IS NOT NULL AND NOT NEW.deleted;
           SELECT RAISE(IGNORE);
       END""",
    """CREATE TEMP TRIGGER first BEFORE INSERT ON incoming
       WHEN NEW.instance_id IS NULL AND NEW.sequence_nr = 1
       BEGIN
           INSERT INTO instance (persistence_id, sequence_nr, record_id, deleted, due_at, epoch) VALUES
               (NEW.persistence_id, 1, 0, NEW.deleted, NEW.due_at, NEW.epoch);
           INSERT INTO record (instance_id, sequence_nr, label_id, deleted, due_at, payload) VALUES
               (last_insert_rowid(), 1, NEW.label_id, NEW.deleted, NEW.due_at, NEW.payload);
           UPDATE instance SET record_id = last_insert_rowid()
            WHERE instance_id = (SELECT instance_id FROM record WHERE record_id = last_insert_rowid());
           INSERT INTO term SELECT value, (SELECT instance_id FROM record WHERE record_id = last_insert_rowid())
             FROM json_each(NEW.terms) WHERE NEW.terms IS NOT NULL AND NOT NEW.deleted;
           SELECT RAISE(IGNORE);
       END""",
)


def row_of(message: PersistentRepr, due_at: int | None) -> Row:
    """Return the columns of a record."""
    return (
        message.persistence_id,
        message.sequence_nr,
        message.payload,
        (message.manifest, message.writer_uuid, _tags(message.tags)),
        int(message.deleted),
        due_at,
        message.epoch,
        None if message.terms is None else msgspec.json.encode(message.terms).decode(),
    )


@lru_cache(maxsize=256)  # a saga's records all have the same
def _tags(tags: tuple[str, ...]) -> str:
    return msgspec.json.encode(tags).decode()


_BY_SIZE = [(size, _INCOMING.format(", ".join([f"({', '.join('?' * 8)})"] * size))) for size in _SIZES]


def _insert(connection: sqlite3.Connection, rows: Sequence[Row], labels: Mapping[Label, int]) -> int:
    """Insert rows of different ids, at least one and at most MAX_ROWS; return how many lost."""
    size, sql = next(entry for entry in _BY_SIZE if entry[0] >= len(rows))  # Python's sqlite3 keeps them prepared
    values: list[object] = []
    for persistence_id, number, payload, label, *others in rows:
        values += (persistence_id, number, payload, labels[label], *others)
    values.extend([None] * ((size - len(rows)) * 8))
    return connection.execute(sql, values).rowcount


def _records(work: Work) -> int:
    return 1 if isinstance(work, tuple) else len(work.rows) if isinstance(work, (WriteCall, Batch)) else 0


class SqliteWriter:
    """The one connection that writes. `history`: how many records before the newest are kept, None for all."""

    def __init__(
        self, connection: sqlite3.Connection, file: OpenedFile, history: int | None, *, busy_seconds: float
    ) -> None:
        self._connection = connection
        self._busy_ms = int(busy_seconds * 1000)
        self._file = file
        self._path = file.path
        self._closed = False
        self._labels: dict[Label, int] = {}
        # A process that was killed has left its log behind, and the next ones may not live until it is their turn.
        self._log_was_long = file.log_bytes > _LOG_BYTES
        self._history = history
        self.counts: CommitCounts = CommitCounts()
        self._checkpointed_at = connection.total_changes
        self._pages_a_change = 2.0  # in the log; a guess until the first checkpoint tells
        connection.execute("PRAGMA temp_store=MEMORY")
        connection.execute(f"PRAGMA journal_size_limit={MAX_LOG_BYTES}")
        for statement in _TRIGGERS:
            connection.execute(statement)
        connection.execute("PRAGMA busy_timeout=0")  # callers that can wait for a lock say so

    def close(self) -> None:
        self._closed = True
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
        if len(others) == 1 and not rows and isinstance(others[0].work, Batch):
            rows, others, whole = others[0].work.rows, [], others[0]
        else:
            whole = None
        committing, begun = False, time.perf_counter()
        try:
            if self._closed:  # then its log is gone because SQLite has removed it
                raise JournalUnavailableError("the journal is closed; nothing was stored")
            self._file.check_there()
            if patient:
                connection.execute(f"PRAGMA busy_timeout={self._busy_ms}")
            if others or self._history is not None or not all(row[3] in self._labels for row in rows):
                connection.execute("BEGIN IMMEDIATE")
                self._serve_rows(rows, owners, whole)
                for job in others:
                    self._serve_other(job)
                committing = True
                connection.execute("COMMIT")
            else:
                committing = True
                self._serve_rows(rows, owners, whole)
            if lost := self._file.lost:  # looked at after the commit: so what is acknowledged is where it is looked for
                raise OutcomeUnknownError(f"{lost}: what was just written may be lost. Restart this process.")
            records = len(rows) + sum(_records(job.work) for job in others)
            if records:  # not a mere claim of due work
                self.counts.add(records, time.perf_counter() - begun)
        except Exception as error:
            self._roll_back()
            if not patient and is_busy(error):
                return False
            # A commit that was refused (busy, full) leaves the transaction open: rolled back, nothing was stored. One
            # that broke off with a disk error may have reached the file, so `translate` calls its outcome unknown.
            own = isinstance(error, SagalogError)
            failure = error if own else translate(error, self._path, committing=committing)
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
        if self._log_was_long:
            return True
        changes = self._connection.total_changes - self._checkpointed_at
        return changes * self._pages_a_change > LOG_PAGES

    def checkpoint(self) -> None:
        """Copy the write-ahead log into the file, as far as readers let it, so that it is written from its start again."""
        changes = self._connection.total_changes
        self._log_was_long = False
        pages = copied = 0
        try:
            _, pages, copied = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:  # nothing is lost: the log holds it, and the next one tries again
            log.warning("%s: the log could not be copied into the file: %s", self._path, error, extra=about())
        made = changes - self._checkpointed_at
        if pages > 0 and made > 0:
            self._pages_a_change = pages / made
        self._checkpointed_at = changes
        if copied < pages:  # a reader is in the way: again when a quarter more is there, so that the log stays short
            self._checkpointed_at -= int(0.75 * LOG_PAGES / self._pages_a_change)

    def _serve_rows(self, rows: list[Row], owners: dict[str, Job[Work]], whole: Job[Work] | None) -> None:
        losers = self._store(rows)
        if whole is not None:
            whole.result = set(losers)
            return
        for loser in losers:
            owners[loser].error = SequenceOutOfOrder((loser,))

    def _serve_other(self, job: Job[Work]) -> None:
        work = job.work
        if isinstance(work, tuple):
            self._store_call(job, WriteCall([work], atomic=False))
        elif isinstance(work, WriteCall):
            self._store_call(job, work)
        elif isinstance(work, Batch):
            job.result = set(self._store(work.rows))
        else:
            job.result = work(self._connection)

    def _intern(self, rows: list[Row]) -> None:
        """Find or store the labels that are not known yet; within a transaction."""
        if len(self._labels) > _MAX_LABELS:
            self._labels.clear()
        for label in dict.fromkeys(row[3] for row in rows if row[3] not in self._labels):
            self._connection.execute(
                "INSERT OR IGNORE INTO label (manifest, writer_uuid, tags) VALUES (?, ?, ?)", label
            )
            (self._labels[label],) = self._connection.execute(
                "SELECT label_id FROM label WHERE (manifest, writer_uuid, tags) = (?, ?, ?)", label
            ).fetchone()

    def _roll_back(self) -> None:
        self._labels.clear()
        try:
            if not self._closed and self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:  # SQLite rolled back by itself, or the next BEGIN will say what is wrong
            log.warning("%s: rolling back failed: %s", self._path, error, extra=about())

    def _store(self, rows: list[Row]) -> list[str]:
        """Store one record each of different ids; return the ids that lost."""
        if not rows:
            return []
        losers: list[str] = []
        if self._connection.in_transaction:
            self._intern(rows)
        if _insert(self._connection, rows, self._labels):
            losers = [row[0] for row in self._connection.execute("SELECT persistence_id FROM incoming").fetchall()]
            self._connection.execute("DELETE FROM incoming")
        if self._history is not None:
            lost = set(losers)
            for row in rows:
                if row[0] not in lost:
                    self._prune(row[0], row[1])
        return losers

    def _store_call(self, job: Job[Work], write: WriteCall) -> None:
        """Store the records of a call with several: those of one id stand or fall together, or all if atomic."""
        self._intern(write.rows)  # before anything that may be rolled back to: a label is remembered from then on
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


# Of an id, up to and including a number. The place of a deleted record may be given to a new one, so a chain goes on only
# to the record before, of the same id.
DELETE_CHAIN = f"""WITH RECURSIVE chain(record_id, sequence_nr, previous_id, instance_id) AS (
     SELECT r.record_id, r.sequence_nr, r.previous_id, r.instance_id FROM instance i JOIN record r ON {ITS_NEWEST}
      WHERE i.persistence_id = ?
     UNION ALL
     SELECT r.record_id, r.sequence_nr, r.previous_id, r.instance_id
       FROM chain JOIN record r ON r.record_id = chain.previous_id
      WHERE r.sequence_nr = chain.sequence_nr - 1 AND r.instance_id = chain.instance_id)
   DELETE FROM record WHERE record_id IN (SELECT record_id FROM chain WHERE sequence_nr <= ?)"""  # noqa: S608


def delete_chain(connection: sqlite3.Connection, persistence_id: str, to_sequence_nr: int) -> None:
    """Delete the records of an id up to and including a number."""
    connection.execute(DELETE_CHAIN, (persistence_id, to_sequence_nr))


def forget(connection: sqlite3.Connection, tombstones: Sequence[tuple[str, int]]) -> None:
    """Remove ids with all that is kept of them, those whose newest record is that tombstone."""
    found = []
    for persistence_id, sequence_nr in tombstones:
        row = connection.execute(
            """SELECT instance_id FROM instance WHERE persistence_id = ? AND sequence_nr = ? AND deleted = 1
                   AND deleted_to < sequence_nr""",
            (persistence_id, sequence_nr),
        ).fetchone()
        if row:
            found.append(row[0])
    ids = msgspec.json.encode(found).decode()
    connection.execute(
        f"""WITH RECURSIVE chain(record_id, sequence_nr, previous_id, instance_id) AS (
             SELECT r.record_id, r.sequence_nr, r.previous_id, r.instance_id
               FROM json_each(?) j CROSS JOIN instance i ON i.instance_id = j.value CROSS JOIN record r ON {ITS_NEWEST}
             UNION ALL
             SELECT r.record_id, r.sequence_nr, r.previous_id, r.instance_id
               FROM chain JOIN record r ON r.record_id = chain.previous_id
              WHERE r.sequence_nr = chain.sequence_nr - 1 AND r.instance_id = chain.instance_id)
           DELETE FROM record WHERE record_id IN (SELECT record_id FROM chain)""",  # noqa: S608
        (ids,),
    )
    connection.execute("DELETE FROM term WHERE instance_id IN (SELECT value FROM json_each(?))", (ids,))
    connection.execute("DELETE FROM instance WHERE instance_id IN (SELECT value FROM json_each(?))", (ids,))


def touch(connection: sqlite3.Connection) -> None:
    """Write what is there already, so that whatever refuses writes refuses this; one page of the log."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.execute(f"PRAGMA user_version={version}")
