"""What a repair takes out of a record: held and kept messages, commands; what that leaves behind, and how it is told.

A message that is dropped counts as consumed. A dropped leg counts as refused, a dropped activity as skipped, so that
whoever has the code of the saga goes on from there.
"""

from __future__ import annotations

import msgspec

from ..definition.codec import Typed
from .children import child_entry, settle_child
from .dropped_legs import let_gathers_go, refuse_answer, refuse_leg
from .entries import UNDER_WAY, Command, Held, Stage
from .ids import ACTIVITY, DROPPED, FAMILY
from .record import SagaRecord
from .repair_words import NAMED, command_named
from .sequences import leave_hole

SKIPPED = "skipped/"  # in the id of the held message that lets a worker go on from an activity that was skipped


def drop_held(record: SagaRecord, dropped: tuple[Held, ...]) -> list[str]:
    """Drop these, the first of what is held; say what that means."""
    record.held = record.held[len(dropped) :]
    for one in dropped if record.activities else ():
        entry = next((e for e in _running(record) if f"/{e}/reply/" in one.id), "")
        if entry and one.kind == "event":  # the result of an activity, which nobody will bring again
            _skip_activity(record, entry, one.event.type.rpartition(".")[0], one.life)
    return [*_consumed(record, dropped, "held"), *_pass_overdue(record, dropped)]


def _pass_overdue(record: SagaRecord, dropped: tuple[Held, ...]) -> list[str]:
    """Let an activity count as skipped whose deadline was dropped: it would go on without one, unseen."""
    told = []
    for one in dropped:
        stage = record.activities.get(one.name.removeprefix(ACTIVITY)) if one.name.startswith(ACTIVITY) else None
        if stage is not None and stage.status in UNDER_WAY:
            record.outbox = tuple(command for command in record.outbox if command.id != stage.entry)
            activity = one.name.removeprefix(ACTIVITY)
            skip_waiting(record, activity, one.event.type.removesuffix(f".{activity}.overdue"))
            told.append(f"counts the activity {activity} as skipped")
    return told


def drop_kept(record: SagaRecord, message_id: str | None = None) -> list[str]:
    """Drop what is kept, all of it or one message; say what that means."""
    dropped = tuple(one for one in record.kept if message_id in (None, one.id))
    record.kept = tuple(one for one in record.kept if message_id not in (None, one.id))
    return _consumed(record, dropped, "kept")


def _consumed(record: SagaRecord, dropped: tuple[Held, ...], what: str) -> list[str]:
    record.inbox = (*record.inbox, *(one.id for one in dropped if one.kind == "event"))
    for one in dropped:
        leave_hole(record, one)
    for one in dropped:
        if one.kind == "child":
            settle_child(record, child_entry(one.id), one.event.type.rpartition(" ")[2])
    forgotten = let_gathers_go(record, dropped)
    dropped = tuple(one for one in dropped if not one.id.startswith(DROPPED))
    legs = [refuse_answer(record, one) for one in dropped]
    told = [
        f"drops the {what} {one.event.type}, message {one.id}; it counts as consumed{leg}"
        for one, leg in list(zip(dropped, legs, strict=True))[:NAMED]
    ]
    more = len(dropped) - NAMED
    told += [f"drops {more:,} more {what} messages; they count as consumed"] if more > 0 else []
    return told + forgotten


def drop_commands(record: SagaRecord, dropped: list[Command]) -> list[str]:
    """Take these out of the outbox; say what that means."""
    gone = {command.id for command in dropped}
    record.outbox = tuple(command for command in record.outbox if command.id not in gone)
    for one in dropped if record.gathers else ():
        if one.family != "start":  # of a child that does not start, the saga hears by a message
            refuse_leg(record, one.id)
    for one in dropped if record.activities else ():
        if one.id in _running(record) and not one.undo:
            _skip_activity(record, one.id, one.command.type, one.life)
    told = [
        f"drops {command_named(one)}, which was not accepted; it may have been carried out" for one in dropped[:NAMED]
    ]
    more = len(dropped) - NAMED
    return [*told, f"drops {more:,} more commands that were not accepted"] if more > 0 else told


def waiting_activity(record: SagaRecord, entry: str) -> str:
    """Return the activity of that number that waits for its event; empty where there is none."""
    for name, stage in record.activities.items():
        if stage.status == "waiting" and stage.entry == entry:
            return name
    return ""


def skip_waiting(record: SagaRecord, activity: str, saga: str) -> None:
    """Let an activity that waits for its event count as skipped: neither its deadline nor its reminder comes any more."""
    over = (f"{ACTIVITY}{activity}", f"{ACTIVITY}{activity}/reminder")
    record.timers = {name: timer for name, timer in record.timers.items() if name not in over}
    _skip_activity(record, record.activities[activity].entry, f"{saga}.{activity}", record.incarnation)


def _skip_activity(record: SagaRecord, entry: str, command: str, life: int) -> None:
    """Let an activity count as skipped; a worker goes on from there, by a held message. `command`: its type."""
    record.activities = {
        name: Stage("skipped", entry, "by an operator") if stage.entry == entry else stage
        for name, stage in record.activities.items()
    }
    saga = command.rpartition(".")[0]
    event = Typed(f"{saga}.proceed", msgspec.Raw(b"{}"))
    record.held = (*record.held, Held(f"{FAMILY}{SKIPPED}{saga}/{entry}", event, life=life))


def _running(record: SagaRecord) -> list[str]:
    """Return the entries of the activities that are carried out."""
    return [stage.entry for stage in record.activities.values() if stage.status == "running"]
