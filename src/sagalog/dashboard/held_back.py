"""Commands that do not leave: what operators have paused and whose receivers are away; pausing and resuming them."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ..decision.controls import pausing, resuming
from ..errors import RepairError
from ..journal.controls import change_controls
from ..journal.protocol import server_now
from .access import MOST_NOTED, operator_of
from .board import Board, Page
from .render import link


async def commands_page(board: Board, request: Request) -> Page:
    """What is paused and what is away, with the forms that pause and resume for who has signed in."""
    return _page(board, request.query_params.get("done", ""))


def _page(board: Board, done: str = "", *, refused: str = "") -> Page:
    overview = board.overview
    context = {
        "paused": sorted(overview.controls.paused.items()),
        "circuits": overview.circuits,
        "waiting": sorted({entry.type for entry in overview.tally.undelivered.entries.values()}),
        "done": done,
        "refused": refused,
        "most_noted": MOST_NOTED,
    }
    return Page("commands.html", context, 409 if refused else 200, tab="commands")


async def commands_endpoint(board: Board, request: Request, form: dict[str, str]) -> Response:
    """Pause or resume a command type, as a form asks for."""
    journal = await board.journal()
    command, action = form.get("command", "").strip(), form.get("action", "")
    note, by = form.get("note", "")[:MOST_NOTED], operator_of(request, form)
    try:
        if action == "pause":
            change = pausing(command, at=await server_now(journal), by=by, note=note)
        elif action == "resume":
            change = resuming(command)
        else:
            raise RepairError("the only actions are pause and resume")
        await change_controls(journal, change)
    except RepairError as error:
        return board.response(request, _page(board, refused=str(error)))
    await board.overview.look_at_commands(journal)
    return RedirectResponse(link(request, "commands", done=f"{action} {command}"), 303)
