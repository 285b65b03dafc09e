"""This worker declines what it cannot read or deliver, for workers with other code on the same journal.

    deliver (a command), due (a record, a timer) ─► [declined] ─► due: not claimed again for a while

Nothing is written: no lease is renewed, and nothing is parked for good. To other workers it looks like the work of a dead
one. If an old worker claimed it again at once, it could keep the work from newer workers for ever.
"""

from __future__ import annotations

from datetime import datetime, timedelta

_LEASES = 3  # then we look again: the other worker may be gone, or may have written what we can read


class Declined:
    """The declined instances of one saga, by id, and until when."""

    def __init__(self, lease: timedelta) -> None:
        self._wait = _LEASES * lease
        self._until: dict[str, datetime] = {}

    def add(self, correlation_id: str, now: datetime) -> None:
        """Decline an instance for some leases."""
        self._until[correlation_id] = now + self._wait

    def ids(self, now: datetime) -> frozenset[str]:
        """Return the ids that are declined now; the others are forgotten."""
        if self._until:
            self._until = {one: until for one, until in self._until.items() if until > now}
        return frozenset(self._until)

    @property
    def first_until(self) -> datetime | None:
        """When the first of them is not declined any more."""
        return min(self._until.values(), default=None)
