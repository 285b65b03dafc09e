"""Text on a terminal: what comes from the journal is cleaned before it is printed."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from ..operating.json_diff import ABSENT, Change
from ..text import clean, line, moment

_UNPRINTABLE = re.compile(r"[^ -~]")
_USER = re.compile(r"(?<=://)\S*@")  # to the last @: a password may hold one, or a slash
_SECRET = re.compile(r"(?i)((?:password|token|secret)=)[^&\s'\"]+")


def json_line(value: Any) -> str:
    r"""Return `value` as one line of JSON; what is not printable stands in it as \u202e, so that no terminal obeys it."""
    text = msgspec.json.format(
        msgspec.json.encode(value), indent=-1
    ).decode()  # a stored state may have lines of its own
    return text if text.isprintable() else _UNPRINTABLE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be")
    return (
        match[0]
        if match[0].isprintable()
        else "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
    )


def without_secrets(text: str) -> str:
    """Return `text` with the user and the password of every URL in it hidden: an argument in the wrong place is quoted."""
    return _SECRET.sub(r"\1***", _USER.sub("***@", text)) if "://" in text else text


def cut(text: str, most: int) -> str:
    """Return `text`, cut to so many characters where it is longer, with a mark."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def change_lines(changes: list[Change], *, most: int, width: int = 60) -> list[str]:
    """Return one line for each change of a state, the first `most` of them, long values cut."""
    lines = [f"{change.path or 'state'}: {_value(change, width)}" for change in changes[:most]]
    more = len(changes) - most
    return [*lines, f"and {more:,} more changes"] if more > 0 else lines


def _value(change: Change, width: int) -> str:
    before, after = _json(change.before, width), _json(change.after, width)
    if change.before is ABSENT:
        return f"new, {after}"
    return f"gone, was {before}" if change.after is ABSENT else f"{before} -> {after}"


def _json(value: Any, width: int) -> str:
    return "" if value is ABSENT else cut(json_line(value), width)


__all__ = ["change_lines", "clean", "cut", "json_line", "line", "moment", "without_secrets"]
