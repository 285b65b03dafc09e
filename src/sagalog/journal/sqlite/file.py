"""The file as the operating system sees it: whether it is still the one that was opened, and by which process.

A database file must be opened and closed by SQLite alone. POSIX locks belong to the process: when it closes any
descriptor of a file, it loses all its locks on that file, and the next process that comes takes itself for the only
one (https://www.sqlite.org/howtocorrupt.html, section 2.2). What is done here goes by names only (stat, chmod), happens
before the file has content, or reads the log: SQLite locks the file and the log's index, never the log.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from contextlib import suppress

from ...errors import JournalFormatError, JournalUnavailableError

_Identity = tuple[int, int] | None  # device and inode; None: not there

MAX_LOG_BYTES = 2 * 8000 * 4120  # a log that has been longer is cut off when it is begun anew
_HEADER_BYTES = 32
_NO_SALT = bytes(8)
CHECK_SECONDS = 0.05  # a look takes three calls of the system, some microseconds
OPENING = threading.Lock()  # held while a file is made or opened, so that a new one is not opened too early
_open: dict[tuple[int, int], int] = {}  # how many journals of this process have the file open
_inherited: dict[tuple[int, int], int] = {}  # the same of the process that this one was forked from
_kept: list[object] = []  # connections in use; a child must not close what its parent has open


def _forked() -> None:
    global OPENING
    OPENING = threading.Lock()  # another thread may have held it
    _inherited.update(_open)
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _identity(path: str) -> _Identity:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def make_private(path: str) -> None:
    """Make an empty file that its owner alone may read and write, unless there is one; SQLite's others inherit that.

    Nobody has locks on a file that is just being made, so it may be closed. A link that leads to no file yet would be no
    new file, and SQLite would make what it leads to for everybody.
    """
    with suppress(FileExistsError):
        os.close(
            os.open(os.path.realpath(path), os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_CLOEXEC", 0), 0o600)
        )


def check_kind(path: str) -> bool:
    """Say whether there is a file with content. Raises JournalFormatError for what is no file, without opening it."""
    try:
        found = os.stat(path)
    except OSError:
        return False
    if stat.S_ISDIR(found.st_mode):
        raise JournalUnavailableError(f"{path} is a folder: give a file in it")
    if not stat.S_ISREG(found.st_mode):
        raise JournalFormatError(f"{path} is not a regular file; it was left as it is. Choose another path.")
    return found.st_size > 0


def check_may_write(path: str) -> None:
    """Refuse a file that this user may not write, before SQLite makes a log and its index beside it.

    They would belong to this user, stay there, and keep out whoever the file belongs to.
    """
    effective = os.access in os.supports_effective_ids
    if os.path.exists(path) and not os.access(path, os.W_OK, effective_ids=effective):
        raise JournalUnavailableError(
            f"{path} is read-only for this user: allow writing, or use another path. Nothing was stored."
        ) from PermissionError()


def check_may_read(path: str) -> None:
    """Refuse a file that is not there, or that this user may not read."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise JournalUnavailableError(
            f"{path} does not exist, and was not created. Is the journal's URL right?"
        ) from None
    except OSError as error:
        raise JournalUnavailableError(f"{path} cannot be reached by this user ({error.strerror})") from error
    if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
        raise JournalUnavailableError(f"{path} may not be read by this user: grant read access")


def stamp(path: str) -> tuple[int, ...]:
    """Return what changes when a file that nobody writes to is written, or somebody begins to: then it has a log."""
    if has_log(path):
        return ()
    try:
        found = os.stat(path)
    except OSError:
        return (0,)
    return found.st_ino, found.st_size, found.st_mtime_ns


def has_log(path: str) -> bool:
    """Say whether a write-ahead log with content is beside the file."""
    try:
        return os.stat(f"{os.path.realpath(path)}-wal").st_size > 0
    except FileNotFoundError:
        return False


def check_not_inherited(path: str) -> None:
    """Refuse a file that the parent process had open when it forked this one.

    SQLite would go by the locks that it remembers from the parent, which a child does not have.
    """
    if _inherited and _identity(path) in _inherited:
        raise JournalUnavailableError(
            f"{path} was open in the process that this one was forked from, and SQLite cannot safely open it in "
            "both: fork before you open the journal, or start processes by spawn"
        )


class _Log:
    """The write-ahead log, as it grows. SQLite takes no lock on it, so it may be read and closed.

    It begins with a header, whose salt changes whenever the log is written from its start again, because all of it has
    been copied into the file. With that, SQLite cuts it to MAX_LOG_BYTES, or to nothing. Whoever empties it to get room on
    a full disk takes away steps that were acknowledged; SQLite does not notice, and writes on behind the hole, where
    nobody finds it.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.size: int
        self.size, self._salt = self._look()

    def _look(self) -> tuple[int, bytes]:
        try:
            log = os.open(self._path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        except OSError:
            return 0, b""
        try:
            header = os.read(log, _HEADER_BYTES)
            return os.fstat(log).st_size, header[16:24]
        finally:
            os.close(log)

    def was_cut(self) -> bool:
        """Say whether it lost what was in it since it was looked at last."""
        (size, salt), before, known = self._look(), self.size, self._salt
        self.size = size
        if not size:
            return False  # by a checkpoint of another program, perhaps: what is written next tells
        self._salt = salt
        return salt == _NO_SALT or (salt == known and size < min(before, MAX_LOG_BYTES))


class OpenedFile:
    """The file of a journal, its log and the log's index, as they were when they were opened."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._pid = os.getpid()
        real = os.path.realpath(path)  # SQLite keeps the log beside the file that a link leads to
        # By whole paths: the program may change its working directory, and SQLite has long found the file.
        self._names = (os.path.abspath(path), real + "-wal", real + "-shm")
        self._identities = tuple(map(_identity, self._names))
        self._lost = ""
        self._log = _Log(self._names[1])
        self._empty = not self._size()
        self._contents_at = 0.0
        self._looked_at = time.monotonic()
        self._closed = False
        mine = self._identities[0]
        if mine is not None:
            _open[mine] = _open.get(mine, 0) + 1

    def keep(self, *connections: object) -> None:
        """Keep connections from being closed by the garbage collector of a forked child."""
        _kept.extend(connections)

    def close(self, *connections: object) -> None:
        """Forget the file; its connections are closed."""
        if self._closed or self.forked:
            return
        self._closed = True
        for connection in connections:
            _kept[:] = [one for one in _kept if one is not connection]
        mine = self._identities[0]
        if mine is not None:
            left = _open.get(mine, 1) - 1
            if left:
                _open[mine] = left
            else:
                _open.pop(mine, None)

    @property
    def forked(self) -> bool:
        """Whether this is another process than the one that opened the file."""
        return os.getpid() != self._pid

    def check_process(self) -> None:
        """Raise JournalUnavailableError in a child that was forked after the file had been opened."""
        if os.getpid() != self._pid:
            raise JournalUnavailableError(
                f"{self.path}: this journal was opened in process {self._pid} and cannot be used in process "
                f"{os.getpid()}, which was forked from it: open a journal after forking. Nothing was stored."
            )

    @property
    def lost(self) -> str:
        """What happened to the file under us; empty if all is well. It stays lost: what it misses is unknown."""
        if not self._lost:
            self._looked_at = time.monotonic()
            for name, then in zip(self._names, self._identities, strict=True):
                if then is None:
                    continue
                now = _identity(name)
                if now != then:
                    self._lost = f"{name} was {'removed or renamed' if now is None else 'replaced'} while it was open"
                    break
            else:
                if self._looked_at >= self._contents_at:
                    self._lost = self._cut()
        return self._lost

    def _cut(self) -> str:
        """Say what was cut off under us. Asked now and then only, for it takes as long as all the rest."""
        if not self._empty and not self._size():
            return f"{self.path} was emptied while it was open"
        if self._identities[1] is not None:
            if self._log.was_cut():
                return f"{self._names[1]} was truncated while it was open"
            if not self._log.size:
                return ""  # asked again behind the next write, which tells
        self._contents_at = self._looked_at + CHECK_SECONDS
        return ""

    def check_there(self) -> None:
        """Raise JournalUnavailableError if the file or its log was removed or replaced, until CHECK_SECONDS ago."""
        fresh = time.monotonic() - self._looked_at < CHECK_SECONDS
        if lost := self._lost if fresh else self.lost:
            raise JournalUnavailableError(
                f"{lost}: nothing written from now on could be found again, so nothing is written. Restart this "
                "process once the file is back in its place. Nothing was stored."
            )

    def _size(self) -> int:
        try:
            return os.stat(self._names[0]).st_size
        except OSError:
            return 0

    @property
    def links(self) -> int:
        """How many names the file has: SQLite finds the log by the name, so two of them make two logs."""
        try:
            return os.stat(self._names[0]).st_nlink
        except OSError:
            return 1

    @property
    def log_bytes(self) -> int:
        """The size of the log's file."""
        try:
            return os.stat(self._names[1]).st_size
        except OSError:
            return 0
