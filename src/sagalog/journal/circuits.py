"""Open circuits, as their workers tell them to the journal: one record for all, by compare-and-set."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from ..decision.circuits import Circuits, OpenCircuit, decode_circuits, encode_circuits, reported
from ..decision.ids import CIRCUITS
from ..errors import ConflictError
from ..waiting import Attempts, Waiting
from .protocol import Journal, PersistentRepr

_MANIFEST = "sagalog-circuits"
_RACES = Waiting(attempts=10, first=0.01, most=0.2)
_KEPT = 100  # records


async def open_circuits(journal: Journal, now: datetime) -> list[OpenCircuit]:
    """Return which circuits are open, by command and worker. Raises what the journal raises, and CodecError."""
    said, _ = await _read(journal)
    return sorted((one for one in said.open if one.until > now), key=lambda one: (one.command, one.since))


async def report_circuits(journal: Journal, worker: str, mine: Sequence[OpenCircuit], now: datetime) -> None:
    """Say which circuits of a worker are open. Raises what the journal raises; what was said before holds then."""
    attempts = Attempts(_RACES)
    while True:
        before, number = await _read(journal)
        after = reported(before, worker, mine, now)
        if after == before:
            return
        message = PersistentRepr(CIRCUITS, number + 1, encode_circuits(after), _MANIFEST, worker)
        try:
            await journal.write_messages((message,))
        except ConflictError:
            if not await attempts.wait():
                raise
            continue
        if (number + 1) % _KEPT == 0:
            await journal.delete_messages_to(CIRCUITS, number)
        return


async def _read(journal: Journal) -> tuple[Circuits, int]:
    (latest,) = await journal.latest_messages([CIRCUITS])
    return (Circuits(), 0) if latest is None else (decode_circuits(latest.payload), latest.sequence_nr)
