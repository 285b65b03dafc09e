"""Who may read, who may change, and what a browser may do with a page.

A change needs a session, a form token bound to it, and a request that began on our own pages. Sessions hold their end
and a signature made with a key from the token: nothing is kept here, and another token ends all of them.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections.abc import Collection
from hashlib import sha256
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import DefinitionError

LOOPBACK = ("localhost", "127.0.0.1", "::1")
SESSION_SECONDS = 12 * 3600
SHORTEST_TOKEN = 16
MAX_FORM_BYTES = 64 * 1024
FORM_SECONDS = 10.0  # to send one
MOST_NOTED = 500  # characters of a note
OPERATOR = "sagalog.operator"  # in the scope: who has signed in, where an app around the dashboard knows that
_MOST_NAMED = 400  # characters of a name
_TOO_LARGE = "The form is over 64 KiB, so nothing was changed; send a larger event with `sagalog send`"
_PASSED_ON = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via")
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class Access:
    """Checks tokens, sessions and where a request comes from.

    `token`: at least 16 characters. `open_reading`: pages may be read without a session; only a server that nobody
    else reaches may say so. `hosts`: the names under which it may be asked for; empty: any, and then reading is closed.
    """

    def __init__(self, token: str, *, open_reading: bool = False, hosts: Collection[str] = ()) -> None:
        if not isinstance(token, str):
            raise DefinitionError(f"a dashboard's token must be a string, not {type(token).__name__}")
        if isinstance(hosts, str):
            raise DefinitionError("hosts= of a dashboard must be a list of names: hosts=[name]")
        if len(token) < SHORTEST_TOKEN:
            raise DefinitionError(f"a dashboard's token needs at least {SHORTEST_TOKEN} characters; use a longer one")
        if open_reading and not hosts:
            raise DefinitionError(
                "a dashboard that can be read without a token needs hosts=, the names that it may be reached by"
            )
        self._token = token.encode("utf-8", "surrogatepass")
        self._key = hmac.digest(self._token, b"sagalog dashboard sessions", "sha256")
        self.open_reading = open_reading
        self._hosts = frozenset(host.lower() for host in hosts)
        # Cookies do not know ports: two dashboards on one machine must not overwrite each other's.
        self.cookie: str = f"sagalog_{sha256(self._key).hexdigest()[:8]}"

    def knows_host(self, host: str) -> bool:
        """Say whether a Host header names this server, so that no other name leads a browser here (DNS rebinding)."""
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            return False
        return bool(name) and (not self._hosts or name in self._hosts)

    def begin(self, token: str) -> str | None:
        """Return a new session for the right token, None for a wrong one. Takes as long for either."""
        if not hmac.compare_digest(sha256(token.encode("utf-8", "replace")).digest(), sha256(self._token).digest()):
            return None
        start = f"{int(time.time()) + SESSION_SECONDS}.{secrets.token_urlsafe(16)}"
        return f"{start}.{self._sign('session', start)}"

    def session(self, request: Request) -> str | None:
        """Return the session of a request, if it has one that is ours and has not ended."""
        session = request.cookies.get(self.cookie, "")
        return session if self.knows_session(session) else None

    def knows_session(self, session: str) -> bool:
        """Say whether a session is ours and has not ended."""
        start, _, signature = session.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._sign("session", start).encode()):
            return False
        return int(start.partition(".")[0]) > time.time()

    def may_read(self, request: Request) -> bool:
        """Say whether the pages may be shown."""
        return (self.open_reading and _from_here(request)) or self.session(request) is not None

    def form_token(self, session: str) -> str:
        """Return what every form of this session carries."""
        return self._sign("form", session)

    def refusal(self, request: Request, form: dict[str, str]) -> str:
        """Return why a change is refused, or an empty string."""
        session = self.session(request)
        if session is None:
            return "sign in first"
        if not began_here(request):
            return "the request did not come from a page of this dashboard"
        if not hmac.compare_digest(form.get("form_token", "").encode(), self.form_token(session).encode()):
            return "the form belongs to another session; reload the page"
        return ""

    def _sign(self, purpose: str, text: str) -> str:
        return hmac.new(self._key, f"{purpose} {text}".encode("utf-8", "replace"), sha256).hexdigest()


def _from_here(request: Request) -> bool:
    """Say whether a request is of this machine, as far as can be told; a proxy that hides itself well cannot be.

    Proxies add headers, ask for another name, or speak HTTP/1.0 as nginx does unless told otherwise; browsers do none.
    """
    if any(name in request.headers for name in _PASSED_ON) or request.scope.get("http_version") == "1.0":
        return False
    if request.client is not None and request.client.host not in LOOPBACK:
        return False
    return urlsplit(f"//{request.headers.get('host', '')}").hostname in LOOPBACK


def began_here(request: Request) -> bool:
    """Say whether a request began on our own pages, as far as its headers tell."""
    site = request.headers.get("sec-fetch-site", "same-origin")
    origin = request.headers.get("origin")
    return site == "same-origin" and (origin is None or origin.partition("://")[2] == request.headers.get("host"))


def known_operator(request: Request) -> str:
    """Return who has signed in to the app around the dashboard; empty where nobody has told it."""
    known = request.scope.get(OPERATOR, "")
    return known if isinstance(known, str) else ""


def operator_of(request: Request, form: dict[str, str]) -> str:
    """Return whose change it is: who is known to have signed in, and no name that was typed instead."""
    return (known_operator(request) or form.get("by", "")).strip()[:_MOST_NAMED]


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form. Raises HTTPException for what is too large, or not a form of ours."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise HTTPException(415, "This is not a form")
    body = bytearray()
    try:
        async with asyncio.timeout(FORM_SECONDS):  # whatever server it is mounted in
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_FORM_BYTES:
                    raise HTTPException(413, _TOO_LARGE)
    except TimeoutError:
        raise HTTPException(408, "The form took too long to arrive") from None
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=20))
    except ValueError:  # not UTF-8, or too many fields
        raise HTTPException(400, "This is not a form of the dashboard") from None


class Guard:
    """Refuses requests under a foreign name, and gives every answer the headers that keep a browser in bounds."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no websockets here
            await send({"type": "websocket.close", "code": 1003})
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-cache" if "etag" in headers else "no-store")
            await send(message)

        app: ASGIApp | Response = self._app
        if not self._access.knows_host(Request(scope).headers.get("host", "")):
            app = PlainTextResponse("This dashboard does not accept that host name: see --allowed-host.\n", 421)
        await app(scope, receive, guarded)
