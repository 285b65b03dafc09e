"""How long the commands of an instance wait to be accepted, and whether a worker is at them.

A record tells which commands wait. When each was sent tells the step that sent it, where that is kept.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from ..decision import ids
from ..decision.entries import Command
from ..decision.record import SagaRecord
from ..journal import Journal
from .inspect import SagaView, view_of

LONG = timedelta(minutes=1)  # whoever looks is told of a command that waits for longer
_MAX_STEPS = 64  # looked up for one instance; what later steps sent waits at least since the last step


class Pending(msgspec.Struct, frozen=True):
    """A command that waits to be accepted: since when, and until when a worker holds it at least (None: nobody says so).

    `exact` False: the step that sent it is not kept, and it waits at least since then.
    """

    command: Command
    since: datetime
    exact: bool
    held_until: datetime | None = None

    @property
    def name(self) -> str:
        """Its type and number."""
        return f"{self.command.title} ({self.command.id})"


async def pending(journal: Journal, view: SagaView) -> list[Pending]:
    """Return the commands in the outbox of an instance, in the order in which they are delivered."""
    record = view.record
    if record is None or not record.outbox:
        return []
    steps = sorted({ids.sent_in(command.id)[0] for command in record.outbox})[:_MAX_STEPS]
    known = {step: at for step in steps if (at := await _taken_at(journal, view, record, step)) is not None}
    found = []
    for place, command in enumerate(record.outbox):
        at = known.get(ids.sent_in(command.id)[0])
        held = record.leased_until if place == 0 else None
        found.append(Pending(command, at or record.updated_at, at is not None, held))
    return found


async def oldest_pending(journal: Journal, view: SagaView) -> Pending | None:
    """Return the command of an instance that was sent first of those that wait; one lookup at most."""
    record = view.record
    if record is None or not record.outbox:
        return None
    command = min(record.outbox, key=lambda one: ids.sent_in(one.id))
    at = await _taken_at(journal, view, record, ids.sent_in(command.id)[0])
    held = record.leased_until if command is record.outbox[0] else None
    return Pending(command, at or record.updated_at, at is not None, held)


async def _taken_at(journal: Journal, view: SagaView, record: SagaRecord, step: int) -> datetime | None:
    """Return when a step was taken; None where it is not kept, or cannot be read."""
    if step == view.version:
        return record.updated_at
    own = ids.persistence_id(view.saga, view.correlation_id)
    async for message in journal.replay_messages(own, step, step, 1):
        kept = view_of(message).record
        return kept.updated_at if kept is not None else None
    return None
