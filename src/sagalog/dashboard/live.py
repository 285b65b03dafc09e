"""Pages that move while they are open: the parts that changed, by server-sent events.

The stream of a page asks for what the page asked for, renders the same parts again, and sends those whose mark changed.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from ..errors import SagalogError
from ..waiting import is_set_within
from .board import Board, Page

Build = Callable[[Board, Request], Awaitable[Page]]

MAX_STREAMS = 200
_LOOK_SECONDS = 1.0
_MAX_PAUSE = 30.0
_HEARTBEAT_SECONDS = 15.0
_MAX_SECONDS = 1800.0  # then the browser asks again, and is asked again who it is


def stream(board: Board, request: Request, build: Build) -> Response:
    """Return a stream of what changes on a page; each event's data is {part: [mark, HTML]}."""
    if board.streams >= MAX_STREAMS:
        return PlainTextResponse("too many pages are open\n", 503, {"retry-after": "60"})
    return StreamingResponse(_events(board, request, build), media_type="text/event-stream")


async def _events(board: Board, request: Request, build: Build) -> AsyncIterator[bytes]:
    board.streams += 1
    try:
        sent: dict[str, str] = {}  # the marks
        down = ""
        spoken = began = time.monotonic()
        yield b"retry: 2000\n\n"
        while not board.stopping.is_set() and time.monotonic() - began < _MAX_SECONDS:
            if not board.access.may_read(request):
                return
            events: list[tuple[str, object]] = []
            asked = time.monotonic()
            try:
                parts = board.fragments(request, await build(board, request))
            except SagalogError as error:
                if not down:
                    down = str(error)
                    events.append(("down", down))
            else:
                changed = {name: (one.mark, one.html) for name, one in parts.items() if sent.get(name) != one.mark}
                if changed or down:
                    events.append(("changed", changed))
                    sent.update((name, mark) for name, (mark, _) in changed.items())
                    down = ""
            for event, data in events:
                yield b"event: %s\ndata: %s\n\n" % (event.encode(), msgspec.json.encode(data))
                spoken = time.monotonic()
            if not events and time.monotonic() - spoken > _HEARTBEAT_SECONDS:
                yield b": still here\n\n"
                spoken = time.monotonic()
            # A page that takes long to find is looked for less often.
            pause = max(_LOOK_SECONDS, min(_MAX_PAUSE, 20 * (time.monotonic() - asked)))
            await is_set_within(board.stopping, pause)
    finally:
        board.streams -= 1
