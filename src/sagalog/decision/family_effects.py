"""What follows from dropping or resending an entry between parent and child, in plain words for an operator."""

from __future__ import annotations

from .entries import Command, Status
from .ids import parent_in, parts_of
from .record import SagaRecord


def dropped_effect(record: SagaRecord, command: Command) -> list[str]:
    """Say what follows where that entry is dropped, of a record as it was before; nothing for a command."""
    if not command.family:
        return []
    child = " ".join(parts_of(command.to))
    awaits = command.life == record.incarnation
    if command.family == "tell":
        parent = parent_in(command.to)
        if parent is None:
            return []
        name = " ".join(parts_of(parent.persistence_id))
        return [f"does not tell its parent {name} of the end: `drop` of {parent.entry} there counts this one as failed"]
    if command.family == "start" and awaits and record.status is Status.RUNNING:
        return [f"counts its child {child} as failed; if that has started after all, it is left as it is"]
    if command.family == "stop" and awaits and command.of in record.children:
        return [f"counts its child {child} as failed, and leaves it as it is: it continues"]
    return [] if command.family == "start" else [f"leaves its child {child} as it is"]


def resent_effect(record: SagaRecord, command: Command) -> list[str]:
    """Say what follows where that entry is sent again; nothing for a command."""
    if command.family == "tell":
        return ["a parent that has heard of this end ignores it"]
    if command.family == "start":
        if command.life == record.incarnation and command.id in record.children:
            return ["starts no second child, unless the first one is forgotten"]
        return ["if that child is forgotten, another one begins, whose end this parent ignores"]
    return ["asks the child again, if it still runs"] if command.family else []
