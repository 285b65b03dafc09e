"""A stream of all instances that end, as server-sent events, which goes on where a reader left off.

journal (what is new) ─► [ends] ─► one event for each end
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from ..decision.entries import ENDS
from ..decision.ids import FAMILY, parts_of
from ..decision.record import decode_record
from ..errors import CodecError, SagalogError
from ..journal import PersistentRepr
from ..journal.protocol import Followable
from ..runner import SagaRunner
from ..waiting import is_set_within
from .problems import problem_of, refuse
from .status import event_text
from .stopping import stopping_of

_PAGE = 500
_LOOK_SECONDS = 0.25
_HEARTBEAT_SECONDS = 15.0
_STREAM_SECONDS = 3600.0
_REMEMBERED = 10_000  # ends of one stream


class EndStreams:
    """Streams of ends, `most` at once. Each end is told at least once to a reader that goes on by its last event id.

    An event's data holds `end`: the same text whenever that end is told again.
    """

    def __init__(self, runner: SagaRunner, *, most: int = 100) -> None:
        self._runner = runner
        self._most = most
        self._open = 0

    async def respond(self, request: Request) -> Response:
        """Return a stream: from `Last-Event-ID` or `?after=` on, or from now. `?saga=`: of these sagas only."""
        journal = self._runner.journal
        if not isinstance(journal, Followable):
            raise refuse(501, "this journal cannot be followed; ask for each instance")
        wanted = frozenset(request.query_params.getlist("saga"))
        known = {saga.name for saga in self._runner.sagas}
        if not wanted <= known:
            raise refuse(404, f"there is no such saga; there is {', '.join(sorted(known))}")
        given = request.headers.get("last-event-id", "") or request.query_params.get("after", "")
        if given and not (given.isascii() and given.isdigit() and len(given) < 19):
            raise refuse(400, "this is not an event id of this stream")
        if self._open >= self._most:
            raise refuse(503, "too many streams are open", retry_seconds=60)
        offset = int(given) if given else await journal.newest_offset()
        return StreamingResponse(
            self._events(journal, offset, wanted or known),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )

    async def _events(
        self, journal: Followable, offset: int, wanted: frozenset[str] | set[str]
    ) -> AsyncIterator[bytes]:
        stopping, loop = stopping_of(self._runner), asyncio.get_running_loop()
        spoken = began = loop.time()
        told_before: dict[str, None] = {}  # steps behind an end are records of an ended instance, too
        self._open += 1
        try:
            yield f"retry: 2000\nid: {offset}\n\n".encode()  # without data it is no event, but the id counts
            while not stopping.is_set() and loop.time() - began < _STREAM_SECONDS:
                try:
                    records, following = await journal.records_after(offset, limit=_PAGE)
                except SagalogError as error:
                    problem = problem_of(error, asked=True)
                    yield event_text("problem", {"status": problem.status, "detail": problem.detail})
                    return
                for record in records:
                    told = _end_of(record, wanted)
                    if told is None or told["end"] in told_before:
                        continue
                    told_before[told["end"]] = None
                    if len(told_before) > _REMEMBERED:
                        del told_before[next(iter(told_before))]
                    yield event_text("end", told)
                if following != offset:
                    offset, spoken = following, loop.time()
                    yield f"id: {offset}\n\n".encode()
                elif loop.time() - spoken > _HEARTBEAT_SECONDS:
                    spoken = loop.time()
                    yield b": still here\n\n"
                if len(records) < _PAGE:
                    await is_set_within(stopping, _LOOK_SECONDS)
        finally:
            self._open -= 1


def _end_of(message: PersistentRepr, wanted: frozenset[str] | set[str]) -> dict[str, Any] | None:
    """Return what is told of a record; None for one whose instance has not ended.

    The record in which it ended may be gone already, where the journal keeps no history, so each later one tells it.
    """
    if not message.persistence_id.startswith(FAMILY) or not message.payload:
        return None
    saga, correlation_id = parts_of(message.persistence_id)
    if saga not in wanted:
        return None
    try:
        record = decode_record(message.payload)
    except CodecError:
        return None  # of newer code, or damaged: `sagalog doctor` tells
    if record.status not in ENDS:
        return None
    status = record.status.value
    return {
        "end": f"{saga}/{correlation_id}/{record.incarnation}/{status}",
        "saga": saga,
        "id": correlation_id,
        "incarnation": record.incarnation,
        "status": status,
        "finished": record.finished,
        "ended_at": record.ended_at or record.updated_at,
        "result": None if record.result is None else record.result.data,
    }
