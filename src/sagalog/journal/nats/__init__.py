"""The journal in NATS JetStream: one message for each step, compare-and-set by the sequence of its subject.

    login, answers ─► connection ─► requests ─► publishing ─► due, writing ─► the journal
                                        └─► stream      └─► consuming ─► listing ─┘

messages.py and subjects.py say what a message looks like, refusals.py what an answer that says no means.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import Any, Self

from ...durations import seconds_of
from ...errors import DefinitionError, InvalidEventError, OutcomeUnknownError, SagalogError, SequenceOutOfOrder
from ..arguments import checks_arguments
from ..checks import check_id, check_moment, check_moves, checked, checked_batch, in_sequence, out_of_order
from ..opening import told_if_slow
from ..protocol import MAX_SEQUENCE_NR, Finding, MovedDue, PersistentRepr
from ..settings import Known, check_history, history_setting, only_known, seconds, split_settings, yes
from ..urls import split_server_url
from .bounded import gather_bounded
from .connection import MAX_AT_ONCE, Connection
from .consuming import Consumers
from .due import DueEntries
from .listing import NatsListing
from .login import Files, Login
from .publishing import Publisher
from .requests import Requests
from .stream import Stream
from .writing import NatsWriter

_LONGEST = timedelta(days=1)
_FEW = 16  # records that are passed over one by one
_SETTINGS: Known = {
    "stream": str,
    "replicas": int,
    "history": history_setting,
    "migrate": yes,
    "connect_seconds": seconds,
    "timeout_seconds": seconds,
    "credentials": str,
    "nkey": str,
    "tls": yes,
    "tls_ca": str,
    "tls_cert": str,
    "tls_key": str,
}


@checks_arguments
class NatsJournal:
    """A journal in a JetStream stream, for any number of workers on any number of machines.

    `stream`: its name; `migrate`: make it at open. `replicas` and `history` ("all", or how many messages of an id are
    kept before the newest) are settings of the stream, used when it is made. `connect_timeout`: how long to try to
    connect before a call fails. `timeout`: after that a publish without an acknowledgement is an unknown outcome.
    `credentials`, `nkey`: the file to log in with. `tls`, or a root's `tls_ca`, or a client's `tls_cert` and `tls_key`:
    the connection is encrypted.

    JetStream acknowledges before it has called fsync unless its servers run with `sync_interval: always`: with several
    replicas a crash of one loses nothing, with one replica a power failure may lose what was acknowledged.

    Not atomic over several ids. Ids are listed in an order of the journal's own.
    """

    def __init__(
        self,
        url: str,
        *,
        stream: str = "sagalog",
        replicas: int = 1,
        history: str | int = "all",
        migrate: bool = False,
        connect_timeout: timedelta = timedelta(seconds=10),
        timeout: timedelta = timedelta(seconds=5),
        credentials: str | None = None,
        nkey: str | None = None,
        tls: bool = False,
        tls_ca: str | None = None,
        tls_cert: str | None = None,
        tls_key: str | None = None,
    ) -> None:
        keep = check_history(history)
        if type(replicas) is not int or not 1 <= replicas <= 5:
            raise DefinitionError(f"replicas must be 1 to 5, not {replicas!r}")
        for name, flag in (("migrate", migrate), ("tls", tls)):
            if not isinstance(flag, bool):
                raise DefinitionError(f"{name} must be true or false, not {flag!r}")
        connect_seconds = seconds_of("connect_timeout", connect_timeout, most=_LONGEST)
        timeout_seconds = seconds_of("timeout", timeout, most=_LONGEST)
        if (
            not isinstance(stream, str)
            or not stream
            or not stream.replace("_", "").replace("-", "").isalnum()
            or not stream.isascii()
        ):
            raise DefinitionError(f"a stream's name may have letters, digits, '_' and '-', not {stream!r}")
        self.stream = stream
        self._migrate = migrate
        login = Login(url, Files(credentials, nkey, tls, tls_ca, tls_cert, tls_key))
        self._connection = Connection(login, connect_seconds=connect_seconds, timeout_seconds=timeout_seconds)
        self._requests = Requests(self._connection, stream)
        self._stream = Stream(self._connection, self._requests, replicas=replicas, keep=keep)
        self._publisher = Publisher(self._connection, self._requests)
        self._due = DueEntries(self._requests, self._publisher)
        self._writer = NatsWriter(self._requests, self._publisher, self._due)
        self._consumers = Consumers(self._connection, self._requests, self._publisher)
        self._listing = NatsListing(self._requests, self._consumers)
        self._ready = False
        self._opening = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} in {self._connection.where}, stream {self.stream}>"

    _scheme = "nats"

    @classmethod
    def from_url(cls, rest: str, **settings: Any) -> NatsJournal:
        """Open `nats://user:password@host,host2?stream=sagalog&replicas=3&migrate=true`."""
        split_server_url("nats", rest)  # before anything of it is quoted
        address, _, query = rest.partition("?")
        given, others = split_settings("nats", query, _SETTINGS)
        only_known("nats", _SETTINGS, others)
        return cls(f"{cls._scheme}://{address}", **{**given, **settings})

    @classmethod
    async def migrate(cls, rest: str) -> str:
        """Make the stream that a URL names; return what was done."""
        journal = cls.from_url(rest)
        try:
            made = await journal._stream.make()
        finally:
            await journal.close()
        where = journal._connection.where
        return f"{where}, stream {journal.stream}: {'created' if made else 'exists already'}"

    async def open(self) -> None:
        """Connect, and check the server and the stream (or make it, if that was asked for)."""
        if self._ready:
            await self._connection.client()
            return
        async with self._opening:
            if not self._ready:
                with told_if_slow(self._connection.where):
                    if self._migrate:
                        await self._stream.make()
                    await self._stream.check()
                self._ready = True

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._connection.close()

    @property
    def page_bytes(self) -> int:
        """See Journal. What the server keeps is known once the journal is open."""
        return 0 if self._stream.kept else 4096

    @property
    def kept_records(self) -> int:
        """See Journal: as the stream was made, whatever this process asks for."""
        return max(0, self._stream.kept - 1)

    async def server_time(self) -> datetime:
        """Return the clock of the stream's leader: what all workers can agree on."""
        await self.open()
        return await self._requests.server_time()

    async def examine(self) -> list[Finding]:
        await self.open()
        findings = await self._stream.examine()
        try:
            await self._consumers.touch()
        except SagalogError as error:
            findings.append(Finding("writable", "fail", f"writes are refused: {error}", "see what it says"))
        return findings

    async def write_messages(self, messages: Sequence[PersistentRepr], *, atomic: bool = False) -> None:
        await self.open()
        records, losers = in_sequence([checked(message) for message in messages])
        by_id: dict[str, list[PersistentRepr]] = {}
        for record in records:
            by_id.setdefault(record.persistence_id, []).append(record)
        if atomic and len(by_id) + len(losers) > 1:
            raise DefinitionError("a NATS journal cannot write several ids atomically; nothing was stored")
        results = await self._writer.write(list(by_id.values()))
        lost = set(losers)
        failed: list[SagalogError] = []
        for persistence_id, result in zip(by_id, results, strict=True):
            if isinstance(result, SequenceOutOfOrder):
                lost.add(persistence_id)
            elif result is not None:
                failed.append(result)
        if failed:
            if len(failed) < len(results) and not isinstance(failed[0], OutcomeUnknownError):
                raise OutcomeUnknownError(f"some of several ids may be stored, but one is not: {failed[0]}")
            raise next((one for one in failed if isinstance(one, OutcomeUnknownError)), failed[0])
        if lost:
            raise out_of_order(messages, lost)

    async def write_batch(self, records: Sequence[PersistentRepr]) -> list[SagalogError | None]:
        try:
            await self.open()
        except SagalogError as error:
            return [error] * len(records)
        results: list[SagalogError | None] = [None] * len(records)
        places: list[int] = []
        groups: list[list[PersistentRepr]] = []
        for place, record in enumerate(checked_batch(records)):
            if isinstance(record, InvalidEventError):
                results[place] = record
                continue
            if 0 < record.sequence_nr < MAX_SEQUENCE_NR:
                places.append(place)
                groups.append([record])
            else:
                results[place] = SequenceOutOfOrder((record.persistence_id,))
        for place, result in zip(places, await self._writer.write(groups), strict=True):
            results[place] = result
        return results

    async def delete_messages_to(self, persistence_id: str, to_sequence_nr: int) -> None:
        await self.open()
        await self._writer.hide(persistence_id, to_sequence_nr)

    async def move_due(self, moves: Sequence[MovedDue]) -> list[bool]:
        check_moves(moves)
        await self.open()

        async def move(one: MovedDue) -> bool:
            newest = await self._requests.last(one.persistence_id)
            if newest is None or newest.empty or newest.head.nr != one.sequence_nr:
                return False
            return await self._due.move(newest, one.due_at)

        return await gather_bounded(move, moves, MAX_AT_ONCE)

    async def purge(self, tombstones: Sequence[tuple[str, int]]) -> None:
        await self.open()
        await self._writer.purge(tombstones)

    async def latest_message(self, persistence_id: str) -> PersistentRepr | None:
        check_id(persistence_id)
        await self.open()
        stored = await self._requests.last(persistence_id)
        self._writer.note(persistence_id, stored)
        records = stored.records() if stored is not None else []
        return records[-1] if records else None

    async def latest_messages(self, persistence_ids: Sequence[str]) -> list[PersistentRepr | None]:
        return await gather_bounded(self.latest_message, persistence_ids, MAX_AT_ONCE)

    async def highest_sequence_nr(self, persistence_id: str, from_sequence_nr: int = 0) -> int:
        await self.open()
        return self._writer.note(persistence_id, await self._requests.last(persistence_id)).nr

    async def replay_messages(
        self,
        persistence_id: str,
        from_sequence_nr: int = 1,
        to_sequence_nr: int = MAX_SEQUENCE_NR,
        max: int = MAX_SEQUENCE_NR,
    ) -> AsyncIterator[PersistentRepr]:
        await self.open()
        newest = await self._requests.last(persistence_id)
        following, place = from_sequence_nr, 1
        if newest is not None and _FEW < from_sequence_nr <= to_sequence_nr:
            place = await self._place_of(persistence_id, from_sequence_nr, newest.sequence)
        while newest is not None and max > 0 and following <= to_sequence_nr:
            one = await self._requests.following(persistence_id, place)
            if one is None:
                return
            place = one.sequence + 1
            for record in one.records():
                if following <= record.sequence_nr <= to_sequence_nr and max > 0:
                    if record.sequence_nr > newest.head.hidden_to:
                        yield record
                        max -= 1
                    following = record.sequence_nr + 1

    async def _place_of(self, persistence_id: str, sequence_nr: int, last: int) -> int:
        """Return a stream sequence, `last` at most, from which on the records of an id begin with that number.

        Halves what is left with each request, because the numbers of an id grow with their places.
        """
        first = 1
        while first < last:
            middle = (first + last) // 2
            one = await self._requests.following(persistence_id, middle)
            if one is None or one.head.nr >= sequence_nr:
                last = middle
            else:
                first = one.sequence + 1
        return first

    async def all_persistence_ids(self) -> AsyncIterator[str]:
        await self.open()
        async with aclosing(self._listing.all_ids()) as ids:
            async for persistence_id in ids:
                yield persistence_id

    async def ids_by_prefix(
        self, prefix: str, *, after: str = "", limit: int = 1000, deleted: bool = False
    ) -> list[str]:
        await self.open()
        return await self._listing.ids_by_prefix(prefix, after, limit, deleted=deleted)

    async def due_ids(self, prefix: str, before: datetime, *, limit: int = 1000) -> list[tuple[str, datetime]]:
        await self.open()
        return await self._due.due(prefix, before, limit)

    async def claim_due(
        self, prefix: str, before: datetime, until: datetime, *, limit: int = 1000
    ) -> list[tuple[str, datetime]]:
        check_moment(until, "until")
        await self.open()
        return await self._due.claim(prefix, before, until, limit)

    async def newest_offset(self) -> int:
        await self.open()
        return await self._listing.newest_offset()

    async def records_after(self, offset: int, *, limit: int = 1000) -> tuple[list[PersistentRepr], int]:
        await self.open()
        return await self._listing.records_after(offset, limit)

    async def events_by_tag(self, tag: str, offset: int = 0) -> AsyncIterator[tuple[int, PersistentRepr]]:
        await self.open()
        async with aclosing(self._listing.by_tag(tag, offset)) as records:
            async for record in records:
                yield record


class TlsNatsJournal(NatsJournal):
    """The same, for URLs that begin with tls://."""

    _scheme = "tls"


__all__ = ["NatsJournal", "TlsNatsJournal"]
