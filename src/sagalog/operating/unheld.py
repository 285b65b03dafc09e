"""Reservations of unique keys that nobody holds, before a worker sweeps them.

A worker looks at each once a retention, and not at all where the saga runs nowhere any more. Here all are looked through.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from time import monotonic

from ..decision.ids import BY_KEY, reservations_of
from ..decision.reservation import Standing, decode_reservation
from ..errors import CodecError
from ..journal import Journal, PersistentRepr
from ..journal.protocol import all_latest
from ..journal.reservations import Reservations
from .apply import RETENTION

_AT_ONCE = 64
_ON_ITS_WAY = timedelta(hours=1)  # for so long, a step that a reservation was made for is left alone


async def unheld(
    journal: Journal, saga: str | None, *, now: datetime, older_than: timedelta
) -> AsyncIterator[tuple[Reservations, PersistentRepr]]:
    """Yield the reservations that nobody holds and that were made longer ago; each with those of its saga.

    `Reservations.forget` forgets one. Where the step that it was made for may still be on its way, it is not among them for
    an hour.
    """
    of: dict[str, Reservations] = {}
    least = {Standing.FREE: older_than, Standing.PENDING: max(older_than, _ON_ITS_WAY)}
    prefix = BY_KEY if saga is None else reservations_of(saga)
    for deleted in (True, False):  # one that is forgotten meanwhile could be listed once more as deleted
        async for found in all_latest(journal, prefix, limit=_AT_ONCE, deleted=deleted):
            name = found.persistence_id.removeprefix(BY_KEY).partition("::")[0]
            if name not in of:
                of[name] = Reservations(journal, name, lambda: now, monotonic, RETENTION)
            worth = await of[name].worth(found)
            if worth in least and now - _made_at(found, now) >= least[worth]:
                yield of[name], found


def _made_at(found: PersistentRepr, now: datetime) -> datetime:
    """Return when it was made; of what is left of a sweep, and says so no more, that was long ago."""
    if found.deleted:
        return datetime.min.replace(tzinfo=UTC)
    try:
        return decode_reservation(found.payload).at
    except CodecError:
        return now
