"""Writing records: compare-and-set by the place in the stream of the newest message of an id."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from ...errors import JournalUnavailableError, OutcomeUnknownError, SagalogError, SequenceOutOfOrder
from ...waiting import Attempts, Waiting
from ..protocol import PersistentRepr
from .bounded import gather_bounded
from .connection import MAX_AT_ONCE
from .due import PURGES_AT_ONCE, DueEntries
from .messages import EXPECTED, EXPECTED_STREAM, HEADER, Stored, header_of, message_of
from .publishing import Message, Publisher
from .refusals import WRONG_LAST, Rejected
from .requests import Requests

_MAX_KNOWN_IDS = 65_536


class _Newest(NamedTuple):
    """The newest message of an id: its record number, its place in the stream, what it hides, and its epoch."""

    nr: int
    sequence: int
    hidden_to: int
    epoch: int


_NOTHING = _Newest(0, 0, 0, 0)
_UNKNOWN = _Newest(-1, 0, 0, 0)


class NatsWriter:
    """Writes records, each with the entry that says when its id is due; knows the newest message of ids seen lately."""

    def __init__(self, requests: Requests, publisher: Publisher, due: DueEntries) -> None:
        self._requests = requests
        self._publisher = publisher
        self._due = due
        self._seen: OrderedDict[str, _Newest] = OrderedDict()

    async def write(self, groups: Sequence[list[PersistentRepr]], *, look: bool = False) -> list[SagalogError | None]:
        """Write the records of each id as one message, all in a pipeline; with `look` without trust in the cache."""
        results: list[SagalogError | None] = [None] * len(groups)
        pieces: list[list[Message]] = []
        sent: list[tuple[int, _Newest]] = []
        for place, known in enumerate(await self._known(groups, look=look)):
            records = groups[place]
            persistence_id = records[0].persistence_id
            if isinstance(known, SagalogError):
                results[place] = known
                continue
            epoch = next((one.epoch for one in records if one.epoch), 0)
            epoch = known.epoch or epoch
            if known.nr != records[0].sequence_nr - 1 or any(one.epoch not in (0, epoch) for one in records):
                results[place] = SequenceOutOfOrder((persistence_id,))
                continue
            known = known._replace(epoch=epoch)
            head, body = message_of(records, known.hidden_to, epoch)
            headers = {HEADER: head, EXPECTED: str(known.sequence), EXPECTED_STREAM: self._requests.stream}
            newest = records[-1]
            entries = self._due.messages(persistence_id, newest.sequence_nr, newest.due_at) if newest.due_at else []
            self._seen.pop(persistence_id, None)
            pieces.append([*entries, (self._requests.subjects.record(persistence_id), body, headers)])
            sent.append((place, known))
        outdated: list[int] = []
        for (place, known), piece, answers in zip(
            sent, pieces, await self._publisher.publish_each(pieces), strict=True
        ):
            newest = groups[place][-1]
            if isinstance(answers, SagalogError):
                results[place] = answers
                continue
            answer = answers[-1]
            if isinstance(answer, Rejected):
                if answer.code not in WRONG_LAST:
                    results[place] = self._requests.refused(answer)
                    continue
                results[place] = SequenceOutOfOrder((newest.persistence_id,))
                if not look and known.nr:  # its place in the stream may be another, and its number still the same
                    outdated.append(place)
                continue
            if any(isinstance(one, Rejected) for one in answers[:-1]):
                results[place] = await self._add_entry(newest.persistence_id, piece[:-1])
            if results[place] is None:
                self._remember(newest.persistence_id, known._replace(nr=newest.sequence_nr, sequence=answer["seq"]))
        if outdated:
            again = await self.write([groups[place] for place in outdated], look=True)
            for place, result in zip(outdated, again, strict=True):
                results[place] = result
        return results

    async def _known(self, groups: Sequence[list[PersistentRepr]], *, look: bool) -> list[_Newest | SagalogError]:
        """Return what is stored of each id, as far as it is not known already that its next number can be."""
        found: list[_Newest | SagalogError] = []
        missing: list[int] = []
        for place, records in enumerate(groups):
            before = records[0].sequence_nr - 1
            # Before the first there is nothing to look for: the subject has no message, or the server says so.
            known = self._seen.get(records[0].persistence_id, _UNKNOWN) if before else _NOTHING
            found.append(known)
            if before and (look or known.nr != before):
                missing.append(place)

        async def last(place: int) -> None:
            persistence_id = groups[place][0].persistence_id
            try:
                found[place] = self.note(persistence_id, await self._requests.last(persistence_id))
            except SagalogError as error:
                found[place] = error

        await gather_bounded(last, missing, MAX_AT_ONCE)
        return found

    async def _add_entry(self, persistence_id: str, entries: Sequence[Message]) -> OutcomeUnknownError | None:
        """Store the entry of a record that is stored without it: nobody may be told so before both are there."""
        try:
            answers = await self._publisher.publish(*entries)
        except SagalogError as error:
            return OutcomeUnknownError(f"{persistence_id}: the record is stored, but not its due time: {error}")
        for answer in answers:
            if isinstance(answer, Rejected):
                return OutcomeUnknownError(
                    f"{persistence_id}: the record is stored, but not its due time: {answer.description}"
                )
        return None

    def note(self, persistence_id: str, stored: Stored | None) -> _Newest:
        """Remember what was read as the newest of an id."""
        if stored is None:
            self._seen.pop(persistence_id, None)
            return _NOTHING
        head = stored.head
        return self._remember(persistence_id, _Newest(head.nr, stored.sequence, head.hidden_to, head.epoch))

    def _remember(self, persistence_id: str, known: _Newest) -> _Newest:
        self._seen[persistence_id] = known
        self._seen.move_to_end(persistence_id)
        if len(self._seen) > _MAX_KNOWN_IDS:
            self._seen.popitem(last=False)
        return known

    async def hide(self, persistence_id: str, to_sequence_nr: int) -> None:
        """Hide the records of an id up to a number, and remove what is not needed any more."""
        attempts = Attempts(Waiting(attempts=100, first=0.005, most=0.1))
        while True:
            stored = await self._requests.last(persistence_id)
            if stored is None or stored.head.hidden_to >= min(to_sequence_nr, stored.head.nr):
                return
            # The newest message again, saying what is hidden; it carries the highest number on.
            head = msgspec.structs.replace(stored.head, hidden_to=min(to_sequence_nr, stored.head.nr))
            hides_all = head.hidden_to == head.nr
            if hides_all:
                head = msgspec.structs.replace(head, due_at=None, count=1)
            headers = {HEADER: header_of(head), EXPECTED: str(stored.sequence), EXPECTED_STREAM: self._requests.stream}
            subject = self._requests.subjects.record(persistence_id)
            self._seen.pop(persistence_id, None)
            (answer,) = await self._publisher.publish((subject, b"" if hides_all else stored.data, headers))
            if not isinstance(answer, Rejected):
                break
            if answer.code not in WRONG_LAST:
                raise self._requests.refused(answer)
            if not await attempts.wait():
                raise JournalUnavailableError(
                    f"{persistence_id!r} is being written by others all the time; nothing was deleted"
                )
        # What is hidden may go; what is not, and the newest, stays.
        place = 1
        gone = 0
        while (one := await self._requests.following(persistence_id, place)) is not None:
            if one.sequence >= answer["seq"] or one.head.nr > head.hidden_to:
                break
            gone, place = one.sequence, one.sequence + 1
        if gone:
            await self._requests.purge(subject, gone)

    async def purge(self, tombstones: Sequence[tuple[str, int]]) -> None:
        """Remove all messages of ids whose newest record still is that tombstone."""

        async def forget(one: tuple[str, int]) -> None:
            persistence_id, sequence_nr = one
            stored = await self._requests.last(persistence_id)
            if stored is not None and stored.head.deleted and stored.head.nr == sequence_nr and not stored.empty:
                self._seen.pop(persistence_id, None)
                # A record written meanwhile has a later place in the stream, and stays.
                await self._requests.purge(self._requests.subjects.record(persistence_id), stored.sequence)

        await gather_bounded(forget, tombstones, PURGES_AT_ONCE)
