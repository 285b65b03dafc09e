"""Which ids are due, by the index on `due_at`: one row whatever their number, for the reason that reader.py gives."""

from __future__ import annotations

import sqlite3
from datetime import datetime

import msgspec

from .rows import damaged, microseconds, moment

_decoder = msgspec.json.Decoder(list[tuple[str, int]])


def due(
    connection: sqlite3.Connection, within: tuple[str, list[str]], before: datetime, limit: int
) -> list[tuple[str, datetime]]:
    """Return up to `limit` ids that are due at `before`, earliest first. `within`: the condition for the ids."""
    condition, bounds = within
    # The + keeps the other index out. An id is in hexadecimal because JSON in SQLite ends a text at a zero.
    (answer,) = connection.execute(
        f"""SELECT json_group_array(json_array(hex(persistence_id), due_at)) FROM (
              SELECT persistence_id, due_at FROM instance WHERE due_at <= ?
                 AND {condition.format(column="+persistence_id")} ORDER BY due_at LIMIT ?)""",  # noqa: S608
        (microseconds(before), *bounds, limit),
    ).fetchone()
    try:
        found = [(bytes.fromhex(key).decode(), at) for key, at in _decoder.decode(answer)]
    except (msgspec.MsgspecError, ValueError) as error:
        raise damaged(error) from None
    found.sort(key=lambda one: one[1])
    return [(key, moment(at)) for key, at in found]


def postpone(connection: sqlite3.Connection, ids: list[str], until: datetime) -> None:
    """Let ids be due at `until` instead."""
    at = microseconds(until)
    plain = [key for key in ids if "\0" not in key]
    connection.execute(
        "UPDATE instance SET due_at = ? WHERE persistence_id IN (SELECT value FROM json_each(?))",
        (at, msgspec.json.encode(plain).decode()),
    )
    if len(plain) < len(ids):
        others = [(at, key) for key in ids if "\0" in key]
        connection.executemany("UPDATE instance SET due_at = ? WHERE persistence_id = ?", others)
