"""Which SQLite tables to keep records in: the candidates, written in equal batches by a bare loop.

Each layout gets the same records (five steps of each saga, 400 bytes), in batches of 512 and one by one.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from .report import Case, Column, Figures

Rows = list[tuple[str, int, int, bytes]]  # persistence id, sequence nr, record id, payload

_PLAIN = "INSERT INTO record (persistence_id, sequence_nr, payload) VALUES (?, ?, ?)"
_LATEST = """INSERT INTO latest (persistence_id, sequence_nr, payload) VALUES (?, ?, ?) ON CONFLICT DO UPDATE
 SET sequence_nr = excluded.sequence_nr, payload = excluded.payload WHERE sequence_nr = excluded.sequence_nr - 1"""
_POINTER = """INSERT INTO instance (persistence_id, sequence_nr, record_id) VALUES (?, ?, ?) ON CONFLICT DO UPDATE
 SET sequence_nr = excluded.sequence_nr, record_id = excluded.record_id WHERE sequence_nr = excluded.sequence_nr - 1"""


def _plain(connection: sqlite3.Connection, rows: Rows) -> None:
    connection.executemany(_PLAIN, [(key, number, payload) for key, number, _, payload in rows])


def _latest(connection: sqlite3.Connection, rows: Rows) -> None:
    connection.executemany(_LATEST, [(key, number, payload) for key, number, _, payload in rows])


def _latest_and_history(connection: sqlite3.Connection, rows: Rows) -> None:
    _plain(connection, rows)
    _latest(connection, rows)


def _pointer(connection: sqlite3.Connection, rows: Rows) -> None:
    _plain(connection, rows)
    connection.executemany(_POINTER, [(key, number, record_id) for key, number, record_id, _ in rows])


_HISTORY = "CREATE TABLE record (record_id INTEGER PRIMARY KEY, persistence_id TEXT, sequence_nr INTEGER, payload BLOB)"
_LAYOUTS: dict[str, tuple[str, Callable[[sqlite3.Connection, Rows], None]]] = {
    "clustered on (id, number)": (
        "CREATE TABLE record (persistence_id TEXT, sequence_nr INTEGER, payload BLOB, PRIMARY KEY (persistence_id,"
        " sequence_nr)) WITHOUT ROWID",
        _plain,
    ),
    "rowid table, unique index": (
        "CREATE TABLE record (record_id INTEGER PRIMARY KEY, persistence_id TEXT, sequence_nr INTEGER, payload BLOB,"
        " UNIQUE (persistence_id, sequence_nr))",
        _plain,
    ),
    "latest payload only, no history": (
        "CREATE TABLE latest (persistence_id TEXT PRIMARY KEY, sequence_nr INTEGER, payload BLOB)",
        _latest,
    ),
    "latest payload, and history": (
        "CREATE TABLE latest (persistence_id TEXT PRIMARY KEY, sequence_nr INTEGER, payload BLOB);" + _HISTORY,
        _latest_and_history,
    ),
    "history, and a keyed pointer (ours)": (
        "CREATE TABLE instance (persistence_id TEXT PRIMARY KEY, sequence_nr INTEGER, record_id INTEGER) WITHOUT ROWID;"
        + _HISTORY,
        _pointer,
    ),
}


COLUMNS: list[Column] = [
    ("layout", "layout", "s"),
    ("rows/s", "rows_per_second", ",.0f"),
    ("spread", "rows_per_second", "spread"),
    ("lone ms", "lone_commit_ms", ".2f"),
    ("MB", "file_mb", ",.0f"),
]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--records", type=int, default=200_000)


def cases(options: argparse.Namespace) -> list[Case]:
    return [{"layout": name, "records": options.records} for name in _LAYOUTS]


def measure(case: Case) -> Figures:
    schema, write = _LAYOUTS[case["layout"]]
    rate, lone, size = _measure(schema, write, case["records"])
    return {"rows_per_second": rate, "lone_commit_ms": lone, "file_mb": size}


def _measure(
    schema: str, write: Callable[[sqlite3.Connection, Rows], None], records: int
) -> tuple[float, float, float]:
    payload = b"x" * 400
    # Sagas advance together: the n-th step of all of a window of 1,000 before the next step of any.
    order = [
        (window + saga, step) for window in range(0, records // 5, 1000) for step in range(5) for saga in range(1000)
    ]
    rows = [
        (f"saga::order::{saga * 7919 % 1_000_003}", step + 1, n + 1, payload) for n, (saga, step) in enumerate(order)
    ]
    with tempfile.TemporaryDirectory(prefix="sagalog-bench-") as folder:
        path = Path(folder) / "layout.db"
        connection = sqlite3.connect(path, isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "cache_size=-65536", "wal_autocheckpoint=8000"):
            connection.execute(f"PRAGMA {pragma}")
        connection.executescript(schema)
        started = time.perf_counter()
        for start in range(0, len(rows) - 300, 512):
            connection.execute("BEGIN IMMEDIATE")
            write(connection, rows[start : min(start + 512, len(rows) - 300)])
            connection.execute("COMMIT")
        rate = (len(rows) - 300) / (time.perf_counter() - started)
        lone = []
        for row in rows[-300:]:
            started = time.perf_counter()
            connection.execute("BEGIN IMMEDIATE")
            write(connection, [row])
            connection.execute("COMMIT")
            lone.append(time.perf_counter() - started)
        connection.close()
        return rate, statistics.median(lone) * 1000, path.stat().st_size / 2**20
