"""Sending an event from a form: of a type that a runner's sagas take, checked as any JSON from outside, under an id.

The event is handled here, by a client: what follows from it is for the workers. The form brings its own id, so that one
that is sent twice changes nothing twice.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response

from ..errors import CodecError, JournalError, OutcomeUnknownError, SagalogError
from ..logs import about, log
from .access import operator_of
from .board import Board, Page


async def send_page(board: Board, request: Request) -> Page:
    """Show the form."""
    return _page(board, {"type": request.query_params.get("type", "")})


async def send_endpoint(board: Board, request: Request, form: dict[str, str]) -> Response:
    """Send what a form holds; show what became of it, or what is wrong, with the form as it was filled in."""
    sender = board.sender
    if sender is None:
        return board.response(request, _page(board, {}))
    form = {**form, "message_id": form.get("message_id", "").strip() or _new_id()}
    kind, message_id, by = form.get("type", ""), form["message_id"], operator_of(request, form)
    try:
        event = sender.event(kind, form.get("json", ""))
    except CodecError as error:
        return board.response(request, _page(board, form, refused=str(error), status=422))
    try:
        receipt = await sender.send(await board.journal(), event, message_id, by)
    except OutcomeUnknownError as error:
        why = f"{error}. It may be stored: send it again unchanged, under the same id."
        return board.response(request, _page(board, form, unknown=why, status=503))
    except JournalError as error:
        return board.response(request, _page(board, form, refused=str(error), status=503))
    except SagalogError as error:
        return board.response(request, _page(board, form, refused=str(error), status=409))
    log.info("%s was sent from the dashboard as %s", kind, message_id, extra=about())
    return board.response(
        request, _page(board, {"type": kind, "by": by}, sent=(kind, message_id, sender.reached(event, receipt)))
    )


def _page(
    board: Board, form: dict[str, str], *, refused: str = "", unknown: str = "", sent: Any = None, status: int = 200
) -> Page:
    if board.sender is None:
        text = (
            "This dashboard has no runner, so it cannot send events: start it with sagalog dashboard --runner "
            "MODULE:RUNNER."
        )
        return Page("error.html", {"heading": "There is no form", "text": text, "why": ""}, 404, live=False)
    context = {
        "types": board.sender.types(),
        "chosen": form.get("type", ""),
        "json": form.get("json", ""),
        "by": form.get("by", ""),
        "message_id": form.get("message_id", "") or _new_id(),
        "refused": refused,
        "unknown": unknown,
        "sent": sent,
    }
    return Page("send.html", context, status, tab="send", live=False)


def _new_id() -> str:
    return f"dashboard-{uuid4()}"
