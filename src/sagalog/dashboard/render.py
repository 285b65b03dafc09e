"""Pages from templates: everything escaped, unprintable characters made visible, links that hold any id."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request

from ..definition.codec import NOT_JSON
from ..text import clean, moment
from .mask import Mask

HERE = Path(__file__).parent
MAX_SHOWN = 20_000  # characters of a state on a page; the rest is behind a link
MAX_OF_A_MESSAGE = 4_000  # characters
_NOT_JSON = "(not JSON)"

PATHS = {
    "overview": "/",
    "instances": "/instances",
    "instance": "/instance",
    "payload": "/instance/payload",
    "saga": "/saga",
    "repair": "/repair",
    "commands": "/commands",
    "send": "/send",
    "login": "/login",
    "logout": "/logout",
    "static": "/static",
}


def link(request: Request, page: str, **query: object) -> str:
    """Return the address of a page, below where the dashboard is mounted; empty parameters are left out.

    Ids stand in the query, percent-encoded: in a path, browsers and proxies would take `..` and `//` apart.
    """
    given = {name: str(value) for name, value in query.items() if value not in (None, "", False)}
    root: str = request.scope.get("root_path", "")
    return quote(root) + PATHS[page] + (f"?{urlencode(given, quote_via=quote, safe='')}" if given else "")


def live_address(request: Request) -> str:
    """Return where changes of the page that was asked for are told."""
    path = request.url.path.rstrip("/") + "/live"
    return f"{path}?{request.url.query}" if request.url.query else path


def span(duration: timedelta) -> str:
    """Return a duration in its one or two largest units: `3 d 4 h`, `2 min 5 s`, `0.2 s`."""
    seconds = abs(duration.total_seconds())
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    parts: list[tuple[int, str]] = []
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        number, whole = divmod(whole, length)
        if number or parts:
            parts.append((number, unit))
        if len(parts) == 2:
            break
    return " ".join(f"{number:,} {unit}" for number, unit in parts if number)


def pretty(raw: bytes | msgspec.Raw, mask: Mask) -> str:
    """Return JSON for people, with the masked fields hidden. What is not JSON is not shown."""
    data = bytes(raw)
    try:
        if mask:
            data = msgspec.json.encode(mask.apply(msgspec.json.decode(data)))
        return msgspec.json.format(data).decode()
    except NOT_JSON:
        return _NOT_JSON


def whole_number(text: str) -> int | None:
    """Return the number that a link or a form holds, if it is one that a step can have."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None


def cut(text: str, most: int = MAX_SHOWN) -> tuple[str, int]:
    """Return the beginning of a long text, and how many characters of it are left out."""
    return text[:most], max(0, len(text) - most)


def environment() -> Environment:
    """Return the templates. A name that a page does not have is an error, not an empty string."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    made.filters.update(
        moment=moment, span=span, iso=_iso, number=lambda value: f"{value:,}", words=lambda text: text.replace("_", " ")
    )
    made.globals.update(timedelta=timedelta)
    return made


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _visible(value: Any) -> Any:
    """Make what a text would do unseen (control characters, changes of direction) visible; markup is of templates."""
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value
