"""Records of one id in their order, ids by what they begin with, and what was written behind a place in the file."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from ..protocol import PersistentRepr
from .rows import COLUMNS, ITS_NEWEST, NEWEST, NEWEST_COLUMNS, RECORDS, record_of

PAGE = 256
CHAIN = f"""WITH RECURSIVE chain(record_id, sequence_nr, previous_id, instance_id, first) AS (
                     SELECT r.record_id, r.sequence_nr, r.previous_id, r.instance_id, i.deleted_to + 1
                       FROM instance i JOIN record r ON {ITS_NEWEST} WHERE i.persistence_id = ?
                     UNION ALL
                     SELECT r.record_id, r.sequence_nr, r.previous_id, r.instance_id, first
                       FROM chain JOIN record r ON r.record_id = chain.previous_id
                      WHERE chain.sequence_nr > max(first, ?)
                        AND r.sequence_nr = chain.sequence_nr - 1 AND r.instance_id = chain.instance_id)
                   SELECT record_id FROM chain WHERE sequence_nr BETWEEN max(first, ?) AND ?
                   ORDER BY sequence_nr LIMIT ?"""  # noqa: S608


def range_of(prefix: str) -> tuple[str, list[str]]:
    """Return the condition for ids that start with `prefix`, as a range an index can serve, and its parameters."""
    stem = prefix.rstrip("\U0010ffff")
    if not stem:
        return "+persistence_id >= ?", [prefix]
    successor = ord(stem[-1]) + 1
    if successor == 0xD800:  # surrogates are no characters
        successor = 0xE000
    return "{column} >= ? AND {column} < ?", [prefix, stem[:-1] + chr(successor)]


def places_of(connection: sqlite3.Connection, persistence_id: str, first: int, last: int, most: int) -> list[int]:
    """Return the places of the records of an id, numbers inclusive, in their order."""
    found = connection.execute(CHAIN, (persistence_id, first, first, last, most)).fetchall()
    return [row[0] for row in found]


def records_at(connection: sqlite3.Connection, places: Sequence[int]) -> list[PersistentRepr]:
    """Return the records of one id at these places, in the order of their numbers."""
    marks = ", ".join("?" * len(places))
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM {RECORDS} WHERE r.record_id IN ({marks}) ORDER BY r.sequence_nr",  # noqa: S608
        places,
    ).fetchall()
    return [record_of(row) for row in rows]


def highest(connection: sqlite3.Connection, persistence_id: str) -> int:
    """Return the highest number that an id ever had, 0 if it is unknown."""
    row = connection.execute("SELECT sequence_nr FROM instance WHERE persistence_id = ?", (persistence_id,)).fetchone()
    return row[0] if row else 0


def ids(connection: sqlite3.Connection, prefix: str, after: str, limit: int, deleted: bool) -> list[str]:
    """Return the next live ids (or tombstones) behind `after`."""
    condition, bounds = range_of(prefix)
    rows = connection.execute(
        f"""SELECT persistence_id FROM instance WHERE persistence_id > ?
               AND {condition.format(column="persistence_id")} AND deleted = ?
               AND (deleted_to < sequence_nr OR sequence_nr < 1)
             ORDER BY persistence_id LIMIT ?""",  # noqa: S608
        (after, *bounds, bool(deleted), limit),
    ).fetchall()
    return [row[0] for row in rows]


def latest(
    connection: sqlite3.Connection, prefix: str, after: str, limit: int, deleted: bool | None
) -> list[PersistentRepr]:
    """Return the newest records of the next ids behind `after`; None: live ones and tombstones."""
    condition, bounds = range_of(prefix)
    rows = connection.execute(
        f"""SELECT {NEWEST_COLUMNS} FROM {NEWEST} WHERE i.persistence_id > ?
               AND {condition.format(column="i.persistence_id")} AND i.deleted = ifnull(?, i.deleted)
               AND (i.deleted_to < i.sequence_nr OR i.sequence_nr < 1) ORDER BY i.persistence_id LIMIT ?""",  # noqa: S608
        (after, *bounds, deleted, limit),
    ).fetchall()
    return [record_of(row) for row in rows]


def newest_place(connection: sqlite3.Connection) -> int:
    """Return the place of the newest record in the file."""
    row = connection.execute("SELECT max(record_id) FROM record").fetchone()
    return row[0] or 0


def records_behind(connection: sqlite3.Connection, place: int, limit: int) -> tuple[list[PersistentRepr], int]:
    """Return records behind a place, and the place of the last of them."""
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM {RECORDS} WHERE r.record_id > ? ORDER BY r.record_id LIMIT ?",  # noqa: S608
        (place, limit),
    ).fetchall()
    if rows:
        return [record_of(row) for row in rows], rows[-1][9]
    # Where the newest record was purged, its number is given once more: follow on from what is left.
    return [], min(place, newest_place(connection))


def tagged_behind(connection: sqlite3.Connection, tag: str, place: int) -> list[tuple[int, PersistentRepr]]:
    """Return a page of records behind a place that carry a tag, each with its own place."""
    rows = connection.execute(
        f"""SELECT {COLUMNS} FROM {RECORDS}
             WHERE r.record_id > ? AND r.sequence_nr > i.deleted_to AND r.label_id IN
                   (SELECT label_id FROM label, json_each(tags) WHERE value = ?)
             ORDER BY r.record_id LIMIT {PAGE}""",  # noqa: S608
        (place, tag),
    ).fetchall()
    return [(row[9], record_of(row)) for row in rows]


_ENOUGH = 1000  # of a term that so many ids have, it is not asked how many more


def found_by(
    connection: sqlite3.Connection, terms: Sequence[str], place: int, limit: int
) -> tuple[list[PersistentRepr], int]:
    """Return newest records of live ids with all these terms, behind a place, and the place to go on from; 0: the end.

    The term that the fewest have is gone through, and each of its ids is looked up under the others.
    """
    first, *others = sorted(terms, key=lambda term: _number(connection, term)) if len(terms) > 1 else terms
    condition = " AND EXISTS (SELECT 1 FROM term o WHERE o.term = ? AND o.instance_id = t.instance_id)" * len(others)
    rows = connection.execute(
        f"""SELECT {COLUMNS}, t.instance_id FROM term t CROSS JOIN instance i USING (instance_id)
                   CROSS JOIN record r USING (record_id) CROSS JOIN label l USING (label_id)
             WHERE t.term = ? AND t.instance_id > ? AND i.deleted = 0 AND i.deleted_to < i.sequence_nr{condition}
             ORDER BY t.instance_id LIMIT ?""",  # noqa: S608
        (first, place, *others, limit + 1),
    ).fetchall()
    return [record_of(row) for row in rows[:limit]], rows[limit - 1][10] if len(rows) > limit else 0


def _number(connection: sqlite3.Connection, term: str) -> int:
    (number,) = connection.execute(
        "SELECT count(*) FROM (SELECT 1 FROM term WHERE term = ? LIMIT ?)", (term, _ENOUGH)
    ).fetchone()
    found: int = number
    return found
