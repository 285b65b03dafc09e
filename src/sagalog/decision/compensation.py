"""The undo stack: what was done is taken back, last in first out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..definition.codec import Typed
from .children import live_children, stops, untell_parent
from .entries import UNDER_WAY, Command, Held, Stage, Status, Undo
from .record import SagaRecord

_COMPENSATING = Status.COMPENSATING  # looked up once: Python 3.11 finds a member of an enum by a call


def compensate(
    record: SagaRecord, next_id: Callable[[], str], chain: list[Typed] | None = None, trace: str = ""
) -> None:
    """Drop the timers and send the undo stack, last in first out; where a chain is given, that instead.

    What earlier incarnations scheduled, and how to take back what they did, is theirs, and stays.
    """
    life = record.incarnation
    record.result = None  # what it had completed with is taken back
    record.timers = {name: timer for name, timer in record.timers.items() if timer.life != life}
    record.requests, record.gathers = (), {}
    untell_parent(record)
    if record.activities:
        stop_activities(record)
    undo = [Undo("", command, life) for command in chain] if chain else undo_of(record, life)
    if record.children and (first := stops(record, "stop", next_id, trace)):
        # Its own undo commands wait on the stack until the children have ended.
        record.undo = (*[u for u in record.undo if u.life != life], *reversed(undo))
        record.outbox = (*record.outbox, *first)
        record.status = Status.COMPENSATING
        return
    send_undo(record, undo, next_id, trace)


def stop_activities(record: SagaRecord) -> None:
    """Note that no result is wanted any more of the activities that are under way."""
    record.activities = {
        name: Stage("stopped", stage.entry, stage.why) if stage.status in UNDER_WAY else stage
        for name, stage in record.activities.items()
    }


def undo_of(record: SagaRecord, life: int) -> list[Undo]:
    """Return the undo stack of an incarnation, last in first out."""
    return [undo for undo in reversed(record.undo) if undo.life == life]


def compensate_earlier(record: SagaRecord, life: int, next_id: Callable[[], str], trace: str = "") -> None:
    """Take back what an incarnation did that had ended when one of its commands was refused."""
    undo = undo_of(record, life)
    record.timers = {name: timer for name, timer in record.timers.items() if timer.life != life}
    record.undo = tuple(u for u in record.undo if u.life != life)
    record.outbox = (*record.outbox, *(Command(next_id(), u.command, True, u.of, trace, life) for u in undo))


def send_undo(record: SagaRecord, undo: list[Undo], next_id: Callable[[], str], trace: str = "") -> None:
    """Queue the undo commands, in this order, behind what is still to be delivered. None: it is compensated.

    Undelivered commands are not dropped: their step is durable, so they may be on their way already.
    """
    life = record.incarnation
    record.undo = tuple(u for u in record.undo if u.life != life)
    record.outbox = (*record.outbox, *(Command(next_id(), u.command, True, u.of, trace, life) for u in undo))
    record.status = Status.COMPENSATING if undo else Status.COMPENSATED


def end_compensation(record: SagaRecord, next_id: Callable[[], str], trace: str = "") -> None:
    """Say that it is compensated, if it was compensating and no undo command is left to be accepted.

    Where its children had to end first, and have, what it did itself is undone now.
    """
    life = record.incarnation
    if record.status is not _COMPENSATING or any(c.undo and c.life == life for c in record.outbox):
        return
    if record.children and live_children(record):
        return
    send_undo(record, undo_of(record, life), next_id, trace)


def forget_earlier(record: SagaRecord, replaying: Iterable[Held] = ()) -> None:
    """Drop the undo stacks of earlier incarnations of which nothing is under way any more: none can be needed."""
    if record.incarnation == 1 or not record.undo or all(u.life == record.incarnation for u in record.undo):
        return
    owing = {c.life for c in record.outbox} | {t.life for t in record.timers.values()} | {record.incarnation}
    owing.update(held.life for held in (*record.held, *replaying))
    record.undo = tuple(u for u in record.undo if u.life in owing)
