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

Usually a look lists only what is due lately. So behind an entry that is late when it is written goes a mark, before its
record: a look that finds a mark behind what the last full one has listed lists everything again. The place in the stream
decides, not a clock, so that an entry which comes in the middle of a look is found by the next one.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from ...errors import JournalFormatError, SagalogError
from ...logs import about, log
from ..protocol import MAX_SEQUENCE_NR
from .bounded import gather_bounded
from .connection import MAX_AT_ONCE
from .messages import EXPECTED_STREAM, MESSAGE_ID, Stored, in_utc
from .publishing import Message, Publisher
from .refusals import IN_PROCESS, Rejected
from .requests import MAX_LISTED, Requests
from .subjects import DueEntry

_KEPT = timedelta(minutes=15)
_PAGE = 512  # ids whose newest records are looked up, and which are claimed, in one go
PURGES_AT_ONCE = 16
_GIVE_WAY = 1000
_MAX_HELD = 65_536
_LATE = timedelta(seconds=2)  # clocks differ
_SWEEP_SECONDS = 20.0
_RECENT = timedelta(seconds=9)


class _Swept(msgspec.Struct):
    """Up to which moment all was claimed that the stream held up to a place, and until when that may be relied on."""

    moment: datetime
    until_time: float  # of the loop
    listed_to: int


class _Second(msgspec.Struct):
    """The entries of one second as they were listed: how many, which are done with, and whether the list is complete."""

    wildcard: str
    complete: bool
    listed: int = 0
    done: list[str] = []

    def to_remove(self) -> list[str]:
        """What to purge now: all in one go where none of the second stays.

        For each purge every replica looks through whole blocks of messages: one for each entry took a third of what
        followers did. What was claimed goes at once all the same, for it would be found due again.
        """
        gone = [self.wildcard] if self.complete and self.done and len(self.done) == self.listed else self.done
        self.listed -= len(self.done)
        self.done = []
        return gone


class _Listed(msgspec.Struct):
    """The entries up to a moment as they were listed, by their ids, and which of them are still to be looked at."""

    before: datetime
    moment: datetime  # up to which that may be relied on
    at_time: float  # of the loop
    listed_to: int  # the place in the stream up to which they were listed
    ids: deque[list[DueEntry]]
    seconds: dict[str, _Second]


class _IdEntries(msgspec.Struct):
    """The entries of one id in one second, and the newest record of that id."""

    second: _Second
    entries: list[DueEntry]
    newest: Stored | None
    valid: list[tuple[DueEntry, datetime]] = []  # these say when the id is due
    outdated: list[DueEntry] = []  # nobody will ever need these


def _earliest(one: tuple[str, datetime]) -> tuple[datetime, str]:
    return one[1], one[0]


class DueEntries:
    """The due entries of a stream."""

    def __init__(self, requests: Requests, publisher: Publisher) -> None:
        self._requests = requests
        self._publisher = publisher
        self._swept: dict[str, _Swept] = {}  # by prefix
        self._listed: dict[str, _Listed] = {}  # by prefix, where a claim has not come to all that it listed
        self._held: OrderedDict[str, str] = OrderedDict()  # by id, the entry that this process claimed or moved last

    def messages(self, persistence_id: str, nr: int, due_at: datetime) -> list[Message]:
        """Return the entry for a record, to be published before it; and where looks may have passed that moment, a mark."""
        subject = self._requests.subjects.due(in_utc(due_at), persistence_id, nr)
        return [self._message(subject), *self._late_mark(due_at, persistence_id)]

    def _message(self, subject: str) -> Message:
        return subject, b"", {EXPECTED_STREAM: self._requests.stream}

    def _late_mark(self, at: datetime, persistence_id: str) -> list[Message]:
        if at - self._requests.now() > _LATE:
            return []
        return [self._message(self._requests.subjects.late(persistence_id))]

    async def move(self, newest: Stored, due_at: datetime | None) -> bool:
        """Let an id be due at another moment; False if somebody else claimed or moved it meanwhile."""
        old = await self._entries_of(newest)
        if due_at is not None:
            subject = self._requests.subjects.due(in_utc(due_at), newest.persistence_id, newest.head.nr, claim=True)
            if any(one.subject == subject for one in old):
                old = [one for one in old if one.subject != subject]
            else:
                headers = {EXPECTED_STREAM: self._requests.stream}
                if old:
                    headers[MESSAGE_ID] = f"claim/{old[-1].subject}"
                piece = [(subject, b"", headers), *self._late_mark(due_at, newest.persistence_id)]
                answer = (await self._publisher.publish(*piece))[0]
                if isinstance(answer, Rejected):
                    if answer.code == IN_PROCESS:
                        return False
                    raise self._requests.refused(answer)
                if answer.get("duplicate", False):
                    return False
            self._hold(newest.persistence_id, subject)
        else:
            self._held.pop(newest.persistence_id, None)
        for one in old:
            await self._requests.purge(one.subject, MAX_SEQUENCE_NR - 1)
        return True

    async def _entries_of(self, newest: Stored) -> list[DueEntry]:
        """Return the entries that say when an id is due: usually the one that was last heard of, or its record's own."""
        subjects = self._requests.subjects
        candidates = [self._held.get(newest.persistence_id)]
        if newest.head.due_at is not None:
            candidates.append(subjects.due(newest.head.due_at, newest.persistence_id, newest.head.nr))
        for candidate in candidates:
            entry = subjects.due_entry(candidate) if candidate is not None else None
            if entry is not None and self._says(entry, newest) and await self._follows(entry, newest, listed=False):
                return [entry]
        listed = await self._requests.subjects_of(subjects.due_of(newest.persistence_id))
        found = [subjects.due_entry(one) for one in sorted(listed)]
        saying = [one for one in found if one is not None and self._says(one, newest)]
        return [one for one in saying if await self._follows(one, newest)]

    def _hold(self, persistence_id: str, subject: str) -> None:
        self._held[persistence_id] = subject
        self._held.move_to_end(persistence_id)
        if len(self._held) > _MAX_HELD:
            self._held.popitem(last=False)

    async def due(self, prefix: str, before: datetime, limit: int) -> list[tuple[str, datetime]]:
        """Return what is due at `before`, earliest first."""
        found: dict[str, datetime] = {}
        listed = await self._list(prefix, before)
        while listed.ids and len(found) < limit:
            groups = await self._groups(listed, _PAGE, before)
            for entry, at in _in_order(groups):
                found.setdefault(entry.persistence_id, at)
        return sorted(found.items(), key=_earliest)[:limit]

    async def claim(self, prefix: str, before: datetime, until: datetime, limit: int) -> list[tuple[str, datetime]]:
        """Claim what is due at `before`, and drop the entries that are outdated."""
        claimed: dict[str, datetime] = {}
        rest = await self._rest(prefix, before)
        if rest is not None:
            await self._claim_listed(prefix, rest, before, until, limit, claimed)
        if len(claimed) < limit:
            listed = await self._list(prefix, before)
            await self._claim_listed(prefix, listed, before, until, limit, claimed)
            if not listed.ids:
                await self._note_swept(prefix, listed)
        if claimed and until - self._requests.now() <= _LATE:
            await self._publisher.publish(*self._late_mark(until, next(iter(claimed))))
        return sorted(claimed.items(), key=_earliest)

    async def _claim_listed(
        self, prefix: str, listed: _Listed, before: datetime, until: datetime, limit: int, claimed: dict[str, datetime]
    ) -> None:
        while listed.ids and len(claimed) < limit:
            await self._claim_page(listed, before, until, min(limit - len(claimed), _PAGE), claimed)
        if listed.ids:
            self._listed[prefix] = listed
            self._swept.pop(prefix, None)  # the rest may be old when it is its turn
        gone = [subject for second in listed.seconds.values() for subject in second.to_remove()]
        await gather_bounded(lambda subject: self._requests.purge(subject, listed.listed_to), gone, PURGES_AT_ONCE)

    async def _claim_page(
        self, listed: _Listed, before: datetime, until: datetime, limit: int, claimed: dict[str, datetime]
    ) -> None:
        groups = await self._groups(listed, limit, before)
        valid = _in_order(groups)
        won = await self._claim([entry for entry, _ in valid], until)
        done = {entry.subject for group in groups for entry in group.outdated}
        for (entry, at), mine in zip(valid, won, strict=True):
            if mine:
                claimed.setdefault(entry.persistence_id, at)
            if mine is not None:
                done.add(entry.subject)
        for group in groups:
            group.second.done += [entry.subject for entry in group.entries if entry.subject in done]

    async def _note_swept(self, prefix: str, listed: _Listed) -> None:
        """Note that all was claimed that was listed: for a while, only what is due lately is listed."""
        time = asyncio.get_running_loop().time()
        swept = self._swept.get(prefix)
        if swept is None or swept.until_time < time or swept.listed_to < await self._late(prefix):
            self._swept[prefix] = _Swept(listed.moment, listed.at_time + _SWEEP_SECONDS, listed.listed_to)
        else:
            self._swept[prefix] = _Swept(max(swept.moment, listed.moment), swept.until_time, swept.listed_to)

    async def _rest(self, prefix: str, before: datetime) -> _Listed | None:
        """Return what the last claim has listed and not come to, unless it is old, or something late was written since.

        What came since is due later than all of it. To list a hundred thousand entries for each page of a claim takes the
        square of their number.
        """
        listed = self._listed.pop(prefix, None)
        if listed is None or before < listed.before:
            return None
        if asyncio.get_running_loop().time() - listed.at_time > _SWEEP_SECONDS:
            return None
        return listed if await self._late(prefix) <= listed.listed_to else None

    async def _late(self, prefix: str) -> int:
        """Return the place in the stream of the newest mark of something that was late when it was written."""
        newest = await self._requests.last_of(self._requests.subjects.late_by(prefix)[0])
        return newest.sequence if newest is not None else 0

    async def _only_recent(self, prefix: str, before: datetime) -> bool:
        """Say whether what was due long ago has been claimed, and nothing was written there since it was listed."""
        swept = self._swept.get(prefix)
        if swept is None or swept.until_time <= asyncio.get_running_loop().time():
            return False
        if not timedelta() <= before - swept.moment <= _RECENT:
            return False
        late = await self._late(prefix)
        if late <= swept.listed_to:
            return True
        subject, alone = self._requests.subjects.late_by(prefix)
        if alone:
            await self._requests.purge(subject, late - 1)  # the newest says it all
        return False

    async def _list(self, prefix: str, before: datetime) -> _Listed:
        """List the entries up to `before`, by their ids, those of the earliest second first.

        What was due long ago is looked for now and then only, and when something was written that was late.
        """
        requests = self._requests
        # What is late goes by the server's time, so a moment that is ahead of it is never swept: what comes is not marked.
        moment, at_time = min(before, requests.now()), asyncio.get_running_loop().time()
        # What the stream holds up to here is in the lists that follow.
        listed_to = (await requests.info())["state"]["last_seq"]
        recent = await self._only_recent(prefix, before)
        if not recent:
            self._swept.pop(prefix, None)  # until this look, which sees all, has come to its end
        wildcards = requests.subjects.due_by(before, prefix, recent=recent)
        found = await gather_bounded(requests.subjects_of, wildcards, MAX_AT_ONCE)
        # The digits of the second come first in a subject, so their order is the order of time.
        stems: dict[str, list[DueEntry]] = {}
        seconds: dict[str, _Second] = {}
        complete = all(len(some) < MAX_LISTED for some in found)
        for number, subject in enumerate(sorted(one for some in found for one in some), 1):
            if number % _GIVE_WAY == 0:
                await asyncio.sleep(0)
            wildcard = requests.subjects.due_second(subject)
            second = seconds.setdefault(wildcard, _Second(wildcard, complete, 0, []))
            second.listed += 1
            entry = requests.subjects.due_entry(subject)
            if entry is None:
                log.warning("ignoring the due time %s: another program wrote it", subject, extra=about())
            elif entry.persistence_id.startswith(prefix) and (entry.due_at <= before or entry.at_an_end):
                stems.setdefault(entry.stem, []).append(entry)
        return _Listed(before, moment, at_time, listed_to, deque(stems.values()), seconds)

    async def _groups(self, listed: _Listed, ids: int, before: datetime) -> list[_IdEntries]:
        """Take so many ids from the front of a list, each with its newest record."""
        some = [listed.ids.popleft() for _ in range(min(ids, len(listed.ids)))]
        groups = await gather_bounded(
            lambda one: self._group(listed.seconds[self._requests.subjects.due_second(one[0].subject)], one, before),
            some,
            MAX_AT_ONCE,
        )
        return [group for group in groups if group is not None]

    async def _group(self, second: _Second, entries: list[DueEntry], before: datetime) -> _IdEntries | None:
        """Return the entries of an id with its newest record, None if that is damaged.

        What is damaged holds up its own instance, not all that is due.
        """
        persistence_id = entries[0].persistence_id
        try:
            group = _IdEntries(second, entries, await self._requests.last(persistence_id), [], [])
        except JournalFormatError as error:
            log.warning("ignoring the due time of %s: %s", persistence_id, error, extra=about())
            return None
        for entry in entries:
            if group.newest is None or group.newest.head.nr < entry.nr:
                if await self._given_up(entry):
                    group.outdated.append(entry)
            elif self._says(entry, group.newest) and await self._follows(entry, group.newest):
                at = entry.due_at if entry.claimed else group.newest.head.due_at
                if at is not None and at <= before:
                    group.valid.append((entry, at))
            else:
                group.outdated.append(entry)
        return group

    def _says(self, entry: DueEntry, newest: Stored) -> bool:
        """Say whether an entry tells when its id is due, as its newest record has it, or as it was claimed."""
        due_at = newest.head.due_at
        if newest.empty or newest.head.nr != entry.nr:
            return False
        if entry.claimed or due_at is None:
            return entry.claimed
        return entry.subject == self._requests.subjects.due(due_at, entry.persistence_id, entry.nr)

    async def _follows(self, entry: DueEntry, newest: Stored, *, listed: bool = True) -> bool:
        """Say whether an entry is there, and no claim of a life before: of a purged record that had the same number.

        Such a claim lies before the newest record in the stream. So does one of a record that was stored again behind it,
        because part of what its id has was hidden. `listed`: it was there just now.
        """
        if listed and not (entry.claimed and newest.head.hidden_to == 0):
            return True
        one = await self._requests.last_of(entry.subject)
        if one is None:
            return False
        return not entry.claimed or newest.head.hidden_to > 0 or one.sequence > newest.sequence

    async def _given_up(self, entry: DueEntry) -> bool:
        """Say whether the record of an entry will never come."""
        one = await self._requests.last_of(entry.subject)
        return one is not None and self._requests.now() - one.time > _KEPT

    async def _claim(self, entries: Sequence[DueEntry], until: datetime) -> list[bool | None]:
        """Say of each whether the claim is ours, or somebody else's; None if somebody else is at it."""
        pieces = []
        for entry in entries:
            subject = self._requests.subjects.due(in_utc(until), entry.persistence_id, entry.nr, claim=True)
            headers = {EXPECTED_STREAM: self._requests.stream, MESSAGE_ID: f"claim/{entry.subject}"}
            pieces.append([(subject, b"", headers)])
        found: list[bool | None] = []
        failed: SagalogError | None = None
        answered = await self._publisher.publish_each(pieces)
        for entry, piece, answers in zip(entries, pieces, answered, strict=True):
            answer = answers if isinstance(answers, SagalogError) else answers[0]
            if isinstance(answer, SagalogError):
                failed = failed or answer
                found.append(None)
            elif isinstance(answer, Rejected):
                if answer.code != IN_PROCESS:
                    failed = failed or self._requests.refused(answer)
                found.append(None)
            else:
                found.append(not answer.get("duplicate", False))
                if found[-1]:
                    self._hold(entry.persistence_id, piece[0][0])
        if failed is not None and True not in found:
            raise failed
        return found


def _in_order(groups: list[_IdEntries]) -> list[tuple[DueEntry, datetime]]:
    return sorted((entry for group in groups for entry in group.valid), key=lambda one: one[1])
