"""What happened so far, told when an expectation is not met."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any


class Story:
    """Lines about one instance: at each moment what happened, and what the saga did."""

    def __init__(self, saga: str) -> None:
        self._saga = saga
        self._lines: list[str] = []
        self._begun: datetime | None = None
        self._ended = ""

    def begin(self, now: datetime, what: str) -> None:
        """Something happens."""
        if self._begun is None:
            self._begun = now
        self._lines.append(f"  +{now - self._begun}  {what}")

    def add(self, what: str) -> None:
        """The saga answers."""
        if what:
            self._lines.append(f"             {what}")

    def ends(self, status: str) -> None:
        """The instance has come to an end, or waits for an operator."""
        if self._ended != status:
            self._ended = status
            self.add(f"is {status}")

    def told(self, what: str) -> str:
        """Return a message with the whole story."""
        lines = self._lines or ["  nothing has happened yet"]
        return "\n".join([what, "", f"what happened to saga {self._saga!r}:", *lines])


def shown(what: str, expected: Any, actual: Any) -> list[str]:
    """Return the lines that put what was expected beside what came."""
    return [f"{what}: expected {expected!r}", f"{' ' * len(what)}       came {actual!r}"]


def differences(expected: Any, actual: Any) -> list[str]:
    """Return what is shown of a state that is not as expected: equal, or with these attributes where a mapping is given."""
    if not isinstance(expected, Mapping):
        return [] if actual == expected else shown("state", expected, actual)
    missing = object()
    return [
        line
        for name, value in expected.items()
        if (found := getattr(actual, name, missing)) != value
        for line in shown(f"state.{name}", value, "no such attribute" if found is missing else found)
    ]
