"""Everything that decodes what it has not written itself: whatever the bytes, only Sagalog's own errors come out.

A target takes bytes, and raises only if something is wrong with the code. `make fuzz` feeds them by coverage, the tests
with a small corpus and random changes of it.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import click
import msgspec

from sagalog import (
    CodecError,
    DefinitionError,
    JournalError,
    PersistentRepr,
    SagaRunner,
    SqliteJournal,
    open_journal,
    schema,
    upcast,
)
from sagalog.cli.history import _lines as history_lines
from sagalog.cli.lines import LineError, Lines, reader
from sagalog.cli.show import _lines
from sagalog.decision.draft import Draft
from sagalog.decision.message import unhold
from sagalog.decision.record import decode_record, encode_record
from sagalog.decision.state import UnreadableStateError, decode_state
from sagalog.decision.timers import due_timer
from sagalog.definition.codec import Typed, TypeRegistry, decode
from sagalog.errors import JournalFormatError
from sagalog.journal.backends import _BACKENDS
from sagalog.journal.memory import InMemoryJournal
from sagalog.journal.nats.messages import Stored, head_of, header_in
from sagalog.journal.nats.subjects import Subjects, token, untoken
from sagalog.journal.settings import check_history
from sagalog.operating.family import Family
from sagalog.operating.inspect import view_of
from sagalog.operating.outbox import Pending
from sagalog.operating.steps import steps

from ..orders import OrderSaga

Target = Callable[[bytes], None]
NOW = datetime(2030, 1, 1, tzinfo=UTC)
SAGA, REGISTRY = OrderSaga(), OrderSaga.registry()
TARGETS: dict[str, Target] = {}


def target(function: Target) -> Target:
    TARGETS[function.__name__] = function
    return function


async def _show(message: PersistentRepr) -> None:
    journal = InMemoryJournal()
    await journal.write_messages([message])
    async for step in steps(journal, "order", "a"):
        for text in history_lines(step, ""):
            assert text.isprintable()


@target
def record(data: bytes) -> None:
    """A stored record, and all that is decoded out of it; also as it is shown."""
    stored = PersistentRepr("saga::order::a", 1, data)
    view = view_of(stored)
    asyncio.run(_show(stored))
    try:
        found = decode_record(data)
    except CodecError:
        assert view.status in ("unreadable", "finished")
        return
    waiting = [Pending(command, NOW, exact=True) for command in found.outbox]
    assert all(text.replace("\n", "").isprintable() for text in _lines(view, found, waiting, Family(), NOW))
    again = encode_record(found)
    assert encode_record(decode_record(again)) == again
    with suppress(UnreadableStateError):
        decode_state(SAGA, found)
    draft = Draft(SAGA, REGISTRY, "saga::order::a", found, 1, NOW, timedelta(1))
    with suppress(CodecError):
        due_timer(draft, datetime.max.replace(tzinfo=UTC))
    for stored in (*(c.command for c in found.outbox), *(u.command for u in found.undo)):
        with suppress(CodecError):
            REGISTRY.unpack(stored)
    for held in found.held:
        with suppress(CodecError):
            unhold(held, REGISTRY)


@schema(version=2)
@dataclass
class Wide:
    """One field of each kind that a message may have."""

    text: str = ""
    number: int = 0
    ratio: float = 0.0
    amount: Decimal = Decimal(0)
    at: datetime | None = None
    day: date | None = None
    key: UUID | None = None
    wait: timedelta | None = None
    raw: bytes = b""
    many: dict[str, list[int]] = field(default_factory=dict)


@upcast(Wide, from_version=1)
def _(document: Any) -> Any:
    document["number"] = int(document.pop("count"))
    return document


_WIDE = TypeRegistry()
_WIDE.add(Wide)
_typed = msgspec.json.Decoder(Typed)


@target
def codec(data: bytes) -> None:
    """A value of a known type, and a stored value of any version."""
    with suppress(CodecError):
        decode(data, Wide)
    try:
        stored = _typed.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    with suppress(CodecError):
        value = _WIDE.unpack(stored)
        if value == value:  # no NaN in it
            assert _WIDE.unpack(_WIDE.pack(value)) == value


class _NoFile(SqliteJournal):
    """What a URL says, without the file."""

    def __init__(
        self, path: str | Path, *, history: str | int = "all", busy_timeout: timedelta = timedelta(seconds=5)
    ) -> None:
        check_history(history)


@target
def url(data: bytes) -> None:
    """The URL of a journal; nothing is opened or connected to."""
    text = data.decode(errors="replace")
    scheme, separator, rest = text.partition("://")
    with suppress(DefinitionError, JournalError):
        if scheme == "sqlite" and separator:
            _NoFile.from_url(rest)
        elif scheme in _BACKENDS and separator:
            open_journal(text)


_FOLDER = Path(tempfile.mkdtemp(prefix="sagalog-fuzz-"))
_RUNNER = SagaRunner("memory://", sagas=[OrderSaga])


@target
def lines(data: bytes) -> None:
    """A file of events, perhaps a gzip one."""
    path = _FOLDER / f"events-{os.getpid()}"
    path.write_bytes(data)
    source = Lines(str(path), 4096)
    try:
        asyncio.run(_parse(source))
    except (LineError, click.ClickException):
        return
    finally:
        source.close()


async def _parse(source: Lines) -> None:
    parse = reader(_RUNNER, source)
    async for number, line in source:
        with suppress(LineError):
            parse(number, line)


@target
def nats(data: bytes) -> None:
    """A message of the stream: subject, headers and body, cut at empty lines."""
    subject, _, rest = data.partition(b"\n\n")
    headers, _, body = rest.partition(b"\n\n")
    persistence_id = Subjects.id_of(subject.decode(errors="replace"))
    assert untoken(token(persistence_id)) == persistence_id
    assert Subjects.id_of(Subjects("s").record(persistence_id)) == persistence_id
    header = header_in(headers.replace(b"\n", b"\r\n"))
    entry = Subjects("s").due_entry(subject.decode(errors="replace"))
    assert entry is None or entry.due_at.tzinfo is not None
    with suppress(JournalFormatError):
        Stored(1, persistence_id, head_of(header, "subject"), body).records()


def _valid_file() -> bytes:
    path = _FOLDER / f"valid-{os.getpid()}.db"

    async def fill() -> None:
        async with SqliteJournal(path) as journal:
            await journal.write_messages(
                [PersistentRepr(f"p{n}", 1, b"{}" * 40, "m", "w", n == 2, ("red",), NOW) for n in range(3)]
            )
            await journal.write_messages([PersistentRepr("p1", 2, b"second")])

    asyncio.run(fill())
    return path.read_bytes()


_file: list[bytes] = []


@target
def sqlite(data: bytes) -> None:
    """A journal's file in which bytes are changed: three bytes of a place, one of what stands there. Or any file."""
    _file[:] = _file or [_valid_file()]
    path = _FOLDER / f"changed-{os.getpid()}.db"
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    if data[:1] == b"=":
        path.write_bytes(data[1:])
    else:
        changed = bytearray(_file[0])
        for start in range(0, min(len(data) - 3, 64), 4):
            changed[int.from_bytes(data[start : start + 3], "big") % len(changed)] = data[start + 3]
        path.write_bytes(changed)
    before = path.read_bytes()
    try:
        journal = SqliteJournal(path, busy_timeout=timedelta(0))
    except JournalFormatError:
        assert path.read_bytes() == before  # a strange file is not touched
        return
    except JournalError:
        return
    asyncio.run(_read_all(journal))


async def _read_all(journal: SqliteJournal) -> None:
    async def tagged() -> None:
        async for _ in journal.events_by_tag("red"):
            pass

    async def replayed() -> None:
        async for _ in journal.replay_messages("p1"):
            pass

    async with journal:
        for call in (
            journal.ids_by_prefix(""),
            journal.due_ids("", NOW),
            journal.highest_sequence_nr("p1"),
            journal.latest_message("p1"),
            replayed(),
            tagged(),
        ):
            with suppress(JournalError):
                await call


def seeds() -> dict[str, list[bytes]]:
    """Return something valid for each target: what the corpus begins with."""
    typed = {"type": "Wide", "version": 1, "data": {"count": 3, "amount": "1.5", "key": str(UUID(int=7))}}
    event = {"type": "Placed", "id": "m", "at": "2030-01-01T00:00:00Z", "data": {"order_id": "a"}}
    text = "\n".join(json.dumps({**event, "id": f"m{n}"}) for n in range(3)).encode()
    head = b'{"nr":2,"count":1,"tags":["red"],"due_at":"2030-01-01T00:00:00Z"}'
    packed = msgspec.msgpack.encode([PersistentRepr("p", 1, b"x"), PersistentRepr("p", 2, b"y")])
    return {
        "codec": [json.dumps(typed).encode(), json.dumps(typed["data"]).encode()],
        "url": [
            b"sqlite:///orders.db?history=10&busy_seconds=2.5",
            b"postgresql://user:password@[::1]:5432/shop?schema=sagalog&migrate=true&pooler=no&sslmode=require",
            b"nats://user:password@one:4222,two?stream=shop&replicas=3&history=all&timeout_seconds=1",
            b"memory://",
        ],
        "lines": [text, gzip.compress(text, mtime=0)],
        "nats": [
            b"s.record.3.saga::order.saga::order::a%2E1\n\nNATS/1.0\nSagalog: " + head + b"\n\nbody",
            b"s.record.3.-.p\n\nNATS/1.0\nSagalog: " + head.replace(b'"count":1', b'"count":2') + b"\n\n" + packed,
            b's.due.1.8.9.-.p\n\nSagalog: {"nr":2,"due_at":"2030-01-01T00:00:00Z"}\n\n',
        ],
        "sqlite": [b"\x00\x00\x10\x00", b"\x00\x00\x64\xff\x00\x10\x00\x0a", b"=SQLite format 3\x00" + bytes(84)],
    }
