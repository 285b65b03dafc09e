"""HTTP for probes and scrapers: a few fixed paths, GET only, answered by uvicorn. Needs the extra `http`.

It runs in the runner's own event loop, so that a loop which is stuck answers nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from ..errors import DefinitionError, MissingExtraError
from ..logs import about, log, trace_of
from ..waiting import start_task

if TYPE_CHECKING:
    from uvicorn.server import ServerState

_MAX_HEAD = 8192  # bytes
_STOP_SECONDS = 1.0  # for what is being answered when the server stops
_MAX_ANSWER = 64 * 1024 * 1024


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
        known = separator and host and host.isprintable() and not any(mark in host for mark in " /@?#[]")
        if not known or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
            raise DefinitionError(
                f"{text!r} is not an address to listen on; write 127.0.0.1:8080, [::1]:8080 or 0.0.0.0:8080"
            )
        return cls(host, int(port))

    def __str__(self) -> str:
        return (
            f"unix:{self.path}" if self.path else f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"
        )


class HttpServer:
    """Answers `routes` at an address while it is entered. Port 0: any free one, see `address`.

    Whoever asks while an answer is being made gets that one: a crowd of probes costs one look.
    Raises MissingExtraError without the extra `http`.
    """

    def __init__(self, address: Address, routes: Routes) -> None:
        from .connections import patient_connections

        self.address: Address = address
        self._connection = patient_connections()
        self._routes = routes
        self._making: dict[str, asyncio.Task[Answer]] = {}
        self._server: asyncio.Server | None = None
        self._state: ServerState | None = None

    async def __aenter__(self) -> Self:
        from uvicorn import Config
        from uvicorn.server import ServerState

        from .connections import BACKLOG, queue_crowds

        address, loop = self.address, asyncio.get_running_loop()
        config = Config(
            self._app,
            interface="asgi3",
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=_MAX_HEAD,
        )
        config.load()
        state = self._state = ServerState()

        def connection() -> asyncio.Protocol:
            return self._connection(config, state, {}, loop)

        try:
            if address.path:
                self._server = await loop.create_unix_server(connection, address.path, backlog=BACKLOG)
            else:
                self._server = await loop.create_server(connection, address.host, address.port, backlog=BACKLOG)
                self.address = Address(address.host, self._server.sockets[0].getsockname()[1])
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that no resolver takes
            reason = (isinstance(error, OSError) and error.strerror) or type(error).__name__
            raise DefinitionError(f"cannot listen at {address}: {reason}. Choose another address.") from error
        queue_crowds(self._server.sockets)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is None or self._state is None:
            return
        self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()  # at once, or when what it asked for is answered
        if self._state.tasks:
            await asyncio.wait(list(self._state.tasks), timeout=_STOP_SECONDS)
        for task in [*self._state.tasks, *self._making.values()]:
            task.cancel()
        for connection in list(self._state.connections):
            connection.transport.abort()
        await self._server.wait_closed()

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        answer = await self._answer(scope["method"], scope["path"])
        headers = [(b"content-type", answer.content_type.encode()), (b"content-length", b"%d" % len(answer.body))]
        headers.append((b"cache-control", b"no-store"))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})

    async def _answer(self, method: str, path: str) -> Answer:
        if method not in ("GET", "HEAD"):
            return Answer(405, b"only GET and HEAD\n")
        route = self._routes.get(path)
        if route is None:
            return Answer(404, f"there is nothing here; there is {', '.join(self._routes)}\n".encode())
        making = self._making.get(path)
        if making is None:
            making = self._making[path] = start_task(_made(route), name=f"sagalog-probe {path}")
            making.add_done_callback(lambda _: self._making.pop(path, None))
        return await asyncio.shield(making)  # who hangs up does not take it from the others


async def _made(route: Callable[[], Awaitable[Answer]]) -> Answer:
    try:
        return await route()
    except Exception as error:
        log.error("answering a probe failed: %s", type(error).__name__, exc_info=trace_of(error), extra=about())
        return Answer(500, b"this failed; the log says more\n")


async def ask(address: Address, path: str, *, timeout_seconds: float) -> Answer:
    """Ask a server of this module. Raises OSError where nobody listens, TimeoutError where nobody answers in time."""
    try:
        import h11
    except ImportError as error:
        raise MissingExtraError("asking over HTTP needs the package h11: pip install 'sagalog[http]'") from error
    asked = h11.Connection(h11.CLIENT)
    headers = [("host", address.host or "localhost"), ("connection", "close")]
    async with asyncio.timeout(timeout_seconds):
        if address.path:
            reader, writer = await asyncio.open_unix_connection(address.path)
        else:
            reader, writer = await asyncio.open_connection(address.host, address.port)
        try:
            writer.write(asked.send(h11.Request(method="GET", target=path, headers=headers)) or b"")
            writer.write(asked.send(h11.EndOfMessage()) or b"")
            status, content_type, body = 0, "", bytearray()
            while True:
                event = asked.next_event()
                if event is h11.NEED_DATA:
                    asked.receive_data(await reader.read(65536))
                elif isinstance(event, h11.Response):
                    status = event.status_code
                    content_type = dict(event.headers).get(b"content-type", b"").decode("latin-1")
                elif isinstance(event, h11.Data):
                    body += event.data
                    if len(body) > _MAX_ANSWER:
                        raise ConnectionError(f"{address} answers without end")
                elif isinstance(event, (h11.EndOfMessage, h11.ConnectionClosed)):
                    break
        except h11.RemoteProtocolError as error:
            raise ConnectionError(f"{address} does not speak HTTP") from error
        finally:
            writer.close()
    if not status:
        raise ConnectionError(f"{address} hung up without an answer")
    return Answer(status, bytes(body), content_type)
