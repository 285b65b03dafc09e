"""HTTP connections that cannot be used up: who is silent is hung up on, and at a bound the one silent longest goes first.

uvicorn speaks HTTP. What it leaves open is for how long somebody may take to send a request, and how many may: its own
limit turns newcomers away, so that a few silent connections keep every probe out. Here newcomers always get in.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ..errors import MissingExtraError

try:
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as _error:
    raise MissingExtraError("answering over HTTP needs the package uvicorn: pip install 'sagalog[http]'") from _error

BACKLOG = 64  # connections accepted in one go: more could use up this process's files before any is hung up on
REQUEST_SECONDS = 5.0  # to send a whole request, and between two of them
STALLED_SECONDS = 10.0  # of an answer that nobody takes
MAX_WAITING = 128  # connections that have not sent their request yet

_MOST_WAITING = 10_000  # of a server for crowds


def connections_for_bodies(*, request_seconds: float = REQUEST_SECONDS) -> type[H11Protocol]:
    """Return the connections of a server whose app bounds by itself how long bodies take, and how many there are at once.

    It is made for crowds: half of the files that this process may open can be connections without a request yet.
    """
    return patient_connections(most_waiting=_half_of_files(), request_seconds=request_seconds, with_body=False)


def _half_of_files() -> int:
    try:
        import resource
    except ImportError:  # not on Windows
        return MAX_WAITING
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_WAITING if limit == resource.RLIM_INFINITY else max(MAX_WAITING, min(limit // 2, _MOST_WAITING))


def patient_connections(
    *,
    most_waiting: int = MAX_WAITING,
    request_seconds: float = REQUEST_SECONDS,
    stalled_seconds: float = STALLED_SECONDS,
    with_body: bool = True,
) -> type[H11Protocol]:
    """Return the connections of one server, for uvicorn's `http=`; they share one bound.

    `with_body`: a request has come when its body has, too; else with its head, and the app bounds how long its body takes.
    """
    waiting: dict[Any, asyncio.TimerHandle] = {}  # the one that waits longest is the first

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
            if len(waiting) > most_waiting:
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
