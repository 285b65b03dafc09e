"""What the file says of itself: its version, and how durable it is set up to be."""

from __future__ import annotations

import sqlite3

from ..protocol import Finding
from .file import OpenedFile
from .rows import LAST


def findings_of(connection: sqlite3.Connection, *, read_only: bool) -> list[Finding]:
    """Say how durable the file is set up to be, and of which version it is."""
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if mode == "wal" or read_only:
        durable = Finding("durable", "ok", "SQLite, WAL with synchronous=FULL: durable when a call returns")
    else:
        remedy = "somebody changed it: run `PRAGMA journal_mode=WAL` on the file while no worker runs"
        durable = Finding("durable", "fail", f"SQLite with journal_mode={mode}", remedy)
    return [durable, Finding("schema", "ok", f"version {version}, as this code has it"), *_damaged(connection)]


def _damaged(connection: sqlite3.Connection) -> list[Finding]:
    """Count the instances that are due at what is no moment: they are passed over, and the others go on."""
    (count,) = connection.execute("SELECT count(*) FROM instance WHERE due_at > ?", (LAST,)).fetchone()  # texts, too
    if not count:
        return []
    text = (
        f"{count:,} instance{' is' if count == 1 else 's are'} due at a value that is not a time: another program "
        "wrote it"
    )
    return [Finding("due", "warn", text, "their timers do not fire before their next event; restore a backup")]


def findings_of_names(file: OpenedFile) -> list[Finding]:
    """Say whether the file has more than one name."""
    if file.links <= 1:
        return []
    text = f"the file has {file.links} names; SQLite would keep a separate log for each, which corrupts the file"
    return [Finding("name", "warn", text, "open it under one name only, and remove the other links")]
