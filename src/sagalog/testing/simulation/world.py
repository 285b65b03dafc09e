"""What a user says about the world around the sagas: which events happen, what command handlers answer, what must hold."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar

import msgspec

from ...definition.activities import Call
from ...definition.saga import Saga
from ...runner import CommandPolicy, NoInstance
from ...runner.arguments import check_duration


class World:
    """Subclass it. One object is made for each simulated run; `chance` is that run's own randomness.

    `check` and `check_all` see each life of a correlation id as an instance of its own. They speak of its commands as
    the outside saw them: each once, under its id, in the order of their first delivery; refused ones are not among them.
    """

    sagas: ClassVar[Sequence[Saga[Any] | type[Saga[Any]]]] = ()  # for `sagalog simulate MODULE:WORLD`
    # What its operator does about parked instances: also "skip", "cancel".
    repairs: ClassVar[Sequence[str]] = ("retry",)
    may_park: ClassVar[bool] = False  # whether an instance may stay parked in spite of them
    clients: ClassVar[int] = 0  # further processes that only take events, and leave the rest to the workers
    # What its operator pauses now and then, and resumes: command types, and activities as "trip.flight".
    pauses: ClassVar[Sequence[type | str]] = ()
    policies: ClassVar[Mapping[type, CommandPolicy]] = {}  # of command types, as the runner has them
    no_instance: ClassVar[NoInstance | str] = NoInstance.IGNORE  # the runner's setting
    horizon: ClassVar[timedelta] = timedelta(days=400)  # after the last event: then what still runs is judged as it is

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        check_duration(f"{cls.__name__}.horizon", cls.horizon)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}, a World of {', '.join(saga.name for saga in self.sagas) or 'no saga'}>"

    def events(self, chance: random.Random) -> Iterable[Any]:
        """Yield the events that happen, in their order; a number between them lets so many seconds pass."""
        raise NotImplementedError(f"{type(self).__name__}.events(chance) has to yield events")

    def answer(self, command: Any, chance: random.Random) -> Any:
        """Answer a command as its handler would: None, an event or a list of them; raise CommandRefused to refuse."""
        return None

    def activity(self, saga: str, name: str, state: Any, call: Call, chance: random.Random) -> Any:
        """Do as this activity would outside, once for each `call.id`: return its result; raise CommandRefused to refuse.

        The saga's own methods are not called.
        """
        raise NotImplementedError(f"{type(self).__name__}.activity(...) has to answer for {name} of saga {saga}")

    def undo(self, saga: str, name: str, state: Any, call: Call, chance: random.Random) -> None:
        """Take back what this activity did, as its undo would; `call.of` is the id under which it was called."""

    def check(self, instance: Finished) -> None:
        """Raise AssertionError if what became of an instance must never be."""

    def check_all(self, instances: list[Finished]) -> None:
        """Raise AssertionError if what became of all instances together must never be."""


class Finished(msgspec.Struct):
    """One instance when nothing is left to do. `status` is `parked`, or that of its record."""

    saga: str
    correlation_id: str
    status: str
    state: Any
    commands: list[Any]
    repairs: list[str] = []  # by an operator, in their order: "retry", "skip", "cancel", "cancel with compensation"

    def has(self, command: type) -> bool:
        """Say whether such a command was carried out."""
        return any(isinstance(one, command) for one in self.commands)
