"""The body of a request, read within bounds: its type, its size, and the time it takes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from starlette.requests import ClientDisconnect, Request

from ..definition.codec import NOT_JSON
from .problems import ProblemError, refuse

# Who is answered within a body may see a broken connection instead, so a little too much is read, and dropped.
_DRAIN_BYTES = 256 * 1024
_ONCE = frozenset({"authorization", "content-type", "idempotency-key"})
_ESCAPED = re.compile(r"\\(.)")


class Posted:
    """A request as it came: `headers` (names in lower case), `body` as bytes, and `json`, decoded when it is asked for."""

    def __init__(self, headers: Mapping[str, str], body: bytes) -> None:
        self.headers = headers
        self.body = body

    def __repr__(self) -> str:
        return f"<Posted {len(self.body):,} bytes>"

    @cached_property
    def json(self) -> Any:
        """The body as plain JSON values."""
        try:
            return msgspec.json.decode(self.body)
        except NOT_JSON:
            raise refuse(400, "the body is not JSON in UTF-8; nothing was stored") from None


def check_content_type(headers: Mapping[str, str]) -> None:
    """Refuse what is not plain JSON in UTF-8."""
    kind, _, parameters = headers.get("content-type", "").lower().partition(";")
    kind = kind.strip()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise refuse(
            415, "the body must be application/json; nothing was stored", headers={"accept": "application/json"}
        )
    for parameter in parameters.split(";"):
        name, _, value = parameter.strip().partition("=")
        if name == "charset" and value.strip('"') not in ("utf-8", "utf8", "us-ascii"):
            raise refuse(415, "JSON must be UTF-8, whatever the charset says; nothing was stored")
    if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise refuse(415, "the body must be uncompressed; nothing was stored", headers={"accept-encoding": "identity"})


def headers_of(request: Request, *, once: str = "") -> dict[str, str]:
    """Return the headers, those that come several times as one list (RFC 9110, 5.3).

    Refuses a second one of those that hold one value, `once` among them: it may have been smuggled in, and nothing says
    which of both counts.
    """
    found: dict[str, str] = {}
    for name, value in request.headers.items():
        if name not in found:
            found[name] = value
        elif name in _ONCE or name == once or name.startswith("ce-"):
            raise refuse(400, f"the header {name} comes twice; nothing was stored")
        else:
            found[name] += f", {value}"
    return found


def attributes_of(request: Request) -> dict[str, str]:
    """Return the headers but for the token, the attributes of a CloudEvent decoded as its HTTP binding says (3.1.3.2)."""
    return {
        name: _decoded(value) if name.startswith("ce-") else value
        for name, value in headers_of(request).items()
        if name != "authorization"
    }


def _decoded(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = _ESCAPED.sub(r"\1", value[1:-1])
    try:
        return unquote_to_bytes(value.encode("latin-1")).decode()
    except UnicodeDecodeError:
        raise refuse(400, "an attribute of the CloudEvent in its headers is not UTF-8; nothing was stored") from None


async def read_body(request: Request, *, most_bytes: int, seconds: float) -> bytes:
    """Return the body. Refuses one of over `most_bytes`, and one that takes over `seconds` to arrive."""
    told = request.headers.get("content-length", "")
    if told.isascii() and told.isdigit() and (len(told) > 18 or int(told) > most_bytes + _DRAIN_BYTES):
        raise _too_large(most_bytes)  # before any of it is read
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > most_bytes + _DRAIN_BYTES:
                    break
                if size <= most_bytes:
                    body += chunk
    except TimeoutError:
        raise refuse(
            408, f"the body took over {seconds:g} s to arrive; nothing was stored", headers={"connection": "close"}
        ) from None
    except ClientDisconnect:
        raise refuse(400, "the connection ended before the body did; nothing was stored") from None
    if size > most_bytes:
        raise _too_large(most_bytes)
    return bytes(body)


def _too_large(most_bytes: int) -> ProblemError:
    detail = f"the body is over the limit of {most_bytes:,} bytes; nothing was stored"
    return refuse(413, detail, headers={"connection": "close"})  # the rest of it is not read
