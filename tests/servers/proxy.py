"""A TCP proxy that loses connections at the worst moments: before the request arrives, or before its answer does."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

from .processes import free_port


class Proxy:
    """Forwards one port to another, in a thread of its own. A connection is one that was open when it is told to cut."""

    def __init__(self, to_port: int) -> None:
        self.port = free_port()
        self._to_port = to_port
        self._loop = asyncio.new_event_loop()
        self._pairs: set[_Pair] = set()
        self._blocked = False
        self.accepted = 0  # so many connections there were
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait(10)

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", self.port))
        ready.set()
        self._loop.run_forever()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._blocked:
            writer.transport.abort()
            return
        try:
            out_reader, out_writer = await asyncio.open_connection("127.0.0.1", self._to_port)
        except OSError:
            writer.transport.abort()
            return
        self.accepted += 1
        pair = _Pair(writer, out_writer)
        self._pairs.add(pair)
        await asyncio.gather(self._to_server(reader, out_writer, pair), self._to_client(out_reader, writer, pair))
        self._pairs.discard(pair)

    async def _to_server(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pair: _Pair) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if pair.lose == "request":
                    break
                writer.write(data)
                await writer.drain()
        pair.abort()

    async def _to_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pair: _Pair) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if pair.lose == "answer":  # the server has done it, and the client will never hear of it
                    pair.answers_lost += 1
                    break
                writer.write(data)
                await writer.drain()
        pair.abort()

    def _do(self, what: object) -> None:
        done = threading.Event()

        def call() -> None:
            try:
                what()  # type: ignore[operator]
            finally:
                done.set()

        self._loop.call_soon_threadsafe(call)
        done.wait(10)

    def _abort(self) -> None:
        for pair in self._pairs:
            pair.abort()

    @property
    def open(self) -> int:
        """How many connections there are now."""
        return len(self._pairs)

    def cut(self) -> None:
        """End all connections now."""
        self._do(self._abort)

    def lose(self, what: str) -> None:
        """Lose the next request (it never arrives) or the next answer of every open connection, and end it then."""

        def tell() -> None:
            for pair in self._pairs:
                pair.lose = what

        self._do(tell)

    def block(self, blocked: bool = True) -> None:
        """Let no connection through, and end those there are; or let them through again."""

        def call() -> None:
            self._blocked = blocked
            if blocked:
                for pair in self._pairs:
                    pair.abort()

        self._do(call)

    def close(self) -> None:
        """End everything."""
        self._do(self._server.close)
        self._do(self._abort)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


class _Pair:
    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.lose = ""
        self.answers_lost = 0

    def abort(self) -> None:
        self.client.transport.abort()
        self.server.transport.abort()
