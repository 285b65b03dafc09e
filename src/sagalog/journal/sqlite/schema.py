"""The file: tables, settings, and the checks that refuse what is not ours. See docs/design/0002-sqlite-layout.md."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from ...errors import DefinitionError, JournalFormatError, JournalUnavailableError, OutcomeUnknownError, SagalogError
from ...waiting import Attempts, Waiting
from . import layout
from .file import OPENING, check_kind, check_may_write, check_not_inherited, has_log, make_private, stamp

APPLICATION_ID = 0x53414741  # "SAGA", in the file's header
_CACHE_KIB = 65_536  # of pages, at most, for each connection: what steps touch of some hundred thousand live sagas

# What sqlite3 raises; the second where SQLite's message quotes a damaged file, and is not UTF-8.
ERRORS = (sqlite3.Error, UnicodeDecodeError)


def translate(error: Exception, path: str, *, committing: bool = False) -> SagalogError:
    """Return the error of ours that stands for SQLite's, and says what to do. The original is its cause."""
    translated = _translated(error, path, committing=committing)
    translated.__cause__ = error
    return translated


def _translated(error: Exception, path: str, *, committing: bool) -> SagalogError:
    name = getattr(error, "sqlite_errorname", None) or ""
    not_text = isinstance(error, UnicodeDecodeError) or str(error).startswith("Could not decode to UTF-8")
    gone = str(error).startswith(("no such table", "no such column"))  # they were there when the file was opened
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")) or not_text or gone:
        why = "its text is not UTF-8" if not_text else error
        return JournalFormatError(
            f"{path} is damaged or not an SQLite file ({why}); it was left as it is. Restore a backup."
        )
    if committing and name.startswith("SQLITE_IOERR"):
        return OutcomeUnknownError(
            f"{path}: the disk failed while committing ({error}); what was written may be stored"
        )
    remedy = {
        "SQLITE_BUSY": "another program holds its lock: end that program's transaction, or raise busy_timeout",
        "SQLITE_LOCKED": "another program holds its lock: end that program's transaction, or raise busy_timeout",
        "SQLITE_FULL": "the disk is full: free some space",
        "SQLITE_READONLY": "the file or its folder is read-only: allow writing, or use another path",
        "SQLITE_CANTOPEN": "it cannot be opened: check that the folder exists and may be written",
        "SQLITE_IOERR": "the disk does not answer: check it",
        "SQLITE_TOOBIG": "a payload is larger than SQLite can keep",
    }
    for start, text in remedy.items():
        if name.startswith(start):
            return JournalUnavailableError(f"{path}: {text} ({error}). Nothing was stored.")
    return JournalUnavailableError(f"{path}: {error} ({name or type(error).__name__}). Nothing was stored.")


def is_busy(error: Exception) -> bool:
    """Say whether somebody else holds the lock."""
    return (getattr(error, "sqlite_errorname", None) or "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def connect(path: str, *, busy_seconds: float, write: bool) -> sqlite3.Connection:
    """Open one connection with our settings. Transactions and, where it writes, checkpoints are begun by hand.

    `busy_seconds`: how long its statements wait for another process's lock.
    """
    connection = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        if write:
            connection.execute("PRAGMA wal_autocheckpoint=0")
        else:
            connection.execute("PRAGMA query_only=ON")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_read_only(path: str, *, write: bool) -> sqlite3.Connection:
    """Open a connection to a file that cannot be written, or whose folder cannot. Never to write."""
    assert not write
    # Without a log nobody writes to the file, and nothing has to be made beside it: it may be read as it stands.
    mode = "mode=ro" if has_log(path) else "mode=ro&immutable=1"
    connection = sqlite3.connect(uri(path, mode), uri=True, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA query_only=ON")
    return connection


def is_read_only(error: JournalUnavailableError) -> bool:
    """Say whether a file could not be opened because it, its folder or its file system may not be written."""
    cause = error.__cause__
    name = getattr(cause, "sqlite_errorname", None) or ""
    return isinstance(cause, PermissionError) or name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN"))


def prepare(path: str, *, busy_seconds: float, beside: bool = False) -> None:
    """Check the file, or make it where there is none. Raises JournalFormatError and leaves a strange file untouched.

    `beside`: a file with tables of an application, and none of ours, is given ours as well.
    """
    if "\0" in path:
        raise DefinitionError(f"a path cannot hold a zero character: {path!r}")
    if not os.path.isdir(Path(path).parent):
        raise JournalUnavailableError(f"{path}: the folder {Path(path).parent} does not exist: create it first")
    check_not_inherited(path)
    check_may_write(path)
    attempts = Attempts(Waiting(first=0.01, most=0.03, seconds=busy_seconds))
    while True:
        try:
            with OPENING:
                if check_kind(path):
                    _refuse_untouched(path)
                else:
                    make_private(path)
            _bring_up_to_date(path, busy_seconds, beside=beside)
            return
        except OSError as error:
            raise JournalUnavailableError(
                f"{path} cannot be made ({error.strerror}): check that its folder may be written. Nothing was stored."
            ) from error
        except ERRORS as error:
            # While another process makes the file, or is the last to close it, SQLite answers "locked" at once and
            # does not wait: changing the journal mode and recovering the log know no busy timeout.
            if not is_busy(error) or not attempts.wait_in_thread():
                raise translate(error, path) from error


def uri(path: str, parameters: str) -> str:
    """Return the name of a file as SQLite takes it together with parameters."""
    return f"{Path(path).absolute().as_uri()}?{parameters}"


def _bring_up_to_date(path: str, busy_seconds: float, *, beside: bool) -> None:
    """Make the tables where there are none, and those of an older version anew; one transaction, or nothing."""
    connection = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None)
    try:
        if _look(connection, path, beside=beside) == (layout.VERSION, True):
            return
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("BEGIN IMMEDIATE")
        version, _ = _look(connection, path, beside=beside)  # another process may have made it meanwhile
        for statement in layout.steps_from(version):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={layout.VERSION}")
        connection.execute("COMMIT")
    finally:
        connection.close()


def _refuse_untouched(path: str) -> None:
    """Refuse a file by its header alone, where that is enough: without a lock, and without SQLite's files beside it.

    SQLite reads it, as it may be in use in this process (file.py says why). A new file, one whose header is still in
    the write-ahead log, and a strange one without an application id of its own look alike here; a connection that
    locks tells them apart. So does it for a file that looks damaged and has a log, or has changed since: another process
    may be copying the log into it, or was killed while it did. The header then counts pages that only the log has.
    """
    before = stamp(path)
    connection = sqlite3.connect(uri(path, "mode=ro&immutable=1"), uri=True, isolation_level=None)
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.DatabaseError as error:
        # The last to close it removes its log once that is copied: it may be gone again by now.
        if error.sqlite_errorname == "SQLITE_CORRUPT" and not (before and stamp(path) == before):
            return
        raise
    finally:
        connection.close()
    _check_mark(path, application, version, tables=0)


def check_version(connection: sqlite3.Connection, path: str) -> None:
    """Raise JournalFormatError unless the file is a journal of this version; for one that cannot be written."""
    version, _ = _look(connection, path)
    if version != layout.VERSION:
        what = f"has schema version {version}" if version else "is empty"
        raise JournalFormatError(
            f"{path} {what} and cannot be written here, so it cannot be migrated to version {layout.VERSION}. Copy "
            "it (with its -wal file, if there is one) to a place where it can be written."
        )


def _look(connection: sqlite3.Connection, path: str, *, beside: bool = False) -> tuple[int, bool]:
    """Return the version of the journal's tables (0: the file is empty), and whether the file's header says so.

    It does not after `.dump` and restore. Raises JournalFormatError for anything that is no journal of ours.
    """
    begun = not connection.in_transaction
    if begun:  # one snapshot: another process may be making the tables right now
        connection.execute("BEGIN")
    try:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        (others,) = connection.execute("SELECT count(*) FROM sqlite_master WHERE type <> 'table'").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application == 0 and tables:
            columns = {t: {row[1] for row in connection.execute(f'PRAGMA table_info("{t}")')} for t in layout.TABLES}
            if restored := layout.version_of(columns):
                return restored, False
            if beside:
                _check_room(connection, path, version)
                return 0, False
    finally:
        if begun:
            connection.execute("COMMIT")
    _check_mark(path, application, version, len(tables) + others)
    return (version, True) if application else (0, False)


def _check_room(connection: sqlite3.Connection, path: str, version: int) -> None:
    """Raise JournalFormatError unless there is room for our tables beside those of an application."""
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    taken = sorted(names.intersection((*layout.TABLES, "saga", "instance_due", "term_of_instance")))
    if taken:
        raise JournalFormatError(
            f"{path} has {', '.join(taken)} of its own, names that the journal needs; use another file"
        )
    if version:
        raise JournalFormatError(
            f"{path} has PRAGMA user_version={version} of its own, which the journal needs; use another file"
        )


def _check_mark(path: str, application: int, version: int, tables: int) -> None:
    if application == 0 and tables == 0:
        return
    if application != APPLICATION_ID:
        raise JournalFormatError(
            f"{path} belongs to another program; it was not touched. Choose another path, or, if it is your "
            "application's, open it with ?beside=true to have both in one file."
        )
    if version > layout.VERSION:
        raise JournalFormatError(
            f"{path} has schema version {version}; this code knows version {layout.VERSION}; it was not touched. "
            "Upgrade sagalog."
        )
    if version < 1:
        raise JournalFormatError(
            f"{path} is marked as a journal of version {version}, which never existed; it was not touched."
        )
