"""How an operator ends an instance, with its undo commands sent or as it stands, and takes up a compensation again."""

from __future__ import annotations

from .children import NextId, live_children, stops
from .compensation import compensate, forget_earlier, send_undo, stop_activities, undo_of
from .dropping import drop_commands, drop_held, drop_kept
from .entries import FINAL, UNDER_WAY, Command, Status
from .record import SagaRecord
from .repair_words import child_named, command_named, listed, sends


def resume_compensation(record: SagaRecord, next_id: NextId) -> list[str]:
    """Send what is left of the undo stack; say what that is."""
    undo = undo_of(record, record.incarnation)
    send_undo(record, undo, next_id)
    return [sends(entry.command.type for entry in undo)] if undo else ["nothing is left to undo: it is compensated"]


def cancel_compensating(record: SagaRecord, next_id: NextId) -> list[str]:
    """Drop what waits and begin to compensate, or go on with it; say what that means."""
    stop_activities(record)
    record.gathers = {}  # no leg counts any more
    effects = [*drop_held(record, record.held), *drop_kept(record)]
    life, compensating = record.incarnation, record.status is Status.COMPENSATING
    # They would be in the way of the undo commands. Their own undo is sent: nobody knows how far they came.
    effects += drop_commands(
        record,
        [
            command
            for command in record.outbox
            if (command.life == life and not command.undo and not command.family)
            or (command.id == record.stuck and not compensating)
        ],
    )
    forget_earlier(record)
    ahead = [command for command in record.outbox if command.life != life]
    if ahead:
        effects.append(
            f"waits for {listed(map(command_named, ahead))} of an earlier incarnation: `drop` skips one that hangs"
        )
    if compensating:
        asked = {command.of for command in record.outbox if command.family in ("stop", "cancel")}
        again = [one for one in stops(record, "stop", next_id) if one.of not in asked]
        if again:  # what they were asked by is accepted; one that has ended since, or is gone, says so
            record.outbox = (*record.outbox, *again)
            effects.append(
                f"asks its children again to compensate: {listed(child_named(record.children[one.of]) for one in again)}"
            )
        left = [c.command.type for c in record.outbox if c.undo and c.life == life and not c.family]
        left = left or [undo.command.type for undo in undo_of(record, life)]
        effects.append(f"continues its compensation: {sends(left) if left else 'nothing is left to send'}")
    else:
        undo = undo_of(record, life)
        if record.status is Status.COMPENSATION_FAILED:
            effects += resume_compensation(record, next_id)
        elif record.status in (Status.RUNNING, Status.COMPLETED):
            children = live_children(record)
            compensate(record, next_id)
            if children:
                effects.append(f"compensates its children first: {listed(map(child_named, children.values()))}")
            effects.append(sends(entry.command.type for entry in undo) if undo else "there is nothing to undo")
    record.parked = record.stuck = record.gap = ""
    return effects


def cancel_as_it_stands(record: SagaRecord, next_id: NextId) -> list[str]:
    """End the instance and undo nothing; say what that means."""
    if record.activities:
        under_way = {stage.entry for stage in record.activities.values() if stage.status in UNDER_WAY}
        stop_activities(record)
    else:
        under_way = set()
    record.gathers = {}  # no leg counts any more
    effects, life = [*drop_held(record, record.held), *drop_kept(record)], record.incarnation
    undoing = (c for c in record.outbox if c.undo and c.life == life and c.id != record.stuck)
    effects += drop_commands(record, [*stuck_in(record), *undoing])
    if under_way:  # called later, they might find the state of another life
        effects += drop_commands(record, [c for c in record.outbox if c.id in under_way and not c.undo])
    if record.status not in FINAL and (children := live_children(record)):
        record.outbox = (*record.outbox, *stops(record, "cancel", next_id))
        effects.append(f"cancels its children as they stand: {listed(map(child_named, children.values()))}")
    timers = [record.timer_title(name) for name, timer in record.timers.items() if timer.life == life]
    if timers:
        effects.append(f"drops the timers {listed(sorted(timers))}")
    record.requests = ()  # they belong to this life
    undo = undo_of(record, life)
    if undo:
        effects.append(f"does not undo what was done: {listed(u.command.type for u in undo)} not sent")
    if record.outbox:
        effects.append(
            f"still delivers {listed(map(command_named, record.outbox))}: their step is saved; `drop` skips one that hangs"
        )
    if record.status not in FINAL:
        record.status = Status.CANCELLED
        effects.append("ends the instance as it stands")
    record.timers = {name: timer for name, timer in record.timers.items() if timer.life != life}
    record.undo = tuple(u for u in record.undo if u.life != life)
    forget_earlier(record)
    record.parked = record.stuck = record.gap = ""
    return effects


def stuck_in(record: SagaRecord) -> list[Command]:
    """Return the stuck command of a parked instance, if it is parked for one."""
    return [command for command in record.outbox if command.id == record.stuck]
