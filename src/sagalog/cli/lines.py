"""Lines of a source as they come: from a file, a gzip file, a pipe or standard input; each with its number.

A thread reads, so that a pipe on which nothing comes for an hour holds up neither commands, timers nor signals.
"""

from __future__ import annotations

import asyncio
import os
import stat
import threading
import zlib
from collections.abc import AsyncIterator, Iterator
from itertools import chain
from pathlib import Path

import click

from ..errors import SagalogError

_READ_BYTES = 64 * 1024
_AHEAD = 4  # reads that may wait to be taken


class LineError(SagalogError):
    """A line that is not an event. Nothing of it was stored."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(number, why)
        self.number = number
        self.why = why

    def __str__(self) -> str:
        return f"line {self.number}: {self.why}"


class SourceError(LineError):
    """From this line on the source cannot be read."""


Line = tuple[int, bytes | LineError]


class Lines:
    """The lines of a source, and how much of it has been read. `-` is standard input."""

    def __init__(self, source: str, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._closed = threading.Event()
        self._room = threading.Semaphore(_AHEAD)
        self._thread: threading.Thread | None = None
        self._read_bytes = 0
        try:
            self._descriptor = 0 if source == "-" else os.open(source, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            found = os.fstat(self._descriptor)
        except OSError as error:
            raise click.BadParameter(f"{source} cannot be read: {error.strerror}") from error
        if stat.S_ISDIR(found.st_mode):
            raise click.BadParameter(f"{source} is a directory, not a file of JSON Lines")
        # Only a file by name gives its lines the same numbers each time, so only there they can stand for ids.
        self.name = Path(source).name if source != "-" and stat.S_ISREG(found.st_mode) else None
        self._size = found.st_size if stat.S_ISREG(found.st_mode) else 0

    @property
    def share(self) -> float | None:
        """How much of the file has been read, 0 to 1; None where its size is not known."""
        return min(1.0, self._read_bytes / self._size) if self._size else None

    async def batches(self) -> AsyncIterator[list[Line]]:
        """Yield the lines that are not empty, as many at a time as came together. Iterate once, then `close`."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Queue[list[Line] | None] = asyncio.Queue()

        def work() -> None:
            try:
                for batch in self._split():
                    self._room.acquire()
                    if self._closed.is_set():
                        return
                    loop.call_soon_threadsafe(ready.put_nowait, batch)
                loop.call_soon_threadsafe(ready.put_nowait, None)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

        # Not asyncio's own threads: at exit Python waits for those, and this one may wait for a pipe.
        self._thread = threading.Thread(target=work, name="sagalog-lines", daemon=True)
        self._thread.start()
        while (batch := await ready.get()) is not None:
            self._room.release()
            yield batch

    def _split(self) -> Iterator[list[Line]]:
        number, rest, too_large = 0, b"", False
        try:
            for chunk in self._chunks():
                batch: list[Line] = []
                lines = (rest + chunk).split(b"\n")
                rest = lines.pop()
                for line in lines:
                    number += 1
                    if too_large:  # this is its end; it was told when it passed the limit
                        too_large = False
                    else:
                        self._add(batch, number, line)
                if not too_large and len(rest) > self._limit:
                    self._add(batch, number + 1, rest)
                    too_large = True
                if too_large:
                    rest = b""
                if batch:
                    yield batch
        except (EOFError, zlib.error) as error:
            why = f"the gzip file is damaged or cut off from here ({error})"
            yield [(number + 1, SourceError(number + 1, why))]
            return
        except OSError as error:
            yield [(number + 1, SourceError(number + 1, f"from here it cannot be read ({error.strerror})"))]
            return
        if rest:
            batch = []
            self._add(batch, number + 1, rest)
            yield batch

    def _add(self, batch: list[Line], number: int, line: bytes) -> None:
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if len(line) > self._limit:
            batch.append((number, LineError(number, f"it is longer than {self._limit:,} bytes")))
        elif line.strip():
            batch.append((number, line))

    def _chunks(self) -> Iterator[bytes]:
        source = self._raw()
        start = b""
        for data in source:
            start += data
            if len(start) > 1:
                break
        if start[:2] == b"\x1f\x8b":
            yield from _gunzip(start, source)
        elif start:
            yield start
            yield from source

    def _raw(self) -> Iterator[bytes]:
        while data := os.read(self._descriptor, _READ_BYTES):
            self._read_bytes += len(data)
            yield data

    def close(self) -> None:
        """Stop reading and close the file; standard input stays open."""
        self._closed.set()
        self._room.release()
        if self._thread is not None:
            self._thread.join(1.0 if self.name else 0.0)
        if self._descriptor and not (self._thread is not None and self._thread.is_alive()):
            os.close(self._descriptor)


def _gunzip(start: bytes, source: Iterator[bytes]) -> Iterator[bytes]:
    """Unpack in bounded pieces, as a small file can hold a huge one; several members follow each other (RFC 1952)."""
    member, begun = zlib.decompressobj(wbits=31), False
    for left in chain((start,), source):
        while left:
            begun = True
            out = member.decompress(left, 1 << 20)
            left = member.unconsumed_tail
            if out:
                yield out
            while len(out) == 1 << 20 and not left and not member.eof:  # more of it is ready inside
                out = member.decompress(b"", 1 << 20)
                if out:
                    yield out
            if member.eof:
                left = member.unused_data.lstrip(b"\0")  # padding, as of tapes
                member, begun = zlib.decompressobj(wbits=31), False
    if begun:
        raise EOFError("it ends too early")

