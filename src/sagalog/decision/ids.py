"""All ids that are stored: made here, and taken apart here.

persistence id   saga::<saga name>::<correlation id>
tag              saga::<saga name>
entry            <sequence nr>/<index>                       a command or a timer, within its instance
command id       <persistence id>/<entry>
"""

from __future__ import annotations

FAMILY = "saga::"  # before the persistence ids of all sagas


def tag_of(saga: str) -> str:
    """Return the tag of a saga's records."""
    return FAMILY + saga


def prefix_of(saga: str) -> str:
    """Return what the persistence ids of a saga begin with."""
    return f"{FAMILY}{saga}::"


def persistence_id(saga: str, correlation_id: str) -> str:
    """Return the persistence id of an instance."""
    return f"{FAMILY}{saga}::{correlation_id}"


def entry_id(sequence_nr: int, index: int) -> str:
    """Return the id of a command or a timer within its instance: the step that made it, and its place in there."""
    return f"{sequence_nr}/{index}"


def command_id(persistence_id: str, entry: str) -> str:
    """Return the id under which a command leaves: the same at every delivery."""
    return f"{persistence_id}/{entry}"


def entry_of(persistence_id: str, command_id: str) -> str:
    """Return the entry in a command id of that instance."""
    return command_id[len(persistence_id) + 1 :]


def reply_id(command_id: str, event: str, index: int) -> str:
    """Return the message id of an event that a command handler answered: by its type, and its number among those.

    By its place alone, the answer of a second attempt could be taken for another one of the first attempt.
    """
    return f"{command_id}/reply/{event}/{index}"
