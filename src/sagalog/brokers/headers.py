"""Header values of any text where a broker takes printable ASCII only: percent-encoded, as CloudEvents has it for HTTP.

Only attributes of CloudEvents and headers of ours are encoded; those of others are passed on as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote, unquote_to_bytes

from ..errors import BrokerRefusedError

_PLAIN = "".join(chr(c) for c in range(0x21, 0x7F) if chr(c) not in '%"')
_ENCODED = ("ce-", "sagalog-")
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # a token of HTTP


def encoded(value: str) -> str:
    """Return a value in printable ASCII, without spaces. Lone surrogates come back as they are."""
    return quote(value, safe=_PLAIN, errors="surrogatepass")


def text_of(value: bytes) -> str:
    """Return what a broker holds as bytes as text; bytes that are no UTF-8 stand in it as lone surrogates."""
    for errors in ("strict", "surrogatepass"):
        try:
            return value.decode(errors=errors)
        except UnicodeDecodeError:
            continue
    return value.decode(errors="surrogateescape")


def bytes_of(text: str) -> bytes:
    """Return the bytes of which `text_of` made a text: what is put back is what was sent."""
    for errors in ("strict", "surrogateescape"):
        try:
            return text.encode(errors=errors)
        except UnicodeEncodeError:
            continue
    return text.encode(errors="surrogatepass")


def to_ascii(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers for the broker. Raises BrokerRefusedError for one that cannot be sent."""
    found = {}
    for name, value in headers.items():
        if not _NAME.fullmatch(name):
            raise BrokerRefusedError(f"this broker does not accept a header named {name!r}: a token of HTTP only")
        if name.lower().startswith(_ENCODED):
            found[name] = encoded(value)
        elif not (value.isascii() and value.isprintable() and value.strip() == value):
            raise BrokerRefusedError(f"the header {name!r} must hold printable ASCII only for this broker")
        else:
            found[name] = value
    return found


def from_ascii(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers as they were before `to_ascii`. Whatever a sender has encoded, it is a text."""
    return {
        name: text_of(unquote_to_bytes(bytes_of(value))) if name.lower().startswith(_ENCODED) else value
        for name, value in headers.items()
    }
