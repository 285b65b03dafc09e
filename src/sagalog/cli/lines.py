"""Events as JSON Lines: from a file, a gzip file or standard input; each line is one event, or an error with its number."""

from __future__ import annotations

import asyncio
import codecs
import gzip
import os
import sys
import zlib
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import click
import msgspec

from ..definition.codec import NOT_JSON, Typed
from ..definition.schema import schema_of
from ..errors import InvalidEventError, SagalogError
from ..runner import Incoming, SagaRunner
from ..runner.given import event_registry
from ..runner.inside import reader_of
from ..runner.runner import Reader


class LineError(SagalogError):
    """A line that is not an event. Nothing of it was stored."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(number, why)
        self.number = number
        self.why = why

    def __str__(self) -> str:
        return f"line {self.number}: {self.why}"


class Lines:
    """The lines of a source, and how much of it has been read.

    Reading never holds up the event loop while standard input has nothing to give: timers fire, commands leave and
    signals are heard meanwhile.
    """

    def __init__(self, source: str, event_bytes: int) -> None:
        self._limit = _MOST_ESCAPED * event_bytes + _AROUND_BYTES
        self.from_stdin: bool = source == "-"
        self.size: int | None = None
        self._raw: IO[bytes] | None = None
        self._ended = False
        self._readable: asyncio.Future[None] | None = None
        if self.from_stdin:
            return
        path = Path(source)
        try:
            self._raw = path.open("rb")
        except OSError as error:
            raise click.BadParameter(f"{source} cannot be read: {error.strerror}") from error
        self.size = path.stat().st_size
        zipped = self._raw.read(2) == b"\x1f\x8b"
        self._raw.seek(0)
        self._stream: IO[bytes] | gzip.GzipFile = gzip.GzipFile(fileobj=self._raw) if zipped else self._raw

    @property
    def share(self) -> float | None:
        """How much of the file has been read, 0 to 1; None for standard input."""
        return self._raw.tell() / self.size if self._raw is not None and self.size else None

    def end(self) -> None:
        """Give no more lines."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._readable is not None and not self._readable.done():
            self._readable.set_result(None)

    async def __aiter__(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yield (number, line) of the lines that are not empty; one over the limit is cut behind it."""
        number, rest, cut = 0, b"", False
        try:
            async for chunk in self._chunks():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if cut:  # the end of a line that was too long
                        cut = False
                        continue
                    number += 1
                    if line.strip():
                        yield number, self._plain(number, line)
                if len(rest) > self._limit + 1:
                    if not cut:
                        number += 1
                        yield number, self._plain(number, rest)
                    rest, cut = b"", True
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise LineError(number + 1, f"the gzip file is damaged or cut off from here ({error})") from error
        if rest.strip() and not cut and not self._ended:
            yield number + 1, self._plain(number + 1, rest)

    def _plain(self, number: int, line: bytes) -> bytes:
        """Return a line without the mark of UTF-8 that some programs write first, and cut behind the limit."""
        return (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line)[: self._limit + 2]

    def check(self, number: int, line: bytes) -> None:
        """Raise LineError for a line that was cut."""
        if len(line) > self._limit + 1:
            raise LineError(
                number,
                f"it is longer than {self._limit:,} bytes; no event within the runner's max_payload_bytes takes so many",
            )

    async def _chunks(self) -> AsyncIterator[bytes]:
        while not self._ended:
            chunk = await self._from_stdin() if self.from_stdin else self._stream.read(_CHUNK)
            if not chunk:
                return
            yield chunk

    async def _from_stdin(self) -> bytes:
        loop, stdin = asyncio.get_running_loop(), sys.stdin.fileno()
        readable = self._readable = loop.create_future()
        try:
            loop.add_reader(stdin, self._wake)
        except PermissionError:  # a file: it is always readable
            return os.read(stdin, _CHUNK)
        try:
            await readable
        finally:
            loop.remove_reader(stdin)
        return b"" if self._ended else os.read(stdin, _CHUNK)

    def close(self) -> None:
        """Close the file; standard input stays open."""
        if self._raw is not None:
            self._stream.close()
            self._raw.close()


_CHUNK = 1 << 18
_MOST_ESCAPED = 6  # bytes of a line for one of its event, where each letter is written by its number
_AROUND_BYTES = 1 << 16  # of a line beside its event
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class _EventLine(msgspec.Struct):
    type: str
    data: msgspec.Raw
    id: str | None = None
    at: datetime | None = None
    version: int | None = None  # None is 1, as in stored data: a line means the same to whatever code reads it


_decode_line = msgspec.json.Decoder(_EventLine).decode


def reader(runner: SagaRunner, lines: Lines) -> Callable[[int, bytes], Incoming | None]:
    """Return what turns a line into an event: the runner's own `reads`, or {"type", "id", "at", "version", "data"}.

    Raises DefinitionError if two sagas have different event types of one name.
    """
    own = reader_of(runner)
    return _own(own) if own is not None else _default(runner, lines)


def _own(read: Reader) -> Callable[[int, bytes], Incoming | None]:
    def parse(number: int, line: bytes) -> Incoming | None:
        try:
            document = _decode(line)
        except NOT_JSON as error:
            raise LineError(number, f"it is not a JSON object ({_why(error)})") from None
        try:
            return read(document)
        except InvalidEventError as error:
            raise LineError(number, str(error)) from error
        except Exception as error:
            what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else type(error).__name__
            raise LineError(number, f"the runner's reader cannot read it ({what})") from error

    return parse


def _default(runner: SagaRunner, lines: Lines) -> Callable[[int, bytes], Incoming | None]:
    registry = event_registry(runner.sagas)

    def parse(number: int, line: bytes) -> Incoming:
        try:
            fields = _decode_line(line)
        except NOT_JSON as error:
            raise LineError(
                number, f'it is not {{"type": ..., "id": ..., "data": {{...}}}} as JSON ({_why(error)})'
            ) from None
        cls = registry.get(fields.type)
        if cls is None:
            raise LineError(number, f"no saga handles {fields.type!r}; known: {', '.join(registry.names())}")
        if fields.id is None and lines.from_stdin:
            raise LineError(
                number, 'it has no "id"; on standard input each event needs one, or a second run would repeat it'
            )
        try:
            event: object = registry.unpack(Typed(fields.type, fields.data, fields.version or 1))
        except SagalogError as error:
            unsaid = fields.version is None and schema_of(cls).version > 1
            hint = ' (a line without "version" is of version 1)' if unsaid else ""
            raise LineError(number, f"{error}{hint}") from error
        return Incoming(event, f"line-{number}" if fields.id is None else fields.id, fields.at)

    return parse


def _why(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    return str(error).partition(" - at `$`")[0] if isinstance(error, msgspec.DecodeError) else "not UTF-8"
