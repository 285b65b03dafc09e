"""Messages as a record holds or keeps them, and how they are taken out again."""

from __future__ import annotations

from typing import Any

import msgspec

from ..definition.codec import Typed
from ..definition.saga import Saga
from .entries import Held
from .message import Message
from .record import SagaRecord
from .sequences import place_of


def held_of(saga: Saga[Any], message: Message, packed: Typed, life: int) -> Held:
    """Return a message as a record holds or keeps it, with its number where its sender gave it one."""
    sequence, number = place_of(saga, message)
    return Held(
        message.id,
        packed,
        message.kind,
        message.reason,
        message.name,
        message.trace,
        life=life,
        at=message.at,
        kept=message.was_kept,
        sequence=sequence,
        number=number,
        gather=message.gather,
        by=message.sent_by,
    )


def all_kept(record: SagaRecord, first: Message) -> tuple[Held, ...]:
    """Return all that is kept as it is to be held, with that message in front."""
    kept = [msgspec.structs.replace(one, kept=True) for one in record.kept]
    kept.sort(key=lambda one: (one.id, one.kind) != (first.id, first.kind))
    return tuple(kept)
