"""Settings in a journal's URL: `?history=10&migrate=true`, checked the same way for every backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl

from ..errors import DefinitionError
from ..text import given

LONGEST = timedelta(seconds=1_000_000)  # of what a journal is told to wait
_YES = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def history_setting(value: str) -> str | int:
    """Return how much history a URL asks for; `check_history` says whether it can be."""
    return int(value) if value.isascii() and value.isdigit() and len(value) < 19 else value


def yes(value: str) -> bool:
    """Return the truth of a word. Raises KeyError."""
    return _YES[value]


def seconds(value: str) -> timedelta:
    """Return so many seconds. Raises ValueError, also for more than LONGEST."""
    if not 0 <= (number := float(value)) <= LONGEST.total_seconds():
        raise ValueError(value)
    return timedelta(seconds=number)


def milliseconds(value: str) -> timedelta:
    """Return so many milliseconds. Raises ValueError."""
    return seconds(value) / 1000


Known = Mapping[str, Callable[[str], Any]]  # how each setting's value is read

_KINDS: dict[Callable[[str], Any], str] = {
    yes: "true or false",
    int: "a number",
    seconds: f"a number from 0 to {LONGEST.total_seconds():,.0f}",
    milliseconds: f"a number from 0 to {LONGEST.total_seconds():,.0f}",
}
# A URL holds numbers, with the unit in the setting's name; the argument of that setting is a timedelta.
_ARGUMENTS = {
    "busy_seconds": "busy_timeout",
    "on_loop_ms": "on_loop",
    "connect_seconds": "connect_timeout",
    "timeout_seconds": "timeout",
}


def split_settings(scheme: str, query: str, known: Known) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return the known settings of a URL's query, read, and the others as they are. Raises DefinitionError."""
    settings: dict[str, Any] = {}
    others: list[tuple[str, str]] = []
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            others.append((name, value))
            continue
        argument = _ARGUMENTS.get(name, name)
        if argument in settings:
            raise DefinitionError(f"{name} is given twice in {_url(scheme)}: leave one out")
        try:
            settings[argument] = known[name](value)
        except (KeyError, ValueError):
            kind = _KINDS[known[name]]
            raise DefinitionError(f"{name} in {_url(scheme)} is {kind}, not {value!r}") from None
    return settings, others


def only_known(scheme: str, known: Known, others: list[tuple[str, str]]) -> None:
    """Raise DefinitionError for a setting that nobody knows."""
    if others:
        raise DefinitionError(f"unknown setting {others[0][0]!r} in {_url(scheme)}; known: {', '.join(known)}")


def _url(scheme: str) -> str:
    return f"{'an' if scheme == 'sqlite' else 'a'} {scheme}:// URL"


def check_history(history: str | int) -> int | None:
    """Return how many records before the newest are kept, None for all. Raises DefinitionError."""
    if isinstance(history, str) and history == "all":
        return None
    if not isinstance(history, int) or isinstance(history, bool) or not 0 <= history < 2**62:
        raise DefinitionError(f'history must be "all" or a number of records from 0, not {given(history)}')
    return history
