"""The journal in NATS JetStream: one message for each step, compare-and-set by the sequence of its subject."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any, NamedTuple, Self

import msgspec

from ...errors import (
    DefinitionError,
    InvalidEventError,
    JournalFormatError,
    JournalUnavailableError,
    OutcomeUnknownError,
    SagalogError,
    SequenceOutOfOrder,
)
from ...logs import about, log
from ...waiting import Attempts, Waiting
from ..opening import told_if_slow
from ..protocol import (
    MAX_SEQUENCE_NR,
    Finding,
    MovedDue,
    PersistentRepr,
    check_id,
    check_moment,
    check_moves,
    checked,
    checked_batch,
    in_sequence,
    out_of_order,
)
from ..settings import Known, check_history, history_setting, only_known, split_settings, yes
from ..urls import split_server_url
from .bounded import gather_bounded
from .connection import MAX_AT_ONCE, WRONG_LAST, Connection, Message, Rejected, header
from .due import PURGES_AT_ONCE, DueEntries
from .login import Files, Login
from .messages import EXPECTED, EXPECTED_STREAM, HEADER, Stored, head_of, header_of, message_of
from .subjects import SHARDS, shard

FORMAT = "1"
_MAX_SECONDS = 86_400
_KNOWN_IDS = 65_536
_FEW_SUBJECTS = 20_000  # so many are listed in one go
_SETTINGS: Known = {
    "stream": str,
    "replicas": int,
    "history": history_setting,
    "migrate": yes,
    "connect_seconds": float,
    "timeout_seconds": float,
    "credentials": str,
    "nkey": str,
    "tls": yes,
    "tls_ca": str,
    "tls_cert": str,
    "tls_key": str,
}


class _Known(NamedTuple):
    """The newest message of an id: its record number, its place in the stream, what it hides, and its epoch."""

    nr: int
    sequence: int
    hidden_to: int
    epoch: int


_NOTHING = _Known(0, 0, 0, 0)
_UNKNOWN = _Known(-1, 0, 0, 0)


class NatsJournal:
    """A journal in a JetStream stream, for any number of workers on any number of machines.

    `stream`: its name; `migrate`: make it at open. `replicas` and `history` ("all", or how many messages of an id are
    kept before the newest) are settings of the stream, used when it is made. `connect_seconds`: how long to try to
    connect before a call fails. `timeout_seconds`: after that a publish without an acknowledgement is an unknown outcome.
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
        connect_seconds: float = 10.0,
        timeout_seconds: float = 5.0,
        credentials: str | None = None,
        nkey: str | None = None,
        tls: bool = False,
        tls_ca: str | None = None,
        tls_cert: str | None = None,
        tls_key: str | None = None,
    ) -> None:
        keep = check_history(history)
        if type(replicas) is not int or not 1 <= replicas <= 5:
            raise DefinitionError(f"replicas are 1 to 5, not {replicas!r}")
        for name, flag in (("migrate", migrate), ("tls", tls)):
            if not isinstance(flag, bool):
                raise DefinitionError(f"{name} is true or false, not {flag!r}")
        for name, seconds in (("connect_seconds", connect_seconds), ("timeout_seconds", timeout_seconds)):
            number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
            if not number or not 0 < seconds <= _MAX_SECONDS:
                raise DefinitionError(f"{name} is a number of seconds over 0, up to {_MAX_SECONDS:,}, not {seconds!r}")
        if (
            not isinstance(stream, str)
            or not stream
            or not stream.replace("_", "").replace("-", "").isalnum()
            or not stream.isascii()
        ):
            raise DefinitionError(f"a stream's name is letters, digits, '_' and '-', not {stream!r}")
        self.stream = stream
        self._migrate = migrate
        self._config: dict[str, Any] = {
            "name": stream,
            "retention": "limits",
            "storage": "file",
            "discard": "new",
            "max_msgs_per_subject": -1 if keep is None else keep + 1,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_age": 0,
            "max_consumers": -1,
            "num_replicas": replicas,
            "duplicate_window": 120_000_000_000,
            "allow_direct": False,  # a follower that is behind must not answer
            "metadata": {"sagalog": FORMAT},
        }
        login = Login(url, Files(credentials, nkey, tls, tls_ca, tls_cert, tls_key))
        self._connection = Connection(login, stream, connect_seconds=connect_seconds, timeout_seconds=timeout_seconds)
        self._config["subjects"] = self._connection.subjects.all
        self._due = DueEntries(self._connection)
        self._ready = False
        self._opening = asyncio.Lock()
        # The newest message of ids seen lately.
        self._seen: OrderedDict[str, _Known] = OrderedDict()

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
            made = await journal._make()
        finally:
            await journal.close()
        where = journal._connection.where
        return f"{where}, stream {journal.stream}: {'made' if made else 'there already'}"

    # Its life.

    async def open(self) -> None:
        """Connect, and check the server and the stream (or make it, if that was asked for)."""
        if self._ready:
            await self._connection.client()
            return
        async with self._opening:
            if not self._ready:
                with told_if_slow(self._connection.where):
                    if self._migrate:
                        await self._make()
                    await self._check()
                self._ready = True

    async def _make(self) -> bool:
        try:
            await self._connection.ask(f"STREAM.INFO.{self.stream}")
        except Rejected as error:
            if not isinstance(self._connection.refused(error), JournalFormatError):
                raise self._connection.refused(error) from None
            try:
                await self._connection.ask(f"STREAM.CREATE.{self.stream}", **self._config)
            except Rejected as failed:
                raise self._not_made(failed) from None
            await self._check()
            return True
        await self._check()
        return False

    def _not_made(self, error: Rejected) -> JournalUnavailableError:
        return JournalUnavailableError(
            f"{self._connection.where}: the stream {self.stream!r} cannot be made: {error.description} ({error.code}). "
            "Are there as many servers as replicas, and is no other stream on its subjects?"
        )

    async def _check(self) -> None:
        """Refuse a stream that is not ours, or a server that did not do what it was asked for."""
        config = (await self._connection.info())["config"]
        where = f"{self._connection.where}, stream {self.stream!r}"
        version = config.get("metadata", {}).get("sagalog")
        if version is None:
            raise JournalFormatError(f"{where} belongs to another program; it was not touched. Choose another name.")
        if version != FORMAT:
            raise JournalFormatError(f"{where} has format {version}, this code knows {FORMAT}: upgrade sagalog")
        for name in ("subjects", "retention", "storage", "discard", "duplicate_window"):
            if config.get(name) != self._config[name]:
                raise JournalFormatError(
                    f"{where} has {name} {config.get(name)!r}, and {self._config[name]!r} is needed: the server ignored "
                    "it, or somebody changed it"
                )
        if config.get("max_age"):
            raise JournalFormatError(f"{where} has max_age, which deletes sagas that wait: remove it")
        if config.get("num_replicas", 1) == 1:
            log.warning(
                "%s has one replica: acknowledged steps survive a power failure only if the server runs with "
                "sync_interval: always",
                where,
                extra=about(),
            )

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

    async def server_time(self) -> datetime:
        """Return the clock of the stream's leader: what all workers can agree on."""
        await self.open()
        return await self._connection.server_time()

    async def examine(self) -> list[Finding]:
        await self.open()
        info = await self._connection.info()
        replicas = info["config"].get("num_replicas", 1)
        version = (await self._connection.client()).connected_server_version
        where = f"nats-server {version}, stream {self.stream}"
        schema = Finding("schema", "ok", f"format {FORMAT}, as this code has it")
        behind = [one["name"] for one in info.get("cluster", {}).get("replicas", []) if not one.get("current")]
        if replicas == 1:
            text = f"{where}: one replica; a step survives a power failure only with sync_interval: always"
            return [Finding("durable", "warn", text, "run three servers and ?replicas=3, or set sync_interval"), schema]
        if behind:
            text = f"{where}: of {replicas} replicas, {', '.join(behind)} is behind or away"
            return [Finding("durable", "warn", text, "bring that server back before another one fails"), schema]
        return [Finding("durable", "ok", f"{where}, {replicas} replicas, all there"), schema]

    # Writing.

    async def write_messages(self, messages: Sequence[PersistentRepr], *, atomic: bool = False) -> None:
        await self.open()
        records, losers = in_sequence([checked(message) for message in messages])
        by_id: dict[str, list[PersistentRepr]] = {}
        for record in records:
            by_id.setdefault(record.persistence_id, []).append(record)
        if atomic and len(by_id) + len(losers) > 1:
            raise DefinitionError("a NATS journal cannot write several ids all or nothing; nothing was stored")
        results = await self._write(list(by_id.values()))
        lost = set(losers)
        failed: list[SagalogError] = []
        for persistence_id, result in zip(by_id, results, strict=True):
            if isinstance(result, SequenceOutOfOrder):
                lost.add(persistence_id)
            elif result is not None:
                failed.append(result)
        if failed:
            if len(failed) < len(results) and not isinstance(failed[0], OutcomeUnknownError):
                raise OutcomeUnknownError(f"of several ids some may be stored, and one is not: {failed[0]}")
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
        for place, result in zip(places, await self._write(groups), strict=True):
            results[place] = result
        return results

    async def _write(self, groups: Sequence[list[PersistentRepr]], *, look: bool = False) -> list[SagalogError | None]:
        """Write the records of each id as one message, all in a pipeline; with `look` without trust in the cache."""
        results: list[SagalogError | None] = [None] * len(groups)
        pieces: list[list[Message]] = []
        sent: list[tuple[int, _Known]] = []
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
            headers = {HEADER: head, EXPECTED: str(known.sequence), EXPECTED_STREAM: self.stream}
            newest = records[-1]
            entries = self._due.messages(persistence_id, newest.sequence_nr, newest.due_at) if newest.due_at else []
            self._seen.pop(persistence_id, None)
            pieces.append([*entries, (self._connection.subjects.record(persistence_id), body, headers)])
            sent.append((place, known))
        outdated: list[int] = []
        for (place, known), piece, answers in zip(
            sent, pieces, await self._connection.publish_each(pieces), strict=True
        ):
            newest = groups[place][-1]
            if isinstance(answers, SagalogError):
                results[place] = answers
                continue
            answer = answers[-1]
            if isinstance(answer, Rejected):
                if answer.code not in WRONG_LAST:
                    results[place] = self._connection.refused(answer)
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
            again = await self._write([groups[place] for place in outdated], look=True)
            for place, result in zip(outdated, again, strict=True):
                results[place] = result
        return results

    async def _known(self, groups: Sequence[list[PersistentRepr]], *, look: bool) -> list[_Known | SagalogError]:
        """Return what is stored of each id, as far as it is not known already that its next number can be."""
        found: list[_Known | SagalogError] = []
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
                found[place] = self._note(persistence_id, await self._connection.last(persistence_id))
            except SagalogError as error:
                found[place] = error

        await gather_bounded(last, missing, MAX_AT_ONCE)
        return found

    async def _add_entry(self, persistence_id: str, entries: Sequence[Message]) -> OutcomeUnknownError | None:
        """Store the entry of a record that is stored without it: nobody may be told so before both are there."""
        try:
            answers = await self._connection.publish(*entries)
        except SagalogError as error:
            return OutcomeUnknownError(f"{persistence_id}: stored, but not when it is due: {error}")
        for answer in answers:
            if isinstance(answer, Rejected):
                return OutcomeUnknownError(f"{persistence_id}: stored, but not when it is due: {answer.description}")
        return None

    def _note(self, persistence_id: str, stored: Stored | None) -> _Known:
        if stored is None:
            self._seen.pop(persistence_id, None)
            return _NOTHING
        head = stored.head
        return self._remember(persistence_id, _Known(head.nr, stored.sequence, head.hidden_to, head.epoch))

    def _remember(self, persistence_id: str, known: _Known) -> _Known:
        self._seen[persistence_id] = known
        self._seen.move_to_end(persistence_id)
        if len(self._seen) > _KNOWN_IDS:
            self._seen.popitem(last=False)
        return known

    async def delete_messages_to(self, persistence_id: str, to_sequence_nr: int) -> None:
        await self.open()
        attempts = Attempts(Waiting(attempts=100, first=0.005, most=0.1))
        while True:
            stored = await self._connection.last(persistence_id)
            if stored is None or stored.head.hidden_to >= min(to_sequence_nr, stored.head.nr):
                return
            # The newest message again, saying what is hidden; it carries the highest number on.
            head = msgspec.structs.replace(stored.head, hidden_to=min(to_sequence_nr, stored.head.nr))
            hides_all = head.hidden_to == head.nr
            if hides_all:
                head = msgspec.structs.replace(head, due_at=None, count=1)
            headers = {HEADER: header_of(head), EXPECTED: str(stored.sequence), EXPECTED_STREAM: self.stream}
            subject = self._connection.subjects.record(persistence_id)
            self._seen.pop(persistence_id, None)
            (answer,) = await self._connection.publish((subject, b"" if hides_all else stored.data, headers))
            if not isinstance(answer, Rejected):
                break
            if answer.code not in WRONG_LAST:
                raise self._connection.refused(answer)
            if not await attempts.wait():
                raise JournalUnavailableError(
                    f"{persistence_id!r} is written by others all the time; nothing was deleted"
                )
        # What is hidden may go; what is not, and the newest, stays.
        place = 1
        gone = 0
        while (one := await self._connection.following(persistence_id, place)) is not None:
            if one.sequence >= answer["seq"] or one.head.nr > head.hidden_to:
                break
            gone, place = one.sequence, one.sequence + 1
        if gone:
            await self._connection.purge(subject, gone)

    async def move_due(self, moves: Sequence[MovedDue]) -> list[bool]:
        check_moves(moves)
        await self.open()

        async def move(one: MovedDue) -> bool:
            newest = await self._connection.last(one.persistence_id)
            if newest is None or newest.empty or newest.head.nr != one.sequence_nr:
                return False
            return await self._due.move(newest, one.due_at)

        return await gather_bounded(move, moves, MAX_AT_ONCE)

    async def purge(self, tombstones: Sequence[tuple[str, int]]) -> None:
        await self.open()

        async def forget(one: tuple[str, int]) -> None:
            persistence_id, sequence_nr = one
            stored = await self._connection.last(persistence_id)
            if stored is not None and stored.head.deleted and stored.head.nr == sequence_nr and not stored.empty:
                self._seen.pop(persistence_id, None)
                # A record written meanwhile has a later place in the stream, and stays.
                await self._connection.purge(self._connection.subjects.record(persistence_id), stored.sequence)

        await gather_bounded(forget, tombstones, PURGES_AT_ONCE)

    # Reading.

    async def latest_message(self, persistence_id: str) -> PersistentRepr | None:
        check_id(persistence_id)
        await self.open()
        stored = await self._connection.last(persistence_id)
        self._note(persistence_id, stored)
        records = stored.records() if stored is not None else []
        return records[-1] if records else None

    async def latest_messages(self, persistence_ids: Sequence[str]) -> list[PersistentRepr | None]:
        return await gather_bounded(self.latest_message, persistence_ids, MAX_AT_ONCE)

    async def highest_sequence_nr(self, persistence_id: str, from_sequence_nr: int = 0) -> int:
        await self.open()
        return self._note(persistence_id, await self._connection.last(persistence_id)).nr

    async def replay_messages(
        self,
        persistence_id: str,
        from_sequence_nr: int = 1,
        to_sequence_nr: int = MAX_SEQUENCE_NR,
        max: int = MAX_SEQUENCE_NR,
    ) -> AsyncIterator[PersistentRepr]:
        await self.open()
        newest = await self._connection.last(persistence_id)
        following, place = from_sequence_nr, 1
        while newest is not None and max > 0 and following <= to_sequence_nr:
            one = await self._connection.following(persistence_id, place)
            if one is None:
                return
            place = one.sequence + 1
            for record in one.records():
                if following <= record.sequence_nr <= to_sequence_nr and max > 0:
                    if record.sequence_nr > newest.head.hidden_to:
                        yield record
                        max -= 1
                    following = record.sequence_nr + 1

    async def all_persistence_ids(self) -> AsyncIterator[str]:
        for part in await self._parts():
            for persistence_id in await self._listed(part, "", deleted=False):
                yield persistence_id

    async def ids_by_prefix(
        self, prefix: str, *, after: str = "", limit: int = 1000, deleted: bool = False
    ) -> list[str]:
        found: list[str] = []
        place = (shard(after), after) if after else (-1, "")
        for part in await self._parts():
            if part is None or part >= place[0]:
                page = await self._listed(part, prefix, deleted=deleted)
                found += [one for one in page if (shard(one), one) > place]
                if len(found) >= limit:
                    break
        return found[:limit]

    async def _parts(self) -> Sequence[int | None]:
        """Return the shards, or None for all at once where there is little to list."""
        await self.open()
        subjects = (await self._connection.info())["state"].get("num_subjects", 0)
        return [None] if subjects <= _FEW_SUBJECTS else range(SHARDS)

    async def _listed(self, part: int | None, prefix: str, *, deleted: bool) -> list[str]:
        """Return the live ids (or the tombstones) of a shard in the order of this journal: by shard, then by id."""
        found: dict[str, bool] = {}
        async for message in self._connection.read([self._connection.subjects.records(part, prefix)]):
            persistence_id = self._connection.subjects.id_of(message.subject)
            if persistence_id.startswith(prefix):
                head = head_of(header(message), message.subject)
                found[persistence_id] = head.deleted == deleted and head.hidden_to < head.nr
        return sorted((one for one, wanted in found.items() if wanted), key=lambda one: (shard(one), one))

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
        newest: int = (await self._connection.info())["state"]["last_seq"]
        return newest

    async def records_after(self, offset: int, *, limit: int = 1000) -> tuple[list[PersistentRepr], int]:
        found: list[PersistentRepr] = []
        if await self.newest_offset() > offset:
            # Without a mark: a replica that is behind gives the beginning of what is new, and the rest another time.
            records = [self._connection.subjects.records(None, "")]
            async with aclosing(self._connection.stored_after(records, offset)) as new:
                async for message in new:
                    offset = message.metadata.sequence.stream
                    persistence_id = self._connection.subjects.id_of(message.subject)
                    head = head_of(header(message), message.subject)
                    found += Stored(offset, persistence_id, head, message.data).records()
                    if len(found) >= limit:
                        break
        return found, offset

    async def events_by_tag(self, tag: str, offset: int = 0) -> AsyncIterator[tuple[int, PersistentRepr]]:
        await self.open()
        subjects = [self._connection.subjects.records(None, "")]
        async for message in self._connection.read(subjects, after=offset):
            sequence = message.metadata.sequence.stream
            persistence_id = self._connection.subjects.id_of(message.subject)
            head = head_of(header(message), message.subject)
            for record in Stored(sequence, persistence_id, head, message.data).records():
                if tag in record.tags:
                    yield sequence, record


class TlsNatsJournal(NatsJournal):
    """The same, for URLs that begin with tls://."""

    _scheme = "tls"


__all__ = ["NatsJournal", "TlsNatsJournal"]
