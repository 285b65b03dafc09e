"""Which ids are due, by the index on `due_at`: one row whatever their number, for the reason that reader.py gives."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime

import msgspec

from ..protocol import MovedDue
from .rows import FIRST, damaged, microseconds, moment, text_of

_ASKED = """
    (SELECT json_extract(value, '$[0]') AS key, json_extract(value, '$[1]') AS id, json_extract(value, '$[2]') AS nr,
            json_extract(value, '$[3]') AS due_at FROM json_each(?)) asked
    CROSS JOIN instance i ON i.persistence_id = asked.id
    WHERE i.sequence_nr = asked.nr AND i.deleted_to < i.sequence_nr"""
_decoder = msgspec.json.Decoder(list[tuple[str, int]])


def due(
    connection: sqlite3.Connection, ids: tuple[str, list[str]], before: datetime, limit: int
) -> list[tuple[str, datetime]]:
    """Return up to `limit` ids that are due at `before`, earliest first. `ids`: the condition and its parameters.

    A row that is damaged keeps no other from being found: an id that is no text is left out, and what stands for no
    moment is due as any that has passed.
    """
    condition, bounds = ids
    # The + keeps the other index out. An id is in hexadecimal because JSON in SQLite ends a text at a zero.
    (answer,) = connection.execute(
        f"""SELECT json_group_array(json_array(hex(persistence_id), CAST(due_at AS INTEGER))) FROM (
              SELECT persistence_id, due_at FROM instance WHERE due_at <= ?
                 AND {condition.format(column="+persistence_id")} ORDER BY due_at LIMIT ?)""",  # noqa: S608
        (microseconds(before), *bounds, limit),
    ).fetchone()
    try:
        found = [(text_of(bytes.fromhex(key)), at) for key, at in _decoder.decode(answer)]
    except (msgspec.MsgspecError, ValueError) as error:
        raise damaged(error) from None
    found.sort(key=lambda one: one[1])
    return [(key, moment(max(at, FIRST))) for key, at in found if key is not None]


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


def move(connection: sqlite3.Connection, moves: Sequence[MovedDue]) -> list[bool]:
    """Let ids be due at another moment if their newest record is still that number; say which were moved."""
    # The ids go in and are compared as they are, except where JSON in SQLite would end them at a zero.
    plain = [(key, one) for key, one in enumerate(moves) if "\0" not in one.persistence_id]
    asked = msgspec.json.encode(
        [(key, one.persistence_id, one.sequence_nr, microseconds(one.due_at)) for key, one in plain]
    ).decode()
    (answer,) = connection.execute(
        f"SELECT json_group_array(json_array(asked.key, i.instance_id, asked.due_at)) FROM {_ASKED}",  # noqa: S608
        (asked,),
    ).fetchone()
    found = msgspec.json.decode(answer, type=list[tuple[int, int, int | None]])
    for key, one in enumerate(moves):
        if "\0" in one.persistence_id:
            row = connection.execute(
                """SELECT instance_id FROM instance
                    WHERE persistence_id = ? AND sequence_nr = ? AND deleted_to < sequence_nr""",
                one[:2],
            ).fetchone()
            if row:
                found.append((key, row[0], microseconds(one.due_at)))
    connection.execute(
        """UPDATE instance SET due_at = asked.due_at
             FROM (SELECT json_extract(value, '$[1]') AS id, json_extract(value, '$[2]') AS due_at FROM json_each(?)) asked
            WHERE instance_id = asked.id""",
        (msgspec.json.encode(found).decode(),),
    )
    answers = [False] * len(moves)
    for key, _, _ in found:
        answers[key] = True
    return answers
