"""Finding instances: by saga, status, id and reason, a page at a time, each with bounded work."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping

import msgspec

from ..decision.ids import FAMILY, behind_saga, parts_of, prefix_of
from ..definition.indexing import as_term
from ..errors import InvalidEventError
from ..journal import Journal, PersistentRepr
from ..journal.protocol import FindsByTerms, ListsLatest, latest_page
from ..operating.found_by import found_by
from ..operating.inspect import SagaView, view_of
from .overview import Overview
from .tally import NEEDS_REPAIR, STATUSES, WATCHED

PAGE = 50
BUDGET = 20_000  # records that one request looks at ...
BUDGET_SECONDS = 0.4  # ... or for so long

CHOICES = {
    "live": "live",
    "running": "running",
    "repair": "in need of a repair",
    "parked": "parked",
    "compensation_failed": "compensation failed",
    "unreadable": "unreadable",
    "compensating": "compensating",
    "overdue": "with an overdue timer",
    "undelivered": "with an undelivered command",
    "completed": "completed",
    "compensated": "compensated",
    "cancelled": "cancelled",
    "all": "live or finished",
}
_PLACE = re.compile(f"[012]:{FAMILY}[^:]+::")


class Filter(msgspec.Struct, frozen=True):
    """What is looked for: all of it must hold. `id` is how the id begins, or what it holds with `anywhere`."""

    saga: str = ""
    status: str = "live"
    id: str = ""
    anywhere: bool = False
    reason: str = ""
    phase: str = ""
    where: str = ""  # a field of the saga's index, or a key: `customer_id=c-7`; a field alone: where it is None
    after: str = ""  # the instance that the page before ended with, as `<pass>:<persistence id>`

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Filter:
        """Return the filter that a link holds. What is not understood is as if it were not there."""
        status = query.get("status", "")
        return cls(
            query.get("saga", ""),
            status if status in CHOICES else "live",
            query.get("id", ""),
            query.get("anywhere", "") == "1",
            query.get("reason", ""),
            query.get("phase", ""),
            query.get("where", "").strip(),
            query.get("after", "") if _PLACE.match(query.get("after", "")) else "",
        )

    @property
    def index(self) -> dict[str, str | None]:
        """What is looked for: a field of the index, or a key."""
        field, separator, text = self.where.partition("=")
        return {field.strip(): as_term(text) if separator else None} if self.where else {}

    def matches(self, view: SagaView) -> bool:
        """Say whether an instance is one of those, apart from its id and saga."""
        if self.where and (view.record is None or not view.record.found_by(self.index)):
            return False
        if self.phase and view.phase != self.phase:
            return False
        if self.status == "live":
            if view.finished:
                return False
        elif self.status == "repair":
            if view.status not in NEEDS_REPAIR:
                return False
        elif self.status in STATUSES and view.status != self.status:
            return False
        return self.reason.casefold() in view.why.casefold()

    def names(self, correlation_id: str) -> bool:
        """Say whether an id is one of those."""
        return self.id in correlation_id if self.anywhere else correlation_id.startswith(self.id)


class Found(msgspec.Struct):
    """A page of instances. `after` goes on; empty: there are no more. `looked_at`: how many were looked at for it."""

    views: list[SagaView]
    after: str
    looked_at: int
    cut: bool = False  # only the first of those that want attention are known


async def search(journal: Journal, overview: Overview, wanted: Filter) -> Found:
    """Return a page of what is wanted, having looked at BUDGET records at most: it may be empty and not be the last."""
    ids: list[str] | None = None
    cut = False
    if wanted.status in WATCHED or wanted.status == "repair":
        kinds = NEEDS_REPAIR if wanted.status == "repair" else (wanted.status,)
        watched = [overview.tally.watched[kind] for kind in kinds]
        ids, cut = [name for one in watched for name in one], any(one.cut for one in watched)
    elif wanted.status == "undelivered":
        ids, cut = list(overview.tally.undelivered), overview.tally.undelivered.cut
    elif wanted.status == "overdue":
        ids, cut = list(overview.overdue), overview.overdue_cut
    if ids is not None:
        return await _of_known(journal, wanted, ids, cut=cut)
    if wanted.where and wanted.status in ("live", "running", "compensating") and isinstance(journal, FindsByTerms):
        return await _of_index(journal, wanted, [wanted.saga] if wanted.saga else await known_sagas(journal, overview))
    return await _of_all(journal, overview, wanted)


async def _of_index(journal: Journal, wanted: Filter, sagas: list[str]) -> Found:
    """Go through what the journal's index finds; the place to go on from is the saga, and that of `found_by` in there."""
    kind, _, place = wanted.after.partition(":")
    begun, after = parts_of(place) if kind == "2" else ("", "")
    views: list[SagaView] = []
    looked_at = 0
    for saga in sagas:
        if saga < begun:
            continue
        after, more = after if saga == begun else "", True
        while more:
            try:
                page = await found_by(journal, saga, wanted.index, place=after, limit=PAGE)
            except InvalidEventError:  # no saga and no index can have such a name
                return Found(views, "", looked_at)
            after, more = page.place, bool(page.place)
            looked_at += page.looked_at
            views += [view for view in page.views if wanted.names(view.correlation_id) and wanted.matches(view)]
            if more and (len(views) >= PAGE or looked_at >= BUDGET):
                return Found(views, f"2:{prefix_of(saga)}{after}", looked_at)
    return Found(views, "", looked_at)


async def _of_known(journal: Journal, wanted: Filter, ids: list[str], *, cut: bool) -> Found:
    place = wanted.after.partition(":")[2]
    start = prefix_of(wanted.saga) if wanted.saga else FAMILY
    left = sorted(one for one in ids if one > place and one.startswith(start) and wanted.names(parts_of(one)[1]))
    views: list[SagaView] = []
    looked_at = 0
    while left[looked_at:] and len(views) < PAGE and looked_at < BUDGET:
        page = left[looked_at : looked_at + PAGE]
        for message in await asyncio.gather(*map(journal.latest_message, page)):
            looked_at += 1
            if message is not None and wanted.matches(view := view_of(message)):
                views.append(view)
            if len(views) == PAGE:
                break
    more = looked_at < len(left)
    return Found(views, f"0:{left[looked_at - 1]}" if more else "", looked_at, cut)


async def _of_all(journal: Journal, overview: Overview, wanted: Filter) -> Found:
    first, _, place = wanted.after.partition(":")
    # Live and finished ones together, in the order of ids: a database that were asked for one kind only would go through
    # any number of the other kind to find it.
    passes: list[bool | None] = [None] if isinstance(journal, ListsLatest) else [False, True]
    if first == "1":
        passes = [True]
    sagas = [wanted.saga] if wanted.saga else await known_sagas(journal, overview)
    views: list[SagaView] = []
    looked_at = 0
    until = time.monotonic() + BUDGET_SECONDS
    for deleted in passes:
        for saga in sagas:
            start = prefix_of(saga)
            if place and parts_of(place)[0] > saga:
                continue
            after = place if place.startswith(start) else ""
            prefix = start if wanted.anywhere else start + wanted.id
            while page := await _page(journal, prefix, after, deleted):
                for message in page:
                    after = message.persistence_id
                    looked_at += 1
                    if wanted.names(after[len(start) :]) and wanted.matches(view := view_of(message)):
                        views.append(view)
                    if len(views) == PAGE or looked_at >= BUDGET:
                        return Found(views, f"{int(bool(deleted))}:{after}", looked_at)
                if time.monotonic() > until:
                    return Found(views, f"{int(bool(deleted))}:{after}", looked_at)
        place = ""
    return Found(views, "", looked_at)


async def _page(journal: Journal, prefix: str, after: str, deleted: bool | None) -> list[PersistentRepr]:
    if isinstance(journal, ListsLatest):
        return await journal.latest_by_prefix(prefix, after=after, limit=PAGE * 4, deleted=deleted)
    return await latest_page(journal, prefix, after=after, limit=PAGE * 4, deleted=bool(deleted))


async def known_sagas(journal: Journal, overview: Overview) -> list[str]:
    """Return the names of the sagas, sorted, without going through the instances for it."""
    if not (isinstance(journal, ListsLatest) and getattr(journal, "sorted_ids", False)):
        return overview.tally.sagas()
    names: list[str] = []
    after = ""
    while page := await journal.latest_by_prefix(FAMILY, after=after, limit=1, deleted=None):
        names.append(parts_of(page[0].persistence_id)[0])
        after = behind_saga(names[-1])
    return names
