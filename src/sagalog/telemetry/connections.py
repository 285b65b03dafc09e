"""HTTP connections that cannot be used up: who is silent is hung up on, and at a bound the one silent longest goes first.

uvicorn speaks HTTP. What it leaves open is for how long somebody may take to send a request, and how many may: its own
limit turns newcomers away, so that a few silent connections keep every probe out. Here newcomers always get in, and half
of the files that the process may open can be connections without a request yet.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable
from typing import Any, Protocol

from ..errors import MissingExtraError

try:
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as _error:
    raise MissingExtraError("answering over HTTP needs the package uvicorn: pip install 'sagalog[http]'") from _error

BACKLOG = 64  # connections accepted in one go: more could use up this process's files before any is hung up on
REQUEST_SECONDS = 5.0  # to send a whole request, and between two of them
STALLED_SECONDS = 10.0  # of an answer that nobody takes
ACCEPT_QUEUE = 4096  # connections that the system makes meanwhile; who finds it full sends anew, seconds later

_LEAST_WAITING = 128
_MOST_WAITING = 10_000


class Listening(Protocol):
    """A socket that listens: the server's, or one that was given to it."""

    def fileno(self) -> int: ...


def connections_for_bodies(*, request_seconds: float = REQUEST_SECONDS) -> type[H11Protocol]:
    """Return the connections of a server whose app bounds by itself how long bodies take, and how many there are."""
    return patient_connections(request_seconds=request_seconds, with_body=False)


def half_of_files() -> int:
    """Return how many connections may wait for their request: half of the files that this process may open."""
    try:
        import resource
    except ImportError:  # not on Windows
        return _LEAST_WAITING
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_WAITING if limit == resource.RLIM_INFINITY else max(_LEAST_WAITING, min(limit // 2, _MOST_WAITING))


def open_more_files() -> None:
    """Let this process open as many files as it may, up to what a crowd takes: many systems begin with 1,024."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * _MOST_WAITING if most == resource.RLIM_INFINITY else min(most, 2 * _MOST_WAITING)
    if limit != resource.RLIM_INFINITY and limit < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
        except (OSError, ValueError):  # macOS says that there is no bound, and has one
            return


def queue_crowds(listening: Iterable[Listening]) -> None:
    """Let more connections wait to be accepted than asyncio accepts in one go, which is one number to it.

    A connection that finds no place there gets one when it sends anew, by then in a hurry: of a crowd that comes again
    and again, the others are hung up on before it has sent its request a second time.
    """
    for one in listening:
        with socket.socket(fileno=os.dup(one.fileno())) as same:
            same.listen(ACCEPT_QUEUE)


def patient_connections(
    *,
    most_waiting: int | None = None,
    request_seconds: float = REQUEST_SECONDS,
    stalled_seconds: float = STALLED_SECONDS,
    with_body: bool = True,
) -> type[H11Protocol]:
    """Return the connections of one server, for uvicorn's `http=`. They share a bound: `most_waiting`, or `half_of_files`.

    `with_body`: a request has come when its body has, too; else with its head, and the app bounds how long its body takes.
    """
    waiting: dict[Any, asyncio.TimerHandle] = {}  # the one that waits longest is the first
    bound = half_of_files() if most_waiting is None else most_waiting

    class PatientConnection(H11Protocol):
        _stalled: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            # Bytes that trickle in win no time: only a whole request does, or its whole head.
            cycle = self.cycle
            if cycle is not None and not cycle.response_complete and not (with_body and cycle.more_body):
                self._wait_no_longer()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if not self.transport.is_closing() and self not in waiting:
                self._wait()

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._stalled is None:
                self._stalled = self.loop.call_later(stalled_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._stop_stall()

        def connection_lost(self, exc: Exception | None) -> None:
            self._wait_no_longer()
            self._stop_stall()
            super().connection_lost(exc)

        def _wait(self) -> None:
            waiting[self] = self.loop.call_later(request_seconds, self._hang_up)
            if len(waiting) > bound:
                next(iter(waiting))._hang_up()

        def _wait_no_longer(self) -> None:
            timer = waiting.pop(self, None)
            if timer is not None:
                timer.cancel()

        def _stop_stall(self) -> None:
            if self._stalled is not None:
                self._stalled.cancel()
                self._stalled = None

        def _hang_up(self) -> None:
            self._wait_no_longer()
            self.transport.abort()

    return PatientConnection
