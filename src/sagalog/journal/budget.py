"""Taking tokens of a rate that the workers of a journal share: one record for each command type, by compare-and-set."""

from __future__ import annotations

from datetime import datetime
from uuid import uuid4

from ..decision.budget import decode_budget, encode_budget, taking, wait_seconds
from ..decision.ids import rate_id
from ..errors import ConflictError
from ..waiting import Attempts, Waiting
from .protocol import Journal, PersistentRepr

_MANIFEST = "sagalog-rate"
_RACES = Waiting(attempts=5, first=0.01, most=0.1)
_KEPT = 100  # records; the older ones are of no use


async def take_tokens(
    journal: Journal, command: str, rate: float, now: datetime, *, wanted: int, back: int
) -> tuple[int, float]:
    """Take up to `wanted` tokens of this command type; return how many, and how long it is until there may be more.

    Where there is none, nothing is written. Raises what the journal raises, and ConflictError where others were faster each
    time: nothing was taken then. After OutcomeUnknownError they may be taken, and nobody uses them.
    """
    persistence_id = rate_id(command)
    attempts = Attempts(_RACES)
    while True:
        (latest,) = await journal.latest_messages([persistence_id])
        before = None if latest is None else decode_budget(latest.payload)
        budget, got = taking(before, rate, now, wanted, back)
        if not got:
            return 0, wait_seconds(budget, rate)
        number = 1 if latest is None else latest.sequence_nr + 1
        message = PersistentRepr(persistence_id, number, encode_budget(budget), _MANIFEST, f"saga-{uuid4()}")
        try:
            await journal.write_messages((message,))
        except ConflictError:
            if not await attempts.wait():
                raise
            continue
        if number % _KEPT == 0:
            await journal.delete_messages_to(persistence_id, number - 1)
        return got, 0.0
