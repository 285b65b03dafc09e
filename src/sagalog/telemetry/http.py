"""HTTP for probes and scrapers: a few fixed paths, GET only, one request a connection. Not a web server.

It needs no package, runs in the runner's own event loop (so that a loop which is stuck answers nobody), and reads
nothing but the first line of what it is sent, up to a limit and for a limited time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Self

from ..errors import DefinitionError
from ..logs import about, log, trace_of

_MOST_BYTES = 8192  # of a request's head
_MOST_CONNECTIONS = 64
_PATIENCE = 5.0  # seconds, to send a request or to take its answer
_MOST_ANSWER = 64 * 1024 * 1024
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 500: "Internal Server Error"}
_REASONS |= {503: "Service Unavailable"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


Routes = Mapping[str, Callable[[], Awaitable[Answer]]]


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen or to ask: a host and a port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Return the address that `HOST:PORT` or `unix:PATH` names. Raises DefinitionError."""
        if text.startswith("unix:") and len(text) > 5:
            return cls(path=text[5:])
        host, separator, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not separator or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise DefinitionError(f"{text!r} is no address to listen at: 127.0.0.1:8080, [::1]:8080 or 0.0.0.0:8080 is")
        return cls(host, int(port))

    def __str__(self) -> str:
        return (
            f"unix:{self.path}" if self.path else f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"
        )


class HttpServer:
    """Answers `routes` at an address while it is entered. Port 0: any free one, see `address`."""

    def __init__(self, address: Address, routes: Routes) -> None:
        self.address = address
        self._routes = routes
        self._server: asyncio.Server | None = None
        self._connections = 0

    async def __aenter__(self) -> Self:
        address = self.address
        try:
            if address.path:
                self._server = await asyncio.start_unix_server(self._serve, address.path, limit=_MOST_BYTES)
            else:
                self._server = await asyncio.start_server(self._serve, address.host, address.port, limit=_MOST_BYTES)
                self.address = Address(address.host, self._server.sockets[0].getsockname()[1])
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise DefinitionError(f"cannot listen at {address}: {reason}. Choose another address.") from error
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections <= _MOST_CONNECTIONS:
                async with asyncio.timeout(_PATIENCE):
                    head = await reader.readuntil(b"\r\n\r\n")
                method, answer = await self._answer(head)
                async with asyncio.timeout(_PATIENCE):
                    writer.write(_encoded(answer, with_body=method != b"HEAD"))
                    await writer.drain()
        except asyncio.LimitOverrunError:
            writer.write(_encoded(Answer(400, b"the request is too long\n"), with_body=True))
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            pass  # whoever asked is too slow, or gone
        finally:
            self._connections -= 1
            writer.close()

    async def _answer(self, head: bytes) -> tuple[bytes, Answer]:
        parts = head.partition(b"\r\n")[0].split(b" ")
        if len(parts) != 3 or not parts[2].startswith(b"HTTP/1."):
            return b"", Answer(400, b"this is not HTTP/1.1\n")
        method, target, _ = parts
        if method not in (b"GET", b"HEAD"):
            return method, Answer(405, b"only GET and HEAD\n")
        route = self._routes.get(target.partition(b"?")[0].decode("latin-1"))
        if route is None:
            known = ", ".join(self._routes)
            return method, Answer(404, f"there is nothing here; there is {known}\n".encode())
        try:
            return method, await route()
        except Exception as error:
            log.error("answering a probe failed: %s", type(error).__name__, exc_info=trace_of(error), extra=about())
            return method, Answer(500, b"this failed; the log says more\n")


def _encoded(answer: Answer, *, with_body: bool) -> bytes:
    head = (
        f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}\r\nContent-Type: {answer.content_type}\r\n"
        f"Content-Length: {len(answer.body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (answer.body if with_body else b"")


async def ask(address: Address, path: str, *, timeout_seconds: float) -> Answer:
    """Ask a server of this module. Raises OSError where nobody listens, TimeoutError where nobody answers in time."""
    async with asyncio.timeout(timeout_seconds):
        if address.path:
            reader, writer = await asyncio.open_unix_connection(address.path)
        else:
            reader, writer = await asyncio.open_connection(address.host, address.port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {address.host or 'localhost'}\r\n\r\n".encode())
            raw = await reader.read(_MOST_ANSWER)
            while more := await reader.read(_MOST_ANSWER - len(raw)):
                raw += more
        finally:
            writer.close()
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    status = lines[0].split(" ")[1:2]
    if not status or not status[0].isdigit():
        raise ConnectionError(f"{address} does not speak HTTP")
    content_type = next((line[14:] for line in lines if line.lower().startswith("content-type: ")), "")
    return Answer(int(status[0]), body, content_type)
