"""Moving instances from one journal to another: an export as JSON lines, and an import that checks it and can go on.

The format, version 1, one JSON object a line:

    {"sagalog": "export", "version": 1, "history": "all" | "latest", "at": ...}
    {"id": persistence id, "nr": sequence number, "payload": text (or "base64"), "manifest", "writer", "deleted",
     "tags", "due_at"}                                            one for each record of an instance, in order
    {"end": persistence id, "records": how many, "sha256": of their lines}
    {"total": {"instances": ..., "records": ..., "sha256": of all those sums}}

Sequence numbers are kept, because the ids of commands derive from them. A journal takes an id only from number 1, so where
the history before is cut, the missing numbers are written as empty records and deleted again, which journals remember.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import UTC, datetime
from enum import Enum
from time import monotonic
from typing import Any

import msgspec

from ..decision.ids import FAMILY, parts_of, prefix_of
from ..decision.keys import pairs
from ..decision.pages import whole
from ..decision.record import decode_record, encode_record
from ..definition.codec import NOT_JSON
from ..errors import CodecError, SequenceOutOfOrder
from ..journal import Journal, PersistentRepr
from ..journal.pages import made_whole, named_by, page_bytes_of
from ..journal.protocol import FIRST_MOMENT, LAST_MOMENT, MAX_ID_BYTES, all_ids
from ..journal.reservations import Reservations
from ..waiting import Attempts, Waiting
from .apply import RETENTION

VERSION = 1
GAP_MANIFEST = "saga-import-gap"
_BESIDE = Waiting(attempts=20, most=0.2)
_CHUNK_RECORDS = 200
_CHUNK_BYTES = 256 * 1024  # well below what one message of any journal may hold
_MAX_LINE = 64 * 1024 * 1024  # bytes: base64 of the largest record that a journal takes, with room
_MAX_INSTANCE = 512 * 1024 * 1024  # bytes of one instance, which is checked as a whole before anything is stored
_MAX_RECORDS = 1_000_000  # of one instance
_MAX_GAP = 10_000_000  # records, of a whole file, that are missing before the first of an instance: each is written
_MAX_TEXT = 4096  # characters of a manifest, a writer, a tag
_SAGA_NAME = re.compile(r"[A-Za-z0-9_.-]+")


class Brought(Enum):
    """What became of an instance at its import."""

    IMPORTED = "imported"
    THERE = "there already"  # the same records: an import that was run before
    DIFFERS = "differs"  # something else is stored under its id; nothing of it was touched


class Totals(msgspec.Struct):
    """How much went through."""

    instances: int = 0
    records: int = 0
    sha256: str = ""


class _ExportLine(msgspec.Struct, omit_defaults=True):
    """Any line of the file; which one it is, its fields say."""

    sagalog: str = ""
    version: int = 0
    history: str = ""
    at: datetime | None = None
    id: str = ""
    nr: int = 0
    payload: str | None = None
    base64: str | None = None
    manifest: str = ""
    writer: str = ""
    deleted: bool = False
    tags: tuple[str, ...] = ()
    due_at: datetime | None = None
    end: str = ""
    records: int = 0
    sha256: str = ""
    total: Totals | None = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_ExportLine)


async def export_lines(
    journal: Journal, saga: str | None = None, *, latest: bool = False, at: datetime, totals: Totals | None = None
) -> AsyncIterator[bytes]:
    """Yield the lines of an export of one saga, or of all; `totals` is kept up to date on the way.

    Instances that move while this runs are exported as they are when it comes to them; one that ends or starts anew
    meanwhile may come twice or not at all: stop the workers for a complete one.
    """
    counted = totals if totals is not None else Totals()
    whole = hashlib.sha256()
    yield _encoder.encode(_ExportLine(sagalog="export", version=VERSION, history="latest" if latest else "all", at=at))
    prefix = FAMILY if saga is None else prefix_of(saga)
    for deleted in (False, True):
        async for persistence_id in all_ids(journal, prefix, deleted=deleted):
            checksum, records = hashlib.sha256(), 0
            async for message in _records(journal, persistence_id, latest=latest):
                encoded = _encoder.encode(_line(message))
                checksum.update(encoded + b"\n")
                records += 1
                yield encoded
            if records:
                counted.instances += 1
                counted.records += records
                whole.update(checksum.digest())
                yield _encoder.encode(_ExportLine(end=persistence_id, records=records, sha256=checksum.hexdigest()))
    counted.sha256 = whole.hexdigest()
    yield _encoder.encode(_ExportLine(total=counted))


async def _records(journal: Journal, persistence_id: str, *, latest: bool) -> AsyncIterator[PersistentRepr]:
    if latest:
        message = await journal.latest_message(persistence_id)
        if message is not None:
            yield await _in_one(journal, message)
        return
    async for message in journal.replay_messages(persistence_id):
        yield message


async def _in_one(journal: Journal, message: PersistentRepr) -> PersistentRepr:
    """Return a record with all its messages, also where they are stored in earlier ones; as it is if it cannot be read."""
    try:
        if not message.payload or not decode_record(message.payload).in_pages:
            return message
        message, record = await made_whole(journal, message)
    except CodecError:
        return message
    return msgspec.structs.replace(message, payload=encode_record(record))


def _newest(records: list[PersistentRepr], journal: Journal) -> PersistentRepr:
    """Return the newest record as it is to be stored: with all its messages, where the others are not kept."""
    newest = records[-1]
    if page_bytes_of(journal) or not newest.payload:
        return newest
    by_number = {one.sequence_nr: one for one in records}
    try:
        record = decode_record(newest.payload)
        if not record.in_pages:
            return newest
        named = {nr: decode_record(by_number[nr].payload) for nr in named_by(record) if nr in by_number}
        return msgspec.structs.replace(newest, payload=encode_record(whole(record, named)))
    except CodecError:  # it cannot be read where it comes from either
        return newest


def _line(message: PersistentRepr) -> _ExportLine:
    line = _ExportLine(
        id=message.persistence_id,
        nr=message.sequence_nr,
        manifest=message.manifest,
        writer=message.writer_uuid,
        deleted=message.deleted,
        tags=message.tags,
        due_at=message.due_at,
    )
    try:
        line.payload = message.payload.decode()
    except UnicodeDecodeError:
        line.base64 = base64.b64encode(message.payload).decode()
    return line


def read_export(lines: Iterable[bytes]) -> Iterator[list[PersistentRepr]]:
    """Yield the instances of an export, each as its records in order, once their number and checksum are right.

    Memory: one instance. Raises CodecError, which names the line, for what is not such a file, is of a newer version, is
    damaged, or ends too early; what was yielded before is right.
    """
    found = _ExportReader()
    number = 0
    for number, text in enumerate(_bounded(lines), 1):
        try:
            if len(text) > _MAX_LINE:
                raise CodecError(f"it is longer than {_MAX_LINE:,} bytes, which no record of a saga can be")
            instance = found.take(text.rstrip(b"\r\n"))
        except CodecError as error:
            raise CodecError(f"line {number:,}: {error}") from None
        if instance:
            yield instance
    if found.total is None:
        raise CodecError(f"it ends after line {number:,} without its totals: it was cut off; export it again")


def _bounded(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines; of one in a file, no more than shows that it is too long: a few megabytes may unpack to gigabytes."""
    readline = getattr(lines, "readline", None)
    if readline is None:
        yield from lines
        return
    while text := readline(_MAX_LINE + 1):
        yield text


class _ExportReader:
    def __init__(self) -> None:
        self._bytes = self._gaps = 0
        self.total: Totals | None = None
        self._begun = False
        self._records: list[PersistentRepr] = []
        self._checksum = hashlib.sha256()
        self._whole = hashlib.sha256()
        self._counted = Totals()

    def take(self, text: bytes) -> list[PersistentRepr]:
        try:
            line = _decoder.decode(text)
        except (*NOT_JSON, OverflowError):
            raise CodecError("this is not a line of an export of sagas") from None
        if not self._begun:
            self._begin(line)
        elif self.total is not None:
            raise CodecError("there is more after the totals")
        elif line.total is not None:
            self._end(line.total)
        elif line.end:
            return self._instance(line)
        else:
            self._add(line, text)
        return []

    def _begin(self, line: _ExportLine) -> None:
        if line.sagalog != "export":
            raise CodecError("this is not an export of sagas: it does not begin with its version")
        if line.version != VERSION:
            raise CodecError(f"the export has version {line.version}; this code knows {VERSION}: upgrade sagalog")
        self._begun = True

    def _add(self, line: _ExportLine, text: bytes) -> None:
        last = self._records[-1] if self._records else None
        if last is not None and (line.id, line.nr) != (last.persistence_id, last.sequence_nr + 1):
            raise CodecError("a record is missing before this one")
        if not is_saga_id(line.id) or line.nr < 1:
            raise CodecError("this is not a record of a saga")
        if last is None:
            self._gaps += line.nr - 1
            if self._gaps > _MAX_GAP:
                raise CodecError(f"the record has number {line.nr:,}: more than {_MAX_GAP:,} before are missing")
        if any(len(text) > _MAX_TEXT or not _storable(text) for text in (line.manifest, line.writer, *line.tags)):
            raise CodecError("a manifest, a writer or a tag is not one that a journal accepts")
        if len(line.tags) > 100 or not line.manifest or line.manifest == GAP_MANIFEST:
            raise CodecError("this is not a record that a saga has written")
        if _odd(line.due_at):
            raise CodecError("its due time has no time zone, or is beyond the calendar")
        self._bytes += len(text)
        if self._bytes > _MAX_INSTANCE or len(self._records) >= _MAX_RECORDS:
            raise CodecError(f"one instance has more than {_MAX_INSTANCE:,} bytes or {_MAX_RECORDS:,} records")
        try:
            payload = base64.b64decode(line.base64, validate=True) if line.base64 else (line.payload or "").encode()
        except ValueError:
            raise CodecError("a payload is not base64") from None
        self._checksum.update(text + b"\n")
        self._records.append(
            PersistentRepr(line.id, line.nr, payload, line.manifest, line.writer, line.deleted, line.tags, line.due_at)
        )

    def _instance(self, line: _ExportLine) -> list[PersistentRepr]:
        records, checksum = self._records, self._checksum
        self._records, self._checksum, self._bytes = [], hashlib.sha256(), 0
        right = records and (line.end, line.records) == (records[0].persistence_id, len(records))
        if not right or checksum.hexdigest() != line.sha256:
            raise CodecError("the records before it do not match their number and checksum: the file is damaged")
        self._counted.instances += 1
        self._counted.records += len(records)
        self._whole.update(checksum.digest())
        return records

    def _end(self, total: Totals) -> None:
        self._counted.sha256 = self._whole.hexdigest()
        if self._records or total != self._counted:
            raise CodecError("the totals do not match what came before: instances are missing")
        self.total = total


def is_saga_id(persistence_id: str) -> bool:
    """Say whether a text is the persistence id of a saga's instance: a valid name, an id that every journal takes."""
    name, correlation_id = parts_of(persistence_id)
    named = bool(_SAGA_NAME.fullmatch(name) and correlation_id)
    return named and _storable(persistence_id) and len(persistence_id.encode()) <= MAX_ID_BYTES


def _storable(text: str) -> bool:
    """Say whether a text can be encoded: a lone surrogate cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _odd(at: datetime | None) -> bool:
    """Say whether a moment is one that not every journal can carry."""
    if at is None:
        return False
    return at.utcoffset() is None or not FIRST_MOMENT <= at <= LAST_MOMENT


async def bring(journal: Journal, records: list[PersistentRepr], *, dry_run: bool = False) -> Brought:
    """Bring one instance into a journal, under the same numbers; durable on return. What is stored is never overwritten.

    Raises KeyTakenError, and nothing is stored, where another instance of that journal holds a unique key of it; so it does
    with `dry_run`, which stores nothing.
    If this process dies in between, the same call goes on where it stopped. Nothing of an instance is due before its
    newest record is there. `due_at` is kept for that one only: no other counts.

    Two that import the same file at once help each other: what the other one has stored is there.
    """
    attempts = Attempts(_BESIDE)
    while True:
        try:
            return await _bring(journal, records, dry_run=dry_run)
        except SequenceOutOfOrder:  # somebody else writes this id
            if not await attempts.wait():
                return Brought.DIFFERS


async def _bring(journal: Journal, records: list[PersistentRepr], *, dry_run: bool) -> Brought:
    persistence_id, first, last = records[0].persistence_id, records[0].sequence_nr, records[-1].sequence_nr
    wanted = {one.sequence_nr: msgspec.structs.replace(one, due_at=None) for one in records}
    wanted[last] = msgspec.structs.replace(_newest(records, journal), terms=_terms(records[-1]))
    highest = await journal.highest_sequence_nr(persistence_id)
    gap = False
    if highest:
        kept = [message async for message in journal.replay_messages(persistence_id)]
        gap = any(message.manifest == GAP_MANIFEST for message in kept)
        if highest > last or not kept or not all(_same(message, wanted.get(message.sequence_nr)) for message in kept):
            return Brought.DIFFERS
        if highest == last and not (gap and first > 1):
            return Brought.THERE
    await _reserve(journal, wanted[last], dry_run=dry_run)
    if dry_run:
        return Brought.IMPORTED
    numbers = range(highest + 1, last + 1)
    missing = (wanted[number] if number >= first else _gap(persistence_id, number) for number in numbers)
    for chunk in _chunks(missing):
        await journal.write_messages(chunk)
    if first > 1:
        await journal.delete_messages_to(persistence_id, first - 1)
    stored = await journal.latest_message(persistence_id)
    return Brought.IMPORTED if stored is not None and _same(stored, wanted[last]) else Brought.DIFFERS


async def _reserve(journal: Journal, newest: PersistentRepr, *, dry_run: bool) -> None:
    """Reserve the unique keys that an instance holds, before it is there; or only look. Raises KeyTakenError."""
    try:
        keys = [] if newest.deleted else list(pairs(decode_record(newest.payload).unique_keys))
    except CodecError:  # a worker that can read it will see
        return
    if keys:
        saga, correlation_id = parts_of(newest.persistence_id)
        reservations = Reservations(journal, saga, lambda: datetime.now(UTC), monotonic, RETENTION)
        if dry_run:
            await reservations.check(correlation_id, newest.sequence_nr, sorted(keys))
        else:
            await reservations.reserve(correlation_id, newest.sequence_nr, 0, sorted(keys))


def _gap(persistence_id: str, number: int) -> PersistentRepr:
    return PersistentRepr(persistence_id, number, b"", GAP_MANIFEST)


def _same(stored: PersistentRepr, wanted: PersistentRepr | None) -> bool:
    """Say whether a stored record is that of the file, whatever became of its `due_at` since."""
    if stored.manifest == GAP_MANIFEST:
        return wanted is None
    return wanted is not None and _without_due(stored) == _without_due(wanted)


def _without_due(message: PersistentRepr) -> Any:
    return msgspec.structs.replace(message, due_at=None, epoch=0, terms=None)  # epochs are of one journal


def _terms(message: PersistentRepr) -> tuple[str, ...]:
    """Return what an instance is to be found by, as its newest record says."""
    try:
        return decode_record(message.payload).terms(parts_of(message.persistence_id)[0])
    except CodecError:  # a worker that can read it puts it into the index with its next step
        return ()


def _chunks(messages: Iterable[PersistentRepr]) -> Iterator[list[PersistentRepr]]:
    chunk: list[PersistentRepr] = []
    size = 0
    for message in messages:
        if chunk and (len(chunk) == _CHUNK_RECORDS or size + len(message.payload) > _CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(message)
        size += len(message.payload)
    if chunk:
        yield chunk
