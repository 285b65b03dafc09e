"""Reads, on a connection and a thread of their own. Lookups that wait at the same time are one statement with one row.

Python's lock is given up for each row that SQLite steps to, and taken again: beside a busy event loop that is a wait of up
to Python's switch interval (5 ms) for each, so a hundred single lookups take a hundred such waits, and one takes one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import msgspec

from ...errors import JournalFormatError
from .file import OpenedFile, stamp
from .rows import ITS_NEWEST, NEWEST, NEWEST_COLUMNS, NEWEST_NUMBER, THERE
from .schema import ERRORS, translate
from .threads import Job

# The id or ids whose newest records are wanted, or any other work.
Read = str | tuple[str, ...] | Callable[[sqlite3.Connection], Any]

_NEWEST = f"""
    SELECT {NEWEST_COLUMNS} FROM {NEWEST} WHERE i.persistence_id = ? AND {THERE}"""  # noqa: S608
# CROSS JOIN: by id, in this order, whatever SQLite thinks of the sizes.
_NEWEST_OF_MANY = f"""
    SELECT json_group_array(json_array(j.key, {NEWEST_NUMBER}, hex(r.payload), l.manifest, l.writer_uuid, r.deleted, l.tags,
                                       r.due_at, i.epoch, r.record_id)),
           total(typeof(r.payload) <> 'blob')
      FROM json_each(?) j CROSS JOIN instance i ON i.persistence_id = j.value LEFT JOIN record r ON {ITS_NEWEST}
           LEFT JOIN label l USING (label_id) WHERE {THERE}"""  # noqa: S608
_decoder = msgspec.json.Decoder(list[tuple[int, int, str, str, str, int, str, int | None, int, int]])


class Reader:
    """The connection that reads."""

    def __init__(
        self, connection: sqlite3.Connection, file: OpenedFile, *, reopen: Callable[[], sqlite3.Connection] | None
    ) -> None:
        """`reopen`: connects anew to a file that can only be read, and may be read without locks (see stamp)."""
        self._connection = connection
        self._file = file
        self._reopen = reopen
        self._stamp = stamp(file.path)

    def close(self) -> None:
        self._connection.close()

    def serve(self, jobs: list[Job[Read]]) -> None:
        """Carry out a batch of reads, each for itself; the result of a lookup is a row of COLUMNS or None."""
        self._file.check_there()  # what is raised, all jobs are told
        if self._reopen is not None and self._stamp != (now := stamp(self._file.path)):
            self._connection.close()
            self._connection, self._stamp = self._reopen(), now
        ids: dict[str, None] = {}
        for job in jobs:
            if isinstance(job.work, str):
                ids[job.work] = None
            elif isinstance(job.work, tuple):
                ids.update(dict.fromkeys(job.work))
        found = self._newest_of_many([key for key in ids if "\0" not in key]) if len(ids) > 1 else {}
        for job in jobs:
            work = job.work
            try:
                if callable(work):
                    job.result = work(self._connection)
                elif isinstance(work, tuple):
                    job.result = [self._newest(key, found) for key in work]
                else:
                    job.result = self._newest(work, found)
            except JournalFormatError as error:  # a row that is not one of ours fails its own read only
                job.error = error
            except ERRORS as error:
                job.error = translate(error, self._file.path)

    def _newest(self, key: str, found: dict[str, tuple[Any, ...] | None]) -> Any:
        row = found.get(key, ...)
        return self._connection.execute(_NEWEST, (key,)).fetchone() if row is ... else row

    def _newest_of_many(self, ids: list[str]) -> dict[str, tuple[Any, ...] | None]:
        """Return the rows of these ids. Where one is damaged, or JSON cannot carry it, all are looked up one by one."""
        try:
            asked = msgspec.json.encode(ids).decode()
            (answer, damaged) = self._connection.execute(_NEWEST_OF_MANY, (asked,)).fetchone()
            if damaged:
                return {}
            rows = _decoder.decode(answer)
            found: dict[str, tuple[Any, ...] | None] = dict.fromkeys(ids)
            for key, number, payload, *others in rows:
                found[ids[key]] = (ids[key], number, bytes.fromhex(payload), *others)
        except (*ERRORS, msgspec.MsgspecError, ValueError):
            return {}
        return found
