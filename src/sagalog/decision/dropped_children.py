"""What an operator's repair means for children: one whose start or stop is dropped counts as failed.

repair ─► [dropped_children] ─► a held message ─► replay ─► the method that hears of the child's end
"""

from __future__ import annotations

from .children import ChildTold, NextId, child_entry, failed_to_start, settle_child, started_as
from .compensation import end_compensation
from .entries import Held, Status
from .ids import end_id
from .record import SagaRecord


def fail_dropped(before: SagaRecord, record: SagaRecord, next_id: NextId, own: str) -> None:
    """Where a repair took out what starts a child, let the saga hear that it failed, by a held message; or ask no more.

    While it compensates, what stops that child says so instead. Nobody waits for a child that nobody asks to stop.
    """
    if not before.children:
        return
    left = {command.id for command in record.outbox}
    for command in before.outbox:
        if command.id in left or not command.family or command.life != record.incarnation:
            continue
        if command.family == "start" and record.status is Status.RUNNING:
            message_id, told = failed_to_start(own, command, "an operator has dropped its start")
            record.held = (*record.held, Held(message_id, told.packed(), "child"))
        elif command.family == "stop" and record.status is Status.COMPENSATING and command.of in record.children:
            settle_child(record, command.of, "failed")
    end_compensation(record, next_id)  # of such a child, or of the held end of one, it may have been the last


def awaits(record: SagaRecord, entry: str) -> bool:
    """Say whether it waits for the end of the child that was started by that entry, and is to hear of it."""
    if entry not in record.children or record.status not in (Status.RUNNING, Status.COMPENSATING):
        return False
    started = all(command.id != entry for command in record.outbox)
    return started and not any(held.kind == "child" and child_entry(held.id) == entry for held in record.held)


def fail_awaited(record: SagaRecord, entry: str, next_id: NextId, own: str) -> None:
    """Count a child as failed, whatever becomes of it: a running parent is told by a held message."""
    if record.status is Status.COMPENSATING:
        settle_child(record, entry, "failed")
        end_compensation(record, next_id)
        return
    child = record.children[entry]
    told = ChildTold(child.saga, child.id, "failed", None, "an operator no longer waits for it")
    record.held = (*record.held, Held(end_id(started_as(own, entry, child)), told.packed(), "child"))
