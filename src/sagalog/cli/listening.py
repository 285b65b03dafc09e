"""Listening at an address, and stopping at a signal: what all commands that serve pages have in common."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import click

from ..runner.signals import hear


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address. Raises click.ClickException where that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen()  # from here on a caller that connects waits, and is not turned away
    except OSError as error:
        listening.close()
        raise click.ClickException(f"{host} port {port} cannot be listened on: {error.strerror}") from error
    return listening


def graceful_server(base: type[Any], config: Any, stopping: Callable[[], None]) -> Any:
    """Return a server of uvicorn which calls `stopping` when it is told to stop, before it waits for its connections."""

    class Server(base):  # type: ignore[misc]
        """Ends the open streams before it waits for its connections, and then comes back instead of dying of the signal."""

        should_exit: bool
        force_exit: bool

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            from ..telemetry.connections import queue_crowds

            await super().startup(sockets=sockets)
            if self.started:
                queue_crowds(sockets or ())

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            for number in (signal.SIGINT, signal.SIGTERM):
                hear(number, self.stop)
            yield

        def stop(self) -> None:
            stopping()
            if self.should_exit:
                self.force_exit = True  # asked a second time
            self.should_exit = True

    return Server(config)
