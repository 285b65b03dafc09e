"""How all is going: what is live, parked, overdue and undelivered, saga by saga, counted from what a journal holds."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec

from ..decision.entries import FINAL
from ..journal import Journal
from ..journal.protocol import server_now
from .inspect import SagaView, instances
from .outbox import oldest_pending

RECENT = timedelta(hours=1)


class Oldest(msgspec.Struct, frozen=True):
    """A command: of which instance, its number there, and its type."""

    id: str
    command: str
    type: str


class SagaStats(msgspec.Struct):
    """Figures of one saga. Moments are None where there is nothing of the kind.

    `changed`, `started` and `ended` count instances whose last step, start or end lies in the last hour: rates as far
    as records tell them. An instance that took many steps counts once; a purged one is forgotten.
    """

    saga: str
    live: int = 0
    parked: int = 0
    unreadable: int = 0
    compensation_failed: int = 0
    overdue: int = 0
    remembered: int = 0  # finished, as tombstones
    undelivered: int = 0  # commands in outboxes
    held: int = 0  # messages of parked instances
    kept: int = 0  # messages that wait for a phase, or for what comes before them
    timers: int = 0  # scheduled commands included
    oldest_undelivered_at: datetime | None = None  # of its step; of the newest step, where its own is not kept
    oldest_undelivered: Oldest | None = None
    oldest_overdue_timer_at: datetime | None = None
    changed: int = 0
    started: int = 0
    ended: int = 0
    phases: dict[str, int] = {}  # instances that have not ended, by the name of their phase


async def stats(
    journal: Journal,
    saga: str | None = None,
    *,
    now: datetime | None = None,
    count: Callable[[int], None] = lambda read: None,
    seen: Callable[[SagaView], SagaView] = lambda view: view,
) -> list[SagaStats]:
    """Return the figures of each saga, or of one, by name. Reads every record once; memory does not grow with them.

    `now` is the server's time unless given; `count` is told now and then how many instances were read.
    `seen` as for `instances`.
    """
    at = now if now is not None else await server_now(journal)
    found: dict[str, SagaStats] = {} if saga is None else {saga: SagaStats(saga)}
    read = 0
    async for view in instances(journal, saga, finished=True, seen=seen):
        figures = found.setdefault(view.saga, SagaStats(view.saga))
        _add(figures, view, at)
        oldest = await oldest_pending(journal, view)
        if oldest is not None and (figures.oldest_undelivered_at or oldest.since) >= oldest.since:
            figures.oldest_undelivered_at = oldest.since
            figures.oldest_undelivered = Oldest(view.correlation_id, oldest.command.id, oldest.command.command.type)
        read += 1
        count(read)
    return [found[name] for name in sorted(found)]


def _add(figures: SagaStats, view: SagaView, now: datetime) -> None:
    record = view.record
    figures.remembered += view.finished
    figures.live += not view.finished
    figures.overdue += view.overdue(now)
    figures.unreadable += view.status == "unreadable"
    if record is None:
        return
    figures.parked += bool(record.parked)
    figures.compensation_failed += record.status.value == "compensation_failed"
    figures.undelivered += len(record.outbox)
    figures.held += record.held_count
    figures.kept += record.kept_count
    if record.phase and record.status not in FINAL:
        figures.phases[record.phase] = figures.phases.get(record.phase, 0) + 1
    figures.timers += len(record.timers)
    figures.changed += record.updated_at > now - RECENT
    figures.started += record.started_at > now - RECENT
    figures.ended += view.finished and record.updated_at > now - RECENT
    timer = record.next_timer_at
    if timer is not None and timer < now:
        figures.oldest_overdue_timer_at = min(figures.oldest_overdue_timer_at or timer, timer)
