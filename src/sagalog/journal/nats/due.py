"""How due ids are found without looking at all: an entry for each record that is due some time, stored before it.

    write_messages ─► entry, record (one piece, one stream: what is stored behind is never there without what is before)
    claim_due      ─► entries up to now ─► compare each with the newest record of its id ─► claim, or drop

An entry says for which record number it was written. If that record is the newest, the id is due. If a newer one is
there, the entry is outdated: the newer record brought its own. If the record is not there (yet), its write failed, or is
still on its way from a process that was frozen or cut off; the entry is kept for a quarter of an hour, which is longer
than NATS keeps a connection that is silent.

A claim writes an entry for `until` under a message id made of the entry that it replaces: JetStream stores one of those
only, so of two workers one is told that it was second.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import msgspec

from ...errors import JournalFormatError
from ...logs import about, log
from .connection import IN_PROCESS, Connection, Rejected
from .messages import EXPECTED_STREAM, HEADER, MESSAGE_ID, Due, Stored, due_of, header_of

_KEPT = timedelta(minutes=15)
_AT_ONCE = 64
_SWEEP_SECONDS = 20.0
_RECENT = timedelta(seconds=9)


class Entry(msgspec.Struct):
    """A due entry as it is in the stream."""

    subject: str
    sequence: int
    stored_at: datetime
    persistence_id: str
    due: Due
    newest: Stored | None = None  # of its id

    @property
    def valid(self) -> bool:
        """The id is due at this entry's moment."""
        return self.newest is not None and self.newest.head.nr == self.due.nr and self.newest.head.due_at is not None

    def outdated(self, now: datetime) -> bool:
        """Nobody will ever need it."""
        if self.newest is not None and self.newest.head.nr >= self.due.nr:
            return not self.valid
        return now - self.stored_at > _KEPT


def _earliest(one: tuple[str, datetime]) -> tuple[datetime, str]:
    return one[1], one[0]


class DueEntries:
    """The due entries of a stream."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        # By prefix: up to which moment all was claimed, and until when (of the loop) that may be relied on.
        self._swept: dict[str, tuple[datetime, float]] = {}

    def message(self, persistence_id: str, nr: int, due_at: datetime) -> tuple[str, bytes, dict[str, str]]:
        """Return the entry for a record, to be published before it."""
        if any(due_at < moment for moment, _ in self._swept.values()):
            self._swept.clear()  # long ago: look everywhere
        headers = {HEADER: header_of(Due(nr, due_at)), EXPECTED_STREAM: self._connection.stream}
        return self._connection.subjects.due(due_at, persistence_id), b"", headers

    async def due(self, prefix: str, before: datetime, limit: int) -> list[tuple[str, datetime]]:
        """Return what is due at `before`, earliest first."""
        found: dict[str, datetime] = {}
        async for entries in self._entries(prefix, before):
            for entry in entries:
                if entry.valid:
                    found.setdefault(entry.persistence_id, entry.due.due_at)
            if len(found) >= limit:
                break
        return sorted(found.items(), key=_earliest)[:limit]

    async def claim(self, prefix: str, before: datetime, until: datetime, limit: int) -> list[tuple[str, datetime]]:
        """Claim what is due at `before`, and drop the entries that are outdated."""
        claimed: dict[str, datetime] = {}
        loop, now = asyncio.get_running_loop(), datetime.now(UTC)
        async for entries in self._entries(prefix, before):
            valid = [entry for entry in entries if entry.valid][: limit - len(claimed)]
            done = [entry for entry in entries if entry.outdated(now)]
            won = await asyncio.gather(*(self._claim(entry, until) for entry in valid))
            for entry, mine in zip(valid, won, strict=True):
                if mine:
                    claimed.setdefault(entry.persistence_id, entry.due.due_at)
                if mine is not None:
                    done.append(entry)
            await asyncio.gather(*(self._connection.purge(entry.subject, entry.sequence) for entry in done))
            if len(claimed) >= limit:
                self._swept.pop(prefix, None)  # the rest may be old when it is its turn
                break
        else:
            moment, until_time = self._swept.get(prefix, (before, 0.0))
            if until_time < loop.time():
                until_time = loop.time() + _SWEEP_SECONDS
            self._swept[prefix] = (max(moment, before), until_time)
        return sorted(claimed.items(), key=_earliest)

    async def _entries(self, prefix: str, before: datetime) -> AsyncIterator[list[Entry]]:
        """Yield the entries up to `before`, each with the newest record of its id, some at a time, by their second.

        What was due long ago is looked for now and then only: it is what a write left behind that took very long.
        """
        moment, until_time = self._swept.get(prefix, (before, 0.0))
        recent = until_time > asyncio.get_running_loop().time() and moment <= before <= moment + _RECENT
        connection = self._connection
        wildcards = connection.subjects.due_by(before, prefix, recent=recent)
        found = await asyncio.gather(*(connection.subjects_of(wildcard) for wildcard in wildcards))
        # The digits of the second come first in a subject, so their order is the order of time.
        subjects = sorted(one for some in found for one in some if connection.subjects.id_of(one).startswith(prefix))
        for start in range(0, len(subjects), _AT_ONCE):
            part = subjects[start : start + _AT_ONCE]
            entries = [entry for entry in await asyncio.gather(*map(self._entry, part)) if entry is not None]
            yield sorted((entry for entry in entries if entry.due.due_at <= before), key=lambda entry: entry.due.due_at)

    async def _entry(self, subject: str) -> Entry | None:
        """Return an entry with the newest record of its id; None if it is gone since it was listed, or is damaged.

        What is damaged holds up its own instance, not all that is due.
        """
        connection = self._connection
        try:
            one, newest = await asyncio.gather(
                connection.last_of(subject), connection.last(connection.subjects.id_of(subject))
            )
            if one is None:
                return None
            return Entry(one.subject, one.sequence, one.time, one.id, due_of(one.header, subject), newest)
        except JournalFormatError as error:
            log.warning("what is due by %s is passed over: %s", subject, error, extra=about())
            return None

    async def _claim(self, entry: Entry, until: datetime) -> bool | None:
        """Say whether the claim is ours, or somebody else's; None if somebody else is at it."""
        subject, body, headers = self.message(entry.persistence_id, entry.due.nr, until)
        headers[MESSAGE_ID] = f"claim/{entry.sequence}"
        (answer,) = await self._connection.publish((subject, body, headers))
        if isinstance(answer, Rejected):
            if answer.code == IN_PROCESS:
                return None
            raise self._connection.refused(answer)
        return not answer.get("duplicate", False)
