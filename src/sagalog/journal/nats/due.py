"""How due ids are found without looking at all: an entry for each record that is due some time, stored before it.

    write_messages ─► entry, record (one piece, one stream: what is stored behind is never there without what is before)
    claim_due      ─► entries up to now ─► compare each with the newest record of its id ─► claim, or drop

An entry says, by its subject alone, for which record number it was written. If that record is the newest, and due then,
the id is due. If a newer one is there, the entry is outdated: the newer record brought its own. If the record is not there
(yet), its write failed, or is still on its way from a process that was frozen or cut off; the entry is kept for a quarter
of an hour, which is longer than NATS keeps a connection that is silent.

A claim writes an entry for `until` under a message id made of the entry that it replaces: JetStream stores one of those
only, so of two workers one is told that it was second. A write that lost leaves an entry behind, too; it names another
record or another moment, and as no entry takes the place of another, it does no harm.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import msgspec

from ...errors import JournalFormatError
from ...logs import about, log
from .connection import IN_PROCESS, MOST_LISTED, Connection, Rejected
from .messages import EXPECTED_STREAM, MESSAGE_ID, Stored
from .subjects import DueEntry

_KEPT = timedelta(minutes=15)
_AT_ONCE = 64
_SWEEP_SECONDS = 20.0
_RECENT = timedelta(seconds=9)


class _Second(msgspec.Struct):
    """The entries of one second as they were listed: how many, which are done with, and whether the list is complete."""

    wildcard: str
    complete: bool
    listed: int = 0
    done: list[str] = []

    def to_remove(self) -> list[str]:
        """What to purge: all in one go where none of the second stays.

        For each purge every replica looks through whole blocks of messages: one for each entry took a third of what
        followers did.
        """
        return [self.wildcard] if self.complete and len(self.done) == self.listed else self.done


class _Group(msgspec.Struct):
    """The entries of one id in one second, and the newest record of that id."""

    second: _Second
    entries: list[DueEntry]
    newest: Stored | None
    valid: list[DueEntry] = []  # these say when the id is due
    outdated: list[DueEntry] = []  # nobody will ever need these


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
        return (
            self._connection.subjects.due(due_at, persistence_id, nr),
            b"",
            {EXPECTED_STREAM: self._connection.stream},
        )

    async def due(self, prefix: str, before: datetime, limit: int) -> list[tuple[str, datetime]]:
        """Return what is due at `before`, earliest first."""
        found: dict[str, datetime] = {}
        async for groups in self._groups(prefix, before):
            for entry in _in_order(groups):
                found.setdefault(entry.persistence_id, entry.due_at)
            if len(found) >= limit:
                break
        return sorted(found.items(), key=_earliest)[:limit]

    async def claim(self, prefix: str, before: datetime, until: datetime, limit: int) -> list[tuple[str, datetime]]:
        """Claim what is due at `before`, and drop the entries that are outdated."""
        claimed: dict[str, datetime] = {}
        seconds: dict[str, _Second] = {}  # with something to remove
        loop = asyncio.get_running_loop()
        # What the stream holds up to here is in the lists that follow.
        listed_to = (await self._connection.info())["state"]["last_seq"]
        async for groups in self._groups(prefix, before):
            valid = _in_order(groups)[: limit - len(claimed)]
            won = await asyncio.gather(*(self._claim(entry, until) for entry in valid))
            done = {entry.subject for group in groups for entry in group.outdated}
            for entry, mine in zip(valid, won, strict=True):
                if mine:
                    claimed.setdefault(entry.persistence_id, entry.due_at)
                if mine is not None:
                    done.add(entry.subject)
            for group in groups:
                group.second.done += [entry.subject for entry in group.entries if entry.subject in done]
                seconds[group.second.wildcard] = group.second
            if len(claimed) >= limit:
                self._swept.pop(prefix, None)  # the rest may be old when it is its turn
                break
        else:
            moment, until_time = self._swept.get(prefix, (before, 0.0))
            if until_time < loop.time():
                until_time = loop.time() + _SWEEP_SECONDS
            self._swept[prefix] = (max(moment, before), until_time)
        gone = [subject for second in seconds.values() for subject in second.to_remove()]
        await asyncio.gather(*(self._connection.purge(subject, listed_to) for subject in gone))
        return sorted(claimed.items(), key=_earliest)

    async def _groups(self, prefix: str, before: datetime) -> AsyncIterator[list[_Group]]:
        """Yield the entries up to `before`, some at a time, by their second.

        What was due long ago is looked for now and then only: it is what a write left behind that took very long.
        """
        moment, until_time = self._swept.get(prefix, (before, 0.0))
        recent = until_time > asyncio.get_running_loop().time() and moment <= before <= moment + _RECENT
        connection = self._connection
        wildcards = connection.subjects.due_by(before, prefix, recent=recent)
        found = await asyncio.gather(*(connection.subjects_of(wildcard) for wildcard in wildcards))
        # The digits of the second come first in a subject, so their order is the order of time.
        stems: dict[str, list[DueEntry]] = {}
        seconds: dict[str, _Second] = {}
        complete = all(len(some) < MOST_LISTED for some in found)
        for subject in sorted(one for some in found for one in some):
            wildcard = connection.subjects.due_second(subject)
            second = seconds.setdefault(wildcard, _Second(wildcard, complete, 0, []))
            second.listed += 1
            entry = connection.subjects.due_entry(subject)
            if entry is None:
                log.warning(
                    "what is due by %s is passed over: it was written by something else", subject, extra=about()
                )
            elif entry.persistence_id.startswith(prefix) and entry.due_at <= before:
                stems.setdefault(entry.stem, []).append(entry)
        lists = list(stems.values())
        for start in range(0, len(lists), _AT_ONCE):
            some = lists[start : start + _AT_ONCE]
            groups = await asyncio.gather(
                *(self._group(seconds[connection.subjects.due_second(one[0].subject)], one) for one in some)
            )
            yield [group for group in groups if group is not None]

    async def _group(self, second: _Second, entries: list[DueEntry]) -> _Group | None:
        """Return the entries of an id with its newest record, None if that is damaged.

        What is damaged holds up its own instance, not all that is due.
        """
        persistence_id = entries[0].persistence_id
        try:
            group = _Group(second, entries, await self._connection.last(persistence_id), [], [])
        except JournalFormatError as error:
            log.warning("what is due of %s is passed over: %s", persistence_id, error, extra=about())
            return None
        for entry in entries:
            if group.newest is None or group.newest.head.nr < entry.nr:
                if await self._given_up(entry):
                    group.outdated.append(entry)
            elif self._says(entry, group.newest):
                group.valid.append(entry)
            else:
                group.outdated.append(entry)
        return group

    def _says(self, entry: DueEntry, newest: Stored) -> bool:
        """Say whether an entry tells when its id is due, as its newest record has it, or as it was claimed."""
        due_at = newest.head.due_at
        if due_at is None or newest.head.nr != entry.nr:
            return False
        return entry.claimed or entry.subject == self._connection.subjects.due(due_at, entry.persistence_id, entry.nr)

    async def _given_up(self, entry: DueEntry) -> bool:
        """Say whether the record of an entry will never come."""
        one = await self._connection.last_of(entry.subject)
        return one is not None and datetime.now(UTC) - one.time > _KEPT

    async def _claim(self, entry: DueEntry, until: datetime) -> bool | None:
        """Say whether the claim is ours, or somebody else's; None if somebody else is at it."""
        subject = self._connection.subjects.due(until, entry.persistence_id, entry.nr, claim=True)
        headers = {EXPECTED_STREAM: self._connection.stream, MESSAGE_ID: f"claim/{entry.subject}"}
        (answer,) = await self._connection.publish((subject, b"", headers))
        if isinstance(answer, Rejected):
            if answer.code == IN_PROCESS:
                return None
            raise self._connection.refused(answer)
        return not answer.get("duplicate", False)


def _in_order(groups: list[_Group]) -> list[DueEntry]:
    return sorted((entry for group in groups for entry in group.valid), key=lambda entry: entry.due_at)
