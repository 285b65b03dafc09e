"""Reading and changing what operators have said about the commands of a journal: one record, by compare-and-set."""

from __future__ import annotations

from uuid import uuid4

from ..decision.controls import Change, Controls, decode_controls, encode_controls
from ..decision.ids import CONTROLS
from ..errors import ConflictError, OutcomeUnknownError
from ..waiting import Attempts, Waiting
from .protocol import Journal, PersistentRepr

_MANIFEST = "sagalog-controls"
_WAITING = Waiting(attempts=50, first=0.005, most=0.5, seconds=30.0)


async def read_controls(journal: Journal) -> tuple[Controls, int]:
    """Return what is said, in one lookup, and the number of its record: 0 where nothing was ever said.

    Raises what the journal raises, and CodecError.
    """
    (latest,) = await journal.latest_messages([CONTROLS])
    return (Controls(), 0) if latest is None else (decode_controls(latest.payload), latest.sequence_nr)


async def change_controls(journal: Journal, change: Change) -> tuple[Controls, Controls]:
    """Store a change; durable on return. Return what was said before and what is said now: the same, if nothing changed.

    What others say at the same time is kept: who loses looks again. Raises what `change` and the journal raise; after
    OutcomeUnknownError it may be stored, and saying it again does no harm.
    """
    attempts, before = Attempts(_WAITING), None
    while True:
        found, version = await read_controls(journal)
        before = found if before is None else before
        after = change(found)
        if after == found:
            return before, after
        message = PersistentRepr(CONTROLS, version + 1, encode_controls(after), _MANIFEST, f"saga-{uuid4()}")
        try:
            await journal.write_messages((message,))
        except (ConflictError, OutcomeUnknownError):
            if not await attempts.wait():
                raise
        else:
            return found, after
