"""Text from the journal, made fit to be shown: ids and payloads may hold anything, escape sequences included."""

from __future__ import annotations

from datetime import datetime

_LONG_NUMBER = 10**20
_LONG_TEXT = 100


def clean(text: str) -> str:
    r"""Return `text` with control and other unprintable characters written as \x1b, \u202e and so on."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape", "replace").decode() for c in text)


def line(text: str) -> str:
    """Return `text` cleaned, on one line."""
    return clean(text).replace("\n", "\\n")


def given(value: object) -> str:
    """Say in an error what was given as a setting: a number or a short text as it is, of anything else only the type.

    Python writes no whole number of over 4,300 digits, and an object's own words may be long, secret, or an error.
    """
    if value is None or isinstance(value, (bool, float)):
        return str(value)
    if isinstance(value, int):
        return str(value) if abs(value) < _LONG_NUMBER else "a number of over 20 digits"
    if isinstance(value, str) and len(value) <= _LONG_TEXT:
        return repr(value)
    return f"a {type(value).__name__}"


def plural(count: int, noun: str) -> str:
    """Return how many of something there are: `1 attempt`, `2 attempts`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def moment(at: datetime | None) -> str:
    """Return a moment to the second, in UTC."""
    return "" if at is None else at.strftime("%Y-%m-%d %H:%M:%S")
