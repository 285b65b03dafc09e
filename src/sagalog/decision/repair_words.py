"""How the sentences of a repair name commands and children: by type and number, without payloads, and not too many."""

from __future__ import annotations

from collections.abc import Iterable

from .entries import Child, Command

NAMED = 5  # so many are named in a sentence


def child_named(child: Child) -> str:
    """Return the saga and the correlation id of a child."""
    return f"{child.saga} {child.id}"


def command_named(command: Command) -> str:
    """Return the type of a command and its number."""
    return f"{command.title} ({command.id})"


def sends(names: Iterable[str]) -> str:
    """Say that these undo commands are sent, in which order."""
    return f"sends {listed(names)}, last in first out"


def listed(names: Iterable[str]) -> str:
    """Return the first of these, and how many more there are."""
    listed = list(names)
    more = len(listed) - NAMED
    return ", ".join(listed[:NAMED]) + (f" and {more:,} more" if more > 0 else "")
