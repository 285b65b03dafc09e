"""The ASGI app: which address shows which page, who may ask for it, and what is said when something is wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from ..definition.saga import Saga
from ..errors import JournalError, OutcomeUnknownError, SagalogError
from ..journal import Journal
from ..logs import about, log, trace_of
from ..runner import SagaRunner
from . import held_back, pages, repairs, sending
from .access import SESSION_SECONDS, Access, Guard, began_here, read_form
from .board import Board, Page
from .live import Build, stream
from .mask import Mask
from .render import HERE, PATHS, link
from .sender import EventSender
from .shown import ShownJournal

Endpoint = Callable[[Request], Awaitable[Response]]


class Dashboard:
    """An ASGI app. Served alone it is told when its server starts and stops; mounted, call `stop` at the end."""

    def __init__(self, board: Board) -> None:
        self._board = board
        app = Starlette(routes=_routes(), lifespan=self._lifespan)
        app.state.board = board
        app.add_exception_handler(JournalError, _unavailable)
        app.add_exception_handler(OutcomeUnknownError, _unavailable)
        app.add_exception_handler(SagalogError, _broken)
        app.add_exception_handler(HTTPException, _refused)
        app.add_exception_handler(Exception, _broken)
        self._app = Guard(app, board.access)

    def __repr__(self) -> str:
        return f"<Dashboard on {self._board.source!r}>"

    @property
    def access(self) -> Access:
        """Who may read and change."""
        return self._board.access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._app(scope, receive, send)

    async def stop(self) -> None:
        """End all streams and the counting; a journal that was opened here is closed."""
        await self._board.stop()

    def stopping(self) -> None:
        """End all streams, so that a server that waits for open connections can stop."""
        self._board.stopping.set()

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._board.begin()
        try:
            yield
        finally:
            await self._board.stop()


def dashboard_app(
    journal: Journal | str,
    *,
    token: str,
    open_reading: bool = False,
    hosts: Collection[str] = (),
    masks: Iterable[str] = (),
    sagas: Iterable[type[Saga[Any]]] = (),
    runner: SagaRunner | None = None,
) -> Dashboard:
    """Return the dashboard as an ASGI app, to be served or mounted.

    `journal`: its URL, then it is opened here; or a journal, which stays its owner's. `token`: what one signs in with, at
    least 16 characters; every change needs it, and so does reading unless `open_reading` says that nobody else reaches
    this server. `hosts`: the names it is asked for by; empty: any. `masks`: payload fields that are not shown, see `Mask`.
    `sagas`: whose code may add to their pictures what has not been seen yet, and says on the page of an instance whether
    it can read its state and messages. `runner`: whose events may be sent from a form, by who may repair. They are handled
    here, by a client of it on the journal that is shown; its sagas are added to `sagas`.
    Raises DefinitionError for what cannot be.
    """
    access = Access(token, open_reading=open_reading, hosts=hosts)
    sender = None if runner is None else EventSender(runner, journal)
    known = [*sagas, *(type(saga) for saga in (runner.sagas if runner is not None else ()))]
    return Dashboard(Board(ShownJournal(journal), access, Mask(masks), known, sender))


def _board(request: Request) -> Board:
    board: Board = request.app.state.board
    board.begin()
    return board


def _routes() -> list[BaseRoute]:
    shown: dict[str, Build] = {
        "overview": pages.overview_page,
        "instances": pages.instances_page,
        "instance": pages.instance_page,
        "saga": pages.saga_page,
        "commands": held_back.commands_page,
    }
    routes: list[BaseRoute] = []
    for name, build in shown.items():
        routes.append(Route(PATHS[name], _reading(_page(build))))
        routes.append(Route(PATHS[name].rstrip("/") + "/live", _live(build)))
    return [
        *routes,
        Route(PATHS["payload"], _reading(_payload)),
        Route(PATHS["repair"], _confirm, methods=["GET"]),
        Route(PATHS["repair"], _repair, methods=["POST"]),
        Route(PATHS["commands"], _hold_back, methods=["POST"]),
        Route(PATHS["send"], _form, methods=["GET"]),
        Route(PATHS["send"], _send, methods=["POST"]),
        Route(PATHS["login"], _login, methods=["GET", "POST"]),
        Route(PATHS["logout"], _logout, methods=["POST"]),
        Mount(PATHS["static"], StaticFiles(directory=HERE / "static")),
    ]


def _page(build: Build) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        board = _board(request)
        return board.response(request, await build(board, request))

    return endpoint


def _reading(endpoint: Endpoint) -> Endpoint:
    async def guarded(request: Request) -> Response:
        if not _board(request).access.may_read(request):
            return _to_login(request)
        return await endpoint(request)

    return guarded


def _live(build: Build) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        board = _board(request)
        if not board.access.may_read(request):
            return PlainTextResponse("sign in first\n", 401)
        return stream(board, request, build)

    return endpoint


async def _payload(request: Request) -> Response:
    text, status = await pages.payload(_board(request), request)
    return PlainTextResponse(text, status)


def _to_login(request: Request) -> Response:
    here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(link(request, "login", next=here), 303)


async def _confirm(request: Request) -> Response:
    board = _board(request)
    if board.access.session(request) is None:
        return _to_login(request)
    return board.response(request, await repairs.confirm_page(board, request))


async def _repair(request: Request) -> Response:
    board = _board(request)
    form, refusal = await repairs.confirmed(board, request)
    if refusal:
        return _refusal(board, request, refusal)
    return await repairs.repair_endpoint(board, request, form)


async def _hold_back(request: Request) -> Response:
    board = _board(request)
    form = await read_form(request)
    refusal = board.access.refusal(request, form)
    if refusal:
        return _refusal(board, request, refusal)
    return await held_back.commands_endpoint(board, request, form)


async def _form(request: Request) -> Response:
    board = _board(request)
    if board.access.session(request) is None:
        return _to_login(request)
    return board.response(request, await sending.send_page(board, request))


async def _send(request: Request) -> Response:
    board = _board(request)
    form = await read_form(request)
    refusal = board.access.refusal(request, form)
    if refusal:
        return _refusal(board, request, refusal)
    return await sending.send_endpoint(board, request, form)


async def _login(request: Request) -> Response:
    board = _board(request)
    if request.method == "GET":
        return board.response(request, _login_page(request.query_params.get("next", "")))
    if not began_here(request):
        return _refusal(board, request, "the request did not come from a page of this dashboard")
    form = await read_form(request)
    session = board.access.begin(form.get("token", ""))
    if session is None:
        log.warning("a wrong token was given to the dashboard", extra=about())
        return board.response(request, _login_page(form.get("next", ""), "That is not the token."))
    answer = RedirectResponse(_local(request, form.get("next", "")), 303)
    answer.set_cookie(
        board.access.cookie,
        session,
        max_age=SESSION_SECONDS,
        path=request.scope.get("root_path", "") or "/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return answer


def _login_page(following: str, wrong: str = "") -> Page:
    return Page("login.html", {"next": following, "wrong": wrong}, 403 if wrong else 200, live=False)


def _local(request: Request, address: str) -> str:
    """Return where to go after signing in: an address of ours, and no other (no open redirect)."""
    root = link(request, "overview")
    local = address.startswith(root) and not address.startswith("//") and "\\" not in address and address.isprintable()
    return address if local else root


async def _logout(request: Request) -> Response:
    board = _board(request)
    refusal = board.access.refusal(request, await read_form(request))
    if refusal:
        return _refusal(board, request, refusal)
    answer = RedirectResponse(link(request, "overview"), 303)
    answer.delete_cookie(board.access.cookie, path=request.scope.get("root_path", "") or "/")
    return answer


def _refusal(board: Board, request: Request, why: str) -> Response:
    text = "Nothing was changed."
    return board.response(
        request, Page("error.html", {"heading": "Refused", "text": text, "why": why}, 403, live=False)
    )


async def _unavailable(request: Request, error: Exception) -> Response:
    text = "The journal does not answer. Nothing is lost by that: the sagas are as they were."
    if isinstance(error, OutcomeUnknownError):
        text = "The journal did not answer, so it is not known whether the change was stored: look at the instance."
    context = {"heading": "The journal does not answer", "text": text, "why": str(error)}
    return _board(request).response(request, Page("error.html", context, 503, live=False))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    context = {"heading": "There is no such page" if error.status_code == 404 else error.detail, "text": "", "why": ""}
    return _board(request).response(request, Page("error.html", context, error.status_code, live=False))


async def _broken(request: Request, error: Exception) -> Response:
    """Say that something went wrong; what exactly stands in the log, unless it is an error of ours with its own words."""
    ours = isinstance(error, SagalogError)
    if not ours:
        log.error("the dashboard failed on %s", request.url.path, exc_info=trace_of(error), extra=about())
    why = f"{type(error).__name__}: {error}" if ours else type(error).__name__
    context = {"heading": "Something went wrong", "text": "The dashboard's log says more.", "why": why}
    return _board(request).response(request, Page("error.html", context, 500, live=False))
