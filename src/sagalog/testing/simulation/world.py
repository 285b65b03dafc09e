"""What a user says about the world around the sagas: which events happen, what command handlers answer, what must hold."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec


class World:
    """Subclass it. One object is made for each simulated run; `chance` is that run's own randomness.

    `check` speaks of the commands of one instance as the outside saw them: each once, under its id, in the order of
    their first delivery; refused ones are not among them.
    """

    def events(self, chance: random.Random) -> Iterable[Any]:
        """Yield the events that happen, in their order; a number between them lets so many seconds pass."""
        raise NotImplementedError(f"{type(self).__name__}.events(chance) has to yield events")

    def answer(self, command: Any, chance: random.Random) -> Any:
        """Answer a command as its handler would: None, an event or a list of them; raise CommandRefused to refuse."""
        return None

    def check(self, instance: Finished) -> None:
        """Raise AssertionError if what became of an instance must never be."""


class Finished(msgspec.Struct):
    """One instance when nothing is left to do."""

    saga: str
    correlation_id: str
    status: str
    state: Any
    commands: list[Any]

    def has(self, command: type) -> bool:
        """Say whether such a command was carried out."""
        return any(isinstance(one, command) for one in self.commands)


class Report(msgspec.Struct):
    """What was simulated: runs, virtual days, and how often each thing happened."""

    seeds: int = 0
    days: float = 0.0
    seconds: float = 0.0
    happened: Mapping[str, int] = {}
