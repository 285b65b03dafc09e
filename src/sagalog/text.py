"""Text from the journal, made fit to be shown: ids and payloads may hold anything, escape sequences included."""

from __future__ import annotations

from datetime import datetime


def clean(text: str) -> str:
    r"""Return `text` with control and other unprintable characters written as \x1b, \u202e and so on."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape", "replace").decode() for c in text)


def line(text: str) -> str:
    """Return `text` cleaned, on one line."""
    return clean(text).replace("\n", "\\n")


def moment(at: datetime | None) -> str:
    """Return a moment to the second, in UTC."""
    return "" if at is None else at.strftime("%Y-%m-%d %H:%M:%S")
