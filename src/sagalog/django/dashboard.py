"""The dashboard as a view: who is signed in to the admin may read, superusers may repair, and send events.

view (any thread) ─► [dashboard] ─► the dashboard's own event loop, in a background thread ─► its pages

Pages are complete answers here. They do not move while they are open: a stream would keep a thread of the server.
"""

from __future__ import annotations

import asyncio
import os
from functools import cache
from typing import Any

from django.conf import settings as project
from django.contrib import admin
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import salted_hmac
from django.views.decorators.csrf import csrf_exempt

from ..background import BackgroundLoop
from ..dashboard import Dashboard, dashboard_app
from ..dashboard.access import OPERATOR
from ..errors import DefinitionError
from ..runner.inside import journal_url_of
from .settings import given, runner

_ANSWER_SECONDS = 30.0
_SESSION = "sagalog_dashboard"
_NOT_PASSED_ON = ("connection", "cookie", "transfer-encoding", "content-length", "host")


class _Served:
    """The dashboard and its event loop, in this process."""

    def __init__(self) -> None:
        journal = journal_url_of(runner())
        if journal is None or runner().in_memory:
            raise DefinitionError("the dashboard needs a journal with a URL, not one in memory")
        # Nobody has to know it: sessions are begun here, for users whom Django knows.
        token = salted_hmac("sagalog.django.dashboard", "token", algorithm="sha256").hexdigest()
        self.app: Dashboard = dashboard_app(
            journal, token=token, masks=given().get("DASHBOARD_MASKS", ()), runner=runner()
        )
        self.token = token
        self.process = os.getpid()
        self._loop = BackgroundLoop("sagalog-dashboard")

    def ask(self, scope: dict[str, Any], body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """Return the dashboard's answer: status, headers, body."""
        return self._loop.submit(self._answer(scope, body)).result(_ANSWER_SECONDS)

    async def _answer(self, scope: dict[str, Any], body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        sent: list[dict[str, Any]] = []
        over, asked = asyncio.Event(), False

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if asked:  # whether it has hung up: nobody does before the answer
                await over.wait()
                return {"type": "http.disconnect"}
            asked = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        try:
            await self.app(scope, receive, send)
        finally:
            over.set()
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in sent[0]["headers"]]
        return sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:])

    def session(self, request: HttpRequest) -> str:
        """Return the dashboard's session of a user, begun where there is none any more."""
        access = self.app.access
        known = request.session.get(_SESSION)
        if isinstance(known, str) and access.knows_session(known):
            return known
        begun = access.begin(self.token)
        assert begun is not None
        request.session[_SESSION] = begun
        return begun


@cache
def _served(process: int) -> _Served:
    return _Served()


@csrf_exempt  # its forms carry a token of their own, bound to the session
def show_dashboard(request: HttpRequest, page: str) -> HttpResponse:
    """Show a page of the dashboard to who is signed in to the admin."""
    if not admin.site.has_permission(request):
        return redirect_to_login(request.get_full_path(), login_url=_login_address())
    if request.method not in ("GET", "HEAD") and not request.user.is_superuser:
        return HttpResponse("only superusers may repair, and send events\n", status=403, content_type="text/plain")
    if page.endswith("live"):
        return HttpResponse(status=204)  # a browser asks for no stream then
    served = _served(os.getpid())
    path = request.path
    root = path[: len(path) - len(page)].rstrip("/")
    cookie = f"{served.app.access.cookie}={served.session(request)}"
    headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
        for name, value in request.headers.items()
        if name.lower() not in _NOT_PASSED_ON
    ]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": request.scheme,
        "path": path,
        "raw_path": path.encode("utf-8", "surrogatepass"),
        "root_path": root,
        "query_string": request.META.get("QUERY_STRING", "").encode("latin-1", "replace"),
        "headers": [*headers, (b"host", request.get_host().encode()), (b"cookie", cookie.encode())],
        "client": (request.META.get("REMOTE_ADDR") or "127.0.0.1", 0),
        "server": (request.META.get("SERVER_NAME", ""), 0),
        OPERATOR: request.user.get_username(),
    }
    status, answered, body = served.ask(scope, request.body)
    response = HttpResponse(body, status=status)
    del response["content-type"]
    for name, value in answered:
        if name not in ("set-cookie", "content-length"):
            response[name] = value
    return response


def _login_address() -> str:
    from django.urls import NoReverseMatch, reverse

    try:
        return reverse("admin:login", current_app=admin.site.name)
    except NoReverseMatch:
        return str(project.LOGIN_URL)
