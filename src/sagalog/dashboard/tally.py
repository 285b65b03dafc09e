"""How many instances stand where, and which of them want attention: counts, and bounded sets of ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Generic, TypeVar

import msgspec

from ..decision.entries import FINAL, Status
from ..decision.ids import persistence_id
from ..operating.inspect import SagaView

MAX_WATCHED = 10_000

# Live statuses that only some instances have at a time: their ids are kept, so that a page of them is there at once.
WATCHED = ("parked", "compensation_failed", "unreadable", "compensating")
STATUSES = ("running", *WATCHED, "completed", "compensated", "cancelled", "finished")
NEEDS_REPAIR = ("parked", "compensation_failed", "unreadable")
_LIVE = frozenset({Status.RUNNING.value, *WATCHED})

T = TypeVar("T")


class Watched(Generic[T]):
    """Ids with what is known of each, at most MAX_WATCHED. `cut`: there were more, so that what is here is a part."""

    def __init__(self) -> None:
        self.entries: dict[str, T] = {}
        self.cut: bool = False

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def put(self, persistence_id: str, entry: T) -> None:
        """Keep an id, or note that there was no room for it."""
        if persistence_id in self.entries or len(self.entries) < MAX_WATCHED:
            self.entries[persistence_id] = entry
        else:
            self.cut = True

    def drop(self, persistence_id: str) -> None:
        """Forget an id."""
        self.entries.pop(persistence_id, None)


class Undelivered(msgspec.Struct, frozen=True):
    """The oldest command of an instance that nobody has recorded as accepted, and how many it has of them."""

    command_id: str
    type: str
    since: datetime
    exact: bool  # `since` is when its step was taken; else the step is not kept, and it is at least that old
    number: int = 1


def name_of(view: SagaView) -> str:
    """Return the persistence id."""
    return persistence_id(view.saga, view.correlation_id)


class Tally:
    """Counts by saga and status, with the ids that want attention."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.phases: Counter[tuple[str, str]] = Counter()  # by saga and phase, of those that have not ended
        self.undrained: Counter[str] = Counter()  # ended, with something left to deliver: by saga
        self.watched: dict[str, Watched[str]] = {status: Watched() for status in WATCHED}  # the reason
        self.undelivered: Watched[Undelivered] = Watched()

    def add(self, view: SagaView) -> None:
        """Count an instance."""
        self._count(view.saga, view.status, _undrained(view), 1)
        if phase := _phase(view):
            self.phases[view.saga, phase] += 1
        watched = self.watched.get(view.status)
        if watched is not None:
            watched.put(name_of(view), view.why)

    def move(self, before: SagaView | None, after: SagaView) -> None:
        """Count an instance where it stands now, and no longer where it stood.

        Where the record before is not kept, it stood where its id is watched, or was running, as nearly all are.
        """
        name = name_of(after)
        if before is not None:
            status, undrained = before.status, _undrained(before)
        else:
            status, undrained = (
                next((one for one, ids in self.watched.items() if name in ids.entries), "running"),
                False,
            )
        if before is not None or not _began(after):
            self._count(after.saga, status, undrained, -1)
            if before is not None and (phase := _phase(before)):
                self.phases[after.saga, phase] = max(0, self.phases[after.saga, phase] - 1)
            if status in self.watched and status != after.status:
                self.watched[status].drop(name)
        self.add(after)

    def _count(self, saga: str, status: str, undrained: bool, change: int) -> None:
        self.counts[saga, status] = max(0, self.counts[saga, status] + change)
        if undrained:
            self.undrained[saga] = max(0, self.undrained[saga] + change)

    def sagas(self) -> list[str]:
        """Return the names of the sagas that were seen, sorted."""
        return sorted({saga for saga, _ in self.counts})

    def count(self, *statuses: str, saga: str | None = None) -> int:
        """Return how many instances have one of these statuses, of one saga or of all."""
        return sum(
            number
            for (name, status), number in self.counts.items()
            if status in statuses and (saga is None or name == saga)
        )

    def by_phase(self, saga: str) -> list[tuple[str, int]]:
        """Return the phases in which live instances of a saga were seen, with how many are in each, sorted by name."""
        return sorted((phase, number) for (name, phase), number in self.phases.items() if name == saga and number)

    def live(self, saga: str | None = None) -> int:
        """Return how many instances are live: those that have not ended, or have something left to deliver."""
        undrained = sum(self.undrained.values()) if saga is None else self.undrained[saga]
        return self.count(*_LIVE, saga=saga) + undrained


def _phase(view: SagaView) -> str:
    """Return the phase of an instance that has not ended; nothing for one that has none."""
    return view.phase if view.record is not None and view.record.status not in FINAL else ""


def _undrained(view: SagaView) -> bool:
    return view.record is not None and view.record.status in FINAL and not view.finished


def _began(view: SagaView) -> bool:
    """Say whether this is the first record of an incarnation."""
    record = view.record
    return view.version == 1 or (
        record is not None and record.incarnation > 1 and record.started_at == record.updated_at
    )
