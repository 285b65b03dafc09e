"""Which subjects a journal uses in its stream, and how any id becomes one.

    <stream>.record.<shard>.<family>.<id>                    the records of an id; the newest message is its truth
    <stream>.due.<d>.<d>.<d>. ... .<family>.<id>.<entry>     an id is due in that second since 1970, in ten digits
    <stream>.mark.<reading>                                  how far a replica has to be for that reading
    <stream>.mark.late.<family>                              an entry was written whose moment had come already

`shard` cuts the ids into parts that can be listed one after the other, each in one go. `family` is what an id has up to
its second `::`, so that one saga is listed without the others. A due time as single digits makes everything that is
due by now a few dozen wildcards, whatever else is pending. `entry` is <record number>-<microsecond>, and ends in `c` for
a claim: a subject says all that a due entry has to say, and no entry ever takes the place of another.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from urllib.parse import quote, unquote
from zlib import crc32

import msgspec

SHARDS = 64
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ENTRY = re.compile(r"([0-9]{1,19})-([0-9]{1,6})(c?)")
_NUMERALS = frozenset("0123456789")
_DIGITS = 10
_NONE = "-"


@lru_cache(maxsize=8192)  # an id comes several times within its step, and again with the next
def token(text: str) -> str:
    """Return `text` as one token of a subject: readable where it can be, and different for different texts."""
    return quote(text, safe=":@+=").replace(".", "%2E").replace("~", "%7E") or "%"


def untoken(text: str) -> str:
    """Return the text of a token."""
    return unquote(text) if text != "%" else ""


def family(text: str) -> str:
    """Return the token for what an id, or a prefix of ids, has up to its second `::`; `-` if it has none."""
    parts = text.split("::", 2)
    return token(f"{parts[0]}::{parts[1]}") if len(parts) == 3 else _NONE


def shard(persistence_id: str) -> int:
    """Return the part of the ids that this one is in."""
    return crc32(persistence_id.encode()) % SHARDS


class DueEntry(msgspec.Struct, frozen=True):
    """What the subject of a due entry says: it was written for record `nr`, or `claimed` it from another entry."""

    subject: str
    persistence_id: str
    nr: int
    due_at: datetime
    claimed: bool

    @property
    def at_an_end(self) -> bool:
        """Its moment may be one that digits cannot say, before 1970 or after 2286."""
        return not 1 <= self.due_at.timestamp() < 10**_DIGITS - 1

    @property
    def stem(self) -> str:
        """What the entries of its id in its second have in common."""
        return self.subject.rpartition(".")[0]


class Subjects:
    """The subjects of one stream."""

    def __init__(self, stream: str) -> None:
        self.root = stream
        self.all: list[str] = [f"{stream}.record.>", f"{stream}.due.>", f"{stream}.mark.>"]

    def record(self, persistence_id: str) -> str:
        """Return the subject of an id's records."""
        return f"{self.root}.record.{shard(persistence_id)}.{family(persistence_id)}.{token(persistence_id)}"

    def records(self, part: int | None, prefix: str) -> str:
        """Return the wildcard for a shard (None: all) of at least the ids that start with `prefix`."""
        known = family(prefix)
        return f"{self.root}.record.{'*' if part is None else part}.{'*' if known == _NONE else known}.*"

    def due(self, at: datetime, persistence_id: str, nr: int, *, claim: bool = False) -> str:
        """Return the subject that says that an id, with that record as its newest, is due at that moment."""
        where = f"{self.root}.due.{'.'.join(_second(at))}.{family(persistence_id)}.{token(persistence_id)}"
        return f"{where}.{nr}-{at.microsecond}{'c' if claim else ''}"

    def due_entry(self, subject: str) -> DueEntry | None:
        """Return what such a subject says, None for one that is of somebody else."""
        *digits, _, persistence_id, last = ("", "", *subject.removeprefix(f"{self.root}.due.").split("."))
        found = _ENTRY.fullmatch(last)
        if found is None or len(digits) != _DIGITS + 2 or not _NUMERALS.issuperset(digits[2:]):
            return None
        due_at = _EPOCH + timedelta(seconds=int("".join(digits)), microseconds=int(found[2]))
        return DueEntry(subject, untoken(persistence_id), int(found[1]), due_at, bool(found[3]))

    def due_second(self, subject: str) -> str:
        """Return the wildcard for all due entries of the second, and of the saga, that such a subject is of."""
        tokens = subject.removeprefix(f"{self.root}.due.").split(".")
        return ".".join([self.root, "due", *tokens[: _DIGITS + 1], ">"])

    def due_by(self, before: datetime, prefix: str, *, recent: bool = False) -> list[str]:
        """Return the wildcards for what is due in the second of `before` or in an earlier one.

        `recent`: only those of the same ten seconds, and of the ten before.
        """
        known = family(prefix)
        ids = "*.*.*" if known == _NONE else f"{known}.*.*"
        digits = _second(before)
        found = []
        if recent:
            ten = max(int(digits[:-1]) - 1, 0)
            found.append(".".join([self.root, "due", *f"{ten:0{_DIGITS - 1}}", "*", ids]))
        for place in range(_DIGITS - 1 if recent else 0, _DIGITS):
            for lower in range(int(digits[place])):
                left = ["*"] * (_DIGITS - place - 1)
                found.append(".".join([self.root, "due", *digits[:place], str(lower), *left, ids]))
        found.append(".".join([self.root, "due", *digits, ids]))
        return found

    def due_of(self, persistence_id: str) -> str:
        """Return the wildcard for all due entries of an id, which a server finds slowly."""
        where = f"{family(persistence_id)}.{token(persistence_id)}"
        return ".".join([self.root, "due", *["*"] * _DIGITS, where, "*"])

    def late(self, persistence_id: str) -> str:
        """Return the subject of the marks of what was late when it was written, for the family of an id."""
        return f"{self.root}.mark.late.{family(persistence_id)}"

    def late_by(self, prefix: str) -> tuple[str, bool]:
        """Return the subject, or wildcard, of the marks that concern a prefix; and whether it is of one family only."""
        known = family(prefix)
        return f"{self.root}.mark.late.{'*' if known == _NONE else known}", known != _NONE

    def mark(self, reading: str) -> str:
        """Return the subject of the mark of one reading."""
        return f"{self.root}.mark.{reading}"

    @staticmethod
    def id_of(subject: str) -> str:
        """Return the id in the subject of a record."""
        return untoken(subject.rpartition(".")[2])


def _second(at: datetime) -> str:
    seconds = min(max(int(at.timestamp()), 0), 10**_DIGITS - 1)
    return f"{seconds:0{_DIGITS}}"
