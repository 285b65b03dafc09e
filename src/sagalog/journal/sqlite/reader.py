"""Reads, on a connection and a thread of their own. Lookups that wait at the same time are one statement with one row.

Python's lock is given up for each row that SQLite steps to, and taken again: beside a busy event loop that is a wait of up
to Python's switch interval (5 ms) for each, so a hundred single lookups take a hundred such waits, and one takes one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import msgspec

from .rows import COLUMNS
from .schema import ERRORS, translate
from .threads import Job

Read = str | Callable[[sqlite3.Connection], Any]  # the id whose newest record is wanted, or any other work

_NEWEST = f"SELECT {COLUMNS} FROM instance i JOIN record r USING (record_id) WHERE i.persistence_id = ?"  # noqa: S608
# CROSS JOIN: by id, in this order, whatever SQLite thinks of the sizes.
_NEWEST_OF_MANY = """
    SELECT json_group_array(json_array(j.key, r.sequence_nr, hex(r.payload), r.manifest, r.writer_uuid, r.deleted, r.tags,
                                       r.due_at))
      FROM json_each(?) j CROSS JOIN instance i ON i.persistence_id = j.value CROSS JOIN record r USING (record_id)
     WHERE typeof(r.payload) = 'blob'"""
_decoder = msgspec.json.Decoder(list[tuple[int, int, str, str, str, int, str, int | None]])


class Reader:
    """The connection that reads."""

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self._connection = connection
        self._path = path

    def close(self) -> None:
        self._connection.close()

    def serve(self, jobs: list[Job[Read]]) -> None:
        """Carry out a batch of reads, each for itself; the result of a lookup is a row of COLUMNS or None."""
        ids = {job.work for job in jobs if isinstance(job.work, str) and "\0" not in job.work}
        found = self._newest_of_many(list(ids)) if len(ids) > 1 else {}
        for job in jobs:
            work = job.work
            try:
                if callable(work):
                    job.result = work(self._connection)
                else:
                    job.result = found.get(work) or self._connection.execute(_NEWEST, (work,)).fetchone()
            except ERRORS as error:
                job.error = translate(error, self._path)

    def _newest_of_many(self, ids: list[str]) -> dict[str, tuple[Any, ...]]:
        """Return the rows of these ids. What is not there, or anything that JSON cannot carry, is looked up by itself."""
        try:
            asked = msgspec.json.encode(ids).decode()
            (answer,) = self._connection.execute(_NEWEST_OF_MANY, (asked,)).fetchone()
            rows = _decoder.decode(answer)
            return {ids[key]: (ids[key], nr, bytes.fromhex(payload), *others) for key, nr, payload, *others in rows}
        except (*ERRORS, msgspec.MsgspecError, ValueError):
            return {}
