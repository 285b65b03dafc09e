"""What this worker cannot read or deliver it declines, and leaves to one that can: old and new code on one journal.

    deliver (a command), due (a record, a timer) ─► [declined] ─► due: not claimed again for a while

Nothing is written, so no lease is renewed and nothing is parked for good: to the others it looks like what a dead worker
has left. Were it claimed again at once, an old worker could keep it from the new ones for ever.
"""

from __future__ import annotations

from datetime import datetime, timedelta

_LEASES = 3  # so long, in case that the other worker is gone, or has left something that can be read


class Declined:
    """Ids of instances of one saga, each until this worker looks at it again."""

    def __init__(self, lease_seconds: float) -> None:
        self._wait = timedelta(seconds=_LEASES * lease_seconds)
        self._until: dict[str, datetime] = {}

    def add(self, correlation_id: str, now: datetime) -> None:
        """Leave an instance alone for some leases."""
        self._until[correlation_id] = now + self._wait

    def ids(self, now: datetime) -> frozenset[str]:
        """Return the ids that are to be left alone now; the others are forgotten."""
        if self._until:
            self._until = {one: until for one, until in self._until.items() if until > now}
        return frozenset(self._until)

    @property
    def first_until(self) -> datetime | None:
        """When the first of them is to be looked at again."""
        return min(self._until.values(), default=None)
