"""Who started an instance, and which children of it run, each as its own record says."""

from __future__ import annotations

import msgspec

from ..decision import ids
from ..decision.children import ended_silently, is_life, live_children, started_as
from ..decision.entries import FINAL, Child
from ..decision.record import SagaRecord
from ..journal import Journal
from .inspect import SagaView, find

MOST_SHOWN = 20  # children that are looked up


class Relative(msgspec.Struct, frozen=True):
    """A parent or a child. `status`: as it is shown, or "not started yet", or "gone"; `why`: it needs an operator.

    `entry`: the number under which the parent started the child.
    """

    saga: str
    id: str
    entry: str
    status: str
    why: str = ""


class Family(msgspec.Struct, frozen=True):
    """The relatives of an instance. `children`: those that run, MOST_SHOWN at most of `running`; `ended`: by outcome."""

    parent: Relative | None = None
    children: tuple[Relative, ...] = ()
    running: int = 0
    ended: dict[str, int] = {}

    @property
    def summary(self) -> str:
        """How many children run, and how the others ended; nothing where there are none."""
        told = [f"{self.running:,} running"] if self.running else []
        return ", ".join([*told, *(f"{number:,} {outcome}" for outcome, number in sorted(self.ended.items()))])


async def family(journal: Journal, view: SagaView) -> Family:
    """Return the relatives of an instance: a lookup for its parent, and for each child that is shown."""
    record = view.record
    if record is None or not (record.parent or record.children or record.child_ends):
        return Family()
    own = ids.persistence_id(view.saga, view.correlation_id)
    running = live_children(record)
    shown = list(running.items())[:MOST_SHOWN]
    children = [await _child(journal, own, record, entry, child) for entry, child in shown]
    return Family(await _parent(journal, record), tuple(children), len(running), record.child_ends)


async def _parent(journal: Journal, record: SagaRecord) -> Relative | None:
    parent = ids.parent_in(record.parent)
    if parent is None:
        return None
    saga, correlation_id = ids.parts_of(parent.persistence_id)
    found = await find(journal, correlation_id, saga)
    if not found:
        return Relative(saga, correlation_id, parent.entry, "gone")
    now = found[0].record
    if now is not None and not is_life(now, parent):
        return Relative(saga, correlation_id, parent.entry, "ended, and was started again")
    return Relative(saga, correlation_id, parent.entry, found[0].status, found[0].why)


async def _child(journal: Journal, own: str, record: SagaRecord, entry: str, child: Child) -> Relative:
    found = await find(journal, child.id, child.saga)
    now = found[0].record if found else None
    if now is not None and now.parent == started_as(own, entry, child):
        if ended_silently(now, now.parent):
            return Relative(child.saga, child.id, entry, f"{found[0].status}, and has no parent to tell", _go_on(entry))
        told = ", and has yet to tell its parent" if now.status in FINAL else ""
        return Relative(child.saga, child.id, entry, f"{found[0].status}{told}", found[0].why)
    if found and found[0].unreadable:
        return Relative(child.saga, child.id, entry, found[0].status, found[0].why)
    waits = any(command.id == entry for command in record.outbox)
    return Relative(child.saga, child.id, entry, *(("not started yet",) if waits else ("gone", _go_on(entry))))


def _go_on(entry: str) -> str:
    return f"`drop` of {entry} on the parent counts it as failed"
