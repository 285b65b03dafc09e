"""Repairing an instance from its page: what will happen is said first, and holds for the version that was shown only."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ..decision.repair import Repair, cancel, drop, retry, skip
from ..errors import ConflictError, NoInstanceError, RepairError, SagaParkedError
from ..journal import Journal
from ..operating.apply import Applied, apply, entry_named, resending
from ..operating.inspect import SagaView
from .access import MOST_NOTED, operator_of, read_form
from .board import Board, Page
from .pages import not_found, standing, the_instance
from .render import link, whole_number

MEANINGS = {
    "retry": "Retry what failed, then continue with what has come since.",
    "skip": "Drop what failed, then continue with what has come since.",
    "drop": "Do not deliver this command, and continue with what is behind it. It may have been carried out.",
    "cancel with compensation": "End it, and undo what was done, last in first out.",
    "cancel": "End it as it stands. Nothing is undone.",
    "resend": "Send a command again, under the same id. A receiver that knows the id does nothing.",
}


async def _repair(journal: Journal, view: SagaView, action: str, command: str, note: str = "", by: str = "") -> Repair:
    """Return the repair of that name. Raises RepairError for a command that is not there, or no such repair."""
    match action:
        case "retry":
            return retry(note=note, by=by)
        case "skip":
            return skip(note=note, by=by)
        case "cancel":
            return cancel(compensate=False, note=note, by=by)
        case "cancel with compensation":
            return cancel(compensate=True, note=note, by=by)
        case "drop":
            return drop(entry_named(view.saga, view.correlation_id, command), note=note, by=by)
        case "resend":
            return await resending(journal, view.saga, view.correlation_id, command, note=note, by=by)
    raise RepairError(f"there is no repair {action!r}")


async def confirm_page(board: Board, request: Request) -> Page:
    """Say what a repair would do, and ask."""
    query = request.query_params
    return await _asked(board, request, query.get("action", ""), query.get("command", ""))


async def _asked(board: Board, request: Request, action: str, command: str, *, refused: str = "") -> Page:
    journal = await board.journal()
    view = await the_instance(journal, request)
    if view is None:
        return not_found(request)
    applied: Applied | None = None
    try:
        repair = await _repair(journal, view, action, command)
        applied = await apply(
            journal, view.saga, view.correlation_id, repair, expected_version=view.version, dry_run=True
        )
    except (RepairError, NoInstanceError, SagaParkedError, ConflictError) as error:
        refused = refused or str(error)
    context = {
        **standing(board, view),
        "action": action,
        "command": command,
        "meaning": MEANINGS.get(action, ""),
        "applied": applied,
        "refused": refused,
        "most_noted": MOST_NOTED,
    }
    return Page("repair.html", context, 409 if refused else 200, live=False)


async def repair_endpoint(board: Board, request: Request, form: dict[str, str]) -> Response:
    """Make a repair that was asked for and confirmed, on the version that was shown."""
    journal = await board.journal()
    view = await the_instance(journal, request)
    if view is None:
        return board.response(request, not_found(request))
    action, command, shown = form.get("action", ""), form.get("command", ""), whole_number(form.get("version", "")) or 0
    note, by = form.get("note", "")[:MOST_NOTED], operator_of(request, form)
    try:
        repair = await _repair(journal, view, action, command, note, by)
        applied = await apply(journal, view.saga, view.correlation_id, repair, expected_version=shown)
    except ConflictError:
        why = (
            f"It has moved on: you saw step {shown:,}. Nothing was changed. Below is its present state, "
            "and what the same repair would do now."
        )
        return board.response(request, await _asked(board, request, action, command, refused=why))
    except (RepairError, NoInstanceError, SagaParkedError) as error:
        return board.response(request, await _asked(board, request, action, command, refused=str(error)))
    done = applied.version if applied.changes else ""
    return RedirectResponse(link(request, "instance", saga=view.saga, id=view.correlation_id, done=done), 303)


async def confirmed(board: Board, request: Request) -> tuple[dict[str, str], str]:
    """Return the form of a repair, and why it is refused, if it is."""
    form = await read_form(request)
    return form, board.access.refusal(request, form)
