"""What an operator can do about an instance, as pure decisions on its record: retry, skip, drop, cancel, edit, resend.

    Repair.decide(record, next_id, now, own) ─► Decision: the record after it, and in plain words what that means

None needs the saga's code. Held messages are not replayed here, because that takes handlers: a repaired record is not
parked any more and still holds them, and whoever has the handlers replays them before anything else of that instance
(runner/replay.py), in the same turn or in another process.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from datetime import datetime

import msgspec

from ..definition.codec import Typed
from ..definition.indexing import PHASE
from ..errors import RepairError
from .children import ChildTold, child_entry, failed_to_start, live_children, settle_child, started_as, stops
from .compensation import compensate, end_compensation, forget_earlier, send_undo, stop_activities, undo_of
from .dropped_legs import let_gathers_go, refuse_answer, refuse_leg
from .ending import date_end
from .family_effects import dropped_effect, resent_effect
from .ids import DROPPED, FAMILY, GAP, end_id
from .record import FINAL, UNDER_WAY, Audit, Child, Command, Held, SagaRecord, Stage, Status, embed_state
from .sequences import leave_hole, skip_missing

NextId = Callable[[], str]  # the id of the next command of the step that the repair becomes: `<sequence nr>/<index>`
_SKIPPED = "skipped/"  # in the id of the held message that lets a worker go on from an activity that was skipped
_NAMED = 5  # so many are named in a sentence


class Decision(msgspec.Struct, frozen=True):
    """What a repair comes to. `record` is the one that was given, itself, where there is nothing to do.

    `effects`: plain sentences without payloads; they may hold ids and notes of other people, so print them cleaned.
    """

    record: SagaRecord
    effects: tuple[str, ...]


class Repair(msgspec.Struct, frozen=True):
    """One repair, to be decided on whatever the record is when it comes to it. Made by the functions below.

    `needless` says why there is nothing to do, or nothing; `change` changes a copy of the record and says what that
    means. `on_finished`: it may also be made on the tombstone of an instance that has ended.
    """

    action: str
    needless: Callable[[SagaRecord], str]
    change: Callable[[SagaRecord, NextId], list[str]]
    note: str = ""
    by: str = ""
    on_finished: bool = False
    entry: str = ""  # that it drops

    def decide(self, record: SagaRecord, next_id: NextId, now: datetime, own: str) -> Decision:
        """Return the record after the repair, with its audit entry. Raises RepairError where it cannot be made.

        `own`: the persistence id of the instance.
        """
        if reason := self.needless(record):
            return Decision(record, (f"nothing: {reason}",))
        after = copy.copy(record)
        effects = self.change(after, next_id)
        _fail_dropped_children(record, after, next_id, own)
        if _awaits(record, self.entry):
            _fail_child(after, self.entry, next_id, own)
        after.updated_at = now
        date_end(after, record, now, own, next_id)
        if after.kept:  # whatever was changed, their moment may have come
            after.waking = True
        after.audit = (*after.audit, Audit(now, self.action, self.note, self.by))
        return Decision(after, tuple(effects))


def retry(*, note: str = "", by: str = "") -> Repair:
    """Deliver the stuck command again, take up a failed compensation again, replay what is held."""

    def change(record: SagaRecord, next_id: NextId) -> list[str]:
        effects = [f"delivers {_command(stuck)} again" for stuck in _stuck(record)]
        if record.status is Status.COMPENSATION_FAILED:
            effects += _resume(record, next_id)
        return effects + _unpark(record)

    return Repair("retry", _not_parked, change, note, by)


def skip(*, note: str = "", by: str = "") -> Repair:
    """Drop what failed (the stuck command, the refused undo, or else the first held message), then go on as `retry`."""

    def change(record: SagaRecord, next_id: NextId) -> list[str]:
        effects: list[str] = []
        if stuck := _stuck(record):
            effects += _drop_commands(record, stuck)
            end_compensation(record, next_id)
        elif record.status is Status.COMPENSATION_FAILED:
            effects += [f"drops the refused {undo.command.type}: it is not undone" for undo in record.undo[-1:]]
            record.undo = record.undo[:-1]
            effects += _resume(record, next_id)
        elif record.gap:
            effects.append(f"does not wait for what is missing of {record.gap}: goes on behind it")
            skip_missing(record, record.gap)
        elif record.held[:1] and record.held[0].id.startswith(f"{FAMILY}{_SKIPPED}"):
            effects.append("goes on from the activity that was skipped before, which drops nothing more")
        else:
            never_started = _never_started(record)
            effects += _drop_held(record, record.held[:1])
            if never_started:
                record.status = Status.CANCELLED
                effects.append("ends the instance: what is dropped was to start it")
        return effects + _unpark(record)

    return Repair("skip", _not_parked, change, note, by)


def drop(entry: str, *, note: str = "", by: str = "") -> Repair:
    """Take one command out of the outbox, or cancel one timer, by its number, or drop one kept message by its id.

    By the number that started a child, it is waited for no longer: it counts as failed, and is left as it is.

    Also where the instance is not parked, as for a command whose handler hangs: its attempt is cut off, and what waits
    behind it is delivered. How to undo it stays known. An instance that it parks goes on, as after `skip`. Refused
    (RepairError) where nothing has that number (`<sequence nr>/<index>`) or id.
    """

    def change(record: SagaRecord, next_id: NextId) -> list[str]:
        if commands := [command for command in record.outbox if command.id == entry]:
            follows = [told for command in commands for told in dropped_effect(record, command)]
            effects = [*_drop_commands(record, commands), *follows]
            end_compensation(record, next_id)
            forget_earlier(record)
            return effects + (_unpark(record) if record.stuck == entry else [])
        if _awaits(record, entry):
            child = _child(record.children[entry])
            return [f"does not wait for its child {child} ({entry}), which counts as failed; that one is left as it is"]
        for name, timer in record.timers.items():
            if timer.id == entry:
                record.timers = {other: kept for other, kept in record.timers.items() if other != name}
                what = "the scheduled" if timer.send else f"the timer {name}, that is"
                ends = "" if timer.rule is None else "; it does not come again"
                return [f"drops {what} {timer.event.type} ({entry}){ends}"]
        if entry.startswith(GAP) and any(one.sequence == entry.removeprefix(GAP) for one in record.kept):
            skip_missing(record, entry.removeprefix(GAP))
            return [f"does not wait for what is missing of {entry.removeprefix(GAP)}: goes on behind it"]
        for kept in record.kept:
            if kept.id == entry or (kept.kind == "timer" and kept.id.endswith(f"/{entry}")):
                return _drop_kept(record, kept.id)
        waiting = [*map(_command, record.outbox), *(f"{t.event.type} ({t.id})" for t in record.timers.values())]
        raise RepairError(
            f"{entry!r} is neither a command in the outbox nor a timer, nor the id of a kept message; there "
            + (f"wait {_all(waiting)}" if waiting else "is none")
        )

    return Repair("drop", lambda record: "", change, note, by, entry=entry)


def cancel(*, compensate: bool, note: str = "", by: str = "") -> Repair:
    """End the instance: with its undo commands sent, or as it stands. What is held is dropped, its ids are kept.

    With its undo commands sent, the commands that wait to be accepted are dropped, so that none that hangs is in the way;
    as they may have been carried out, what undoes them is sent all the same. As it stands, they are still delivered.
    """
    action = "cancel with compensation" if compensate else "cancel"
    return Repair(action, _ended, _cancel_compensating if compensate else _cancel_as_it_stands, note, by)


def edit(
    state: bytes | None,
    *,
    state_version: int = 1,
    phase: str | None = None,
    index: Callable[[str], dict[str, str | None]] | None = None,
    note: str = "",
    by: str = "",
) -> Repair:
    """Replace the state by `state`, as the saga encodes it, or the phase, or both.

    The caller has made sure that the saga can decode the state, and knows the phase by this name. None: as it is. Nothing
    else changes, and nothing acts: a parked instance stays parked until `retry`. What is kept for that phase is handled.
    `index` gives what the instance is found by with the new state, in a phase.
    """
    raw, wrapped = embed_state(state) if state is not None else (msgspec.Raw(), False)

    def same_state(record: SagaRecord) -> bool:
        stored = (bytes(record.state), record.state_is_base64, record.state_version)
        return state is None or stored == (bytes(raw), wrapped, state_version)

    def needless(record: SagaRecord) -> str:
        if not same_state(record) or phase not in (None, record.phase):
            return _ended(record)
        return "the state is the same" if phase is None else f"its phase is {phase} already"

    def change(record: SagaRecord, next_id: NextId) -> list[str]:
        effects, what = [], "state" if phase is None else "phase"
        if not same_state(record):
            record.state, record.state_is_base64, record.state_version = raw, wrapped, state_version
            effects.append("replaces the state")
        if phase is not None and phase != record.phase:
            effects.append(f"sets the phase {phase}, where it was {record.phase or 'in none'}; nothing acts on that")
            record.phase = phase
            if record.index.get(PHASE, phase) != phase:
                record.index = {**record.index, PHASE: phase}
            if record.kept and not record.parked:
                effects.append(f"handles, of {len(record.kept):,} kept, what that phase expects")
        if index is not None:
            record.index = index(record.phase)
        return [*effects, *([f"stays parked: retry it when the {what} is right"] if record.parked else [])]

    return Repair("edit", needless, change, note, by)


def resend(command: Command, *, note: str = "", by: str = "") -> Repair:
    """Put a command that was in the outbox before (operate.find_command) back into it, under the same id.

    Also on an instance that has ended. Refused (RepairError) where the command waits in the outbox already, and for an
    undo command outside of the compensation that it belongs to.
    """

    def change(record: SagaRecord, next_id: NextId) -> list[str]:
        name = _command(command)
        if any(waiting.id == command.id for waiting in record.outbox):
            raise RepairError(f"{name} is in the outbox already: it is delivered until it is accepted")
        if command.undo and record.status is Status.COMPENSATION_FAILED:
            raise RepairError(f"{name} is an undo command of a compensation that failed: retry that instead")
        if command.undo and record.status not in (Status.COMPENSATING, Status.COMPENSATED):
            raise RepairError(f"{name} is an undo command, and the instance is {record.status.value}")
        behind = _stuck(record)
        record.outbox = (*record.outbox, command)
        waits = [f"it waits behind the stuck {_command(stuck)}" for stuck in behind]
        return [f"sends {name} again, under the same id", *resent_effect(record, command), *waits]

    return Repair("resend", lambda record: "", change, note, by, on_finished=True)


def _not_parked(record: SagaRecord) -> str:
    if record.parked or record.status is Status.COMPENSATION_FAILED:
        return ""
    if record.held:
        return "it is repaired already; what it holds is replayed as soon as a worker takes it"
    return f"it is not parked, it is {record.status.value}{_waits(record)}"


def _ended(record: SagaRecord) -> str:
    if record.status not in FINAL or record.parked:  # for a last command that nobody accepts, say
        return ""
    return f"it has ended, it is {record.status.value}{_waits(record)}"


def _waits(record: SagaRecord) -> str:
    """Say what an instance that is not parked waits for, and how to pass it."""
    if not record.outbox:
        return ""
    return f"; it waits until {_command(record.outbox[0])} is accepted: `drop` takes that out of the outbox"


def _never_started(record: SagaRecord) -> bool:
    """Say whether the event that was to start this incarnation has never been handled: it was parked with that event."""
    life = record.incarnation
    theirs = [
        *(command.life for command in record.outbox),
        *(timer.life for timer in record.timers.values()),
        *(undo.life for undo in record.undo),
    ]
    return (
        record.status is Status.RUNNING
        and not record.started_by
        and not record.inbox
        and record.held[:1] != ()
        and record.held[0].kind == "event"
        and not (record.recent and life == 1)
        and life not in theirs
    )


def _unpark(record: SagaRecord) -> list[str]:
    record.parked = record.stuck = record.gap = ""
    held = [one for one in record.held if not one.id.startswith(DROPPED)]
    if not held:
        return []
    count = len(held)
    return [
        f"replays {count} held {'message' if count == 1 else 'messages'}, in the order they came: "
        + _all(f"{one.event.type} ({one.id})" for one in held)
    ]


def _resume(record: SagaRecord, next_id: NextId) -> list[str]:
    undo = undo_of(record, record.incarnation)
    send_undo(record, undo, next_id)
    return [_sends(entry.command.type for entry in undo)] if undo else ["nothing is left to undo: it is compensated"]


def _cancel_compensating(record: SagaRecord, next_id: NextId) -> list[str]:
    stop_activities(record)
    record.gathers = {}  # no leg counts any more
    effects = [*_drop_held(record, record.held), *_drop_kept(record)]
    life, compensating = record.incarnation, record.status is Status.COMPENSATING
    # They would be in the way of the undo commands. Their own undo is sent: nobody knows how far they came.
    effects += _drop_commands(
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
            f"waits for {_all(map(_command, ahead))} of an earlier incarnation: `drop` passes one that hangs"
        )
    if compensating:
        asked = {command.of for command in record.outbox if command.family in ("stop", "cancel")}
        again = [one for one in stops(record, "stop", next_id) if one.of not in asked]
        if again:  # what they were asked by is accepted; one that has ended since, or is gone, says so
            record.outbox = (*record.outbox, *again)
            effects.append(
                f"asks its children again to compensate: {_all(_child(record.children[one.of]) for one in again)}"
            )
        left = [c.command.type for c in record.outbox if c.undo and c.life == life and not c.family]
        left = left or [undo.command.type for undo in undo_of(record, life)]
        effects.append(f"goes on with its compensation: {_sends(left) if left else 'nothing is left to send'}")
    else:
        undo = undo_of(record, life)
        if record.status is Status.COMPENSATION_FAILED:
            effects += _resume(record, next_id)
        elif record.status in (Status.RUNNING, Status.COMPLETED):
            children = live_children(record)
            compensate(record, next_id)
            if children:
                effects.append(f"compensates its children first: {_all(map(_child, children.values()))}")
            effects.append(_sends(entry.command.type for entry in undo) if undo else "there is nothing to undo")
    record.parked = record.stuck = record.gap = ""
    return effects


def _cancel_as_it_stands(record: SagaRecord, next_id: NextId) -> list[str]:
    if record.activities:
        under_way = {stage.entry for stage in record.activities.values() if stage.status in UNDER_WAY}
        stop_activities(record)
    else:
        under_way = set()
    record.gathers = {}  # no leg counts any more
    effects, life = [*_drop_held(record, record.held), *_drop_kept(record)], record.incarnation
    undoing = (c for c in record.outbox if c.undo and c.life == life and c.id != record.stuck)
    effects += _drop_commands(record, [*_stuck(record), *undoing])
    if under_way:  # called later, they might find the state of another life
        effects += _drop_commands(record, [c for c in record.outbox if c.id in under_way and not c.undo])
    if record.status not in FINAL and (children := live_children(record)):
        record.outbox = (*record.outbox, *stops(record, "cancel", next_id))
        effects.append(f"cancels its children, as they stand: {_all(map(_child, children.values()))}")
    timers = [record.timer_title(name) for name, timer in record.timers.items() if timer.life == life]
    if timers:
        effects.append(f"drops the timers {_all(sorted(timers))}")
    record.requests = ()  # they belong to this life
    undo = undo_of(record, life)
    if undo:
        effects.append(f"does not undo what was done: {_all(u.command.type for u in undo)} not sent")
    if record.outbox:
        effects.append(
            f"still delivers {_all(map(_command, record.outbox))}: their step is saved; `drop` passes one that hangs"
        )
    if record.status not in FINAL:
        record.status = Status.CANCELLED
        effects.append("ends the instance as it stands")
    record.timers = {name: timer for name, timer in record.timers.items() if timer.life != life}
    record.undo = tuple(u for u in record.undo if u.life != life)
    forget_earlier(record)
    record.parked = record.stuck = record.gap = ""
    return effects


def _drop_held(record: SagaRecord, dropped: tuple[Held, ...]) -> list[str]:
    record.held = record.held[len(dropped) :]
    for one in dropped if record.activities else ():
        entry = next((e for e in _running(record) if f"/{e}/reply/" in one.id), "")
        if entry and one.kind == "event":  # the result of an activity, which nobody will bring again
            _skip_activity(record, entry, one.event.type.rpartition(".")[0], one.life)
    return _consumed(record, dropped, "held")


def _drop_kept(record: SagaRecord, message_id: str | None = None) -> list[str]:
    """Drop what is kept: all of it, or one message."""
    dropped = tuple(one for one in record.kept if message_id in (None, one.id))
    record.kept = tuple(one for one in record.kept if one not in dropped)
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
        for one, leg in list(zip(dropped, legs, strict=True))[:_NAMED]
    ]
    more = len(dropped) - _NAMED
    told += [f"drops {more:,} more {what} messages; they count as consumed"] if more > 0 else []
    return told + forgotten


def _drop_commands(record: SagaRecord, dropped: list[Command]) -> list[str]:
    gone = {command.id for command in dropped}
    record.outbox = tuple(command for command in record.outbox if command.id not in gone)
    for one in dropped if record.gathers else ():
        if one.family != "start":  # of a child that does not start, the saga hears by a message
            refuse_leg(record, one.id)
    for one in dropped if record.activities else ():
        if one.id in _running(record) and not one.undo:
            _skip_activity(record, one.id, one.command.type, one.life)
    told = [f"drops {_command(one)}, which was not accepted; it may have been carried out" for one in dropped[:_NAMED]]
    more = len(dropped) - _NAMED
    return [*told, f"drops {more:,} more commands that were not accepted"] if more > 0 else told


def _fail_dropped_children(before: SagaRecord, record: SagaRecord, next_id: NextId, own: str) -> None:
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


def _awaits(record: SagaRecord, entry: str) -> bool:
    """Say whether it waits for the end of the child that was started by that entry, and is to hear of it."""
    if entry not in record.children or record.status not in (Status.RUNNING, Status.COMPENSATING):
        return False
    started = all(command.id != entry for command in record.outbox)
    return started and not any(held.kind == "child" and child_entry(held.id) == entry for held in record.held)


def _fail_child(record: SagaRecord, entry: str, next_id: NextId, own: str) -> None:
    """Let a child count as failed, whatever becomes of it: a running parent hears of it, by a held message."""
    if record.status is Status.COMPENSATING:
        settle_child(record, entry, "failed")
        end_compensation(record, next_id)
        return
    child = record.children[entry]
    told = ChildTold(child.saga, child.id, "failed", None, "an operator waits for it no longer")
    record.held = (*record.held, Held(end_id(started_as(own, entry, child)), told.packed(), "child"))


def _skip_activity(record: SagaRecord, entry: str, command: str, life: int) -> None:
    """Let a running activity count as skipped; a worker goes on from there, by a held message. `command`: its type."""
    record.activities = {
        name: Stage("skipped", entry, "by an operator") if stage.entry == entry else stage
        for name, stage in record.activities.items()
    }
    saga = command.rpartition(".")[0]
    event = Typed(f"{saga}.proceed", msgspec.Raw(b"{}"))
    record.held = (*record.held, Held(f"{FAMILY}{_SKIPPED}{saga}/{entry}", event, life=life))


def _running(record: SagaRecord) -> list[str]:
    """Return the entries of the activities that are carried out."""
    return [stage.entry for stage in record.activities.values() if stage.status == "running"]


def _stuck(record: SagaRecord) -> list[Command]:
    return [command for command in record.outbox if command.id == record.stuck]


def _child(child: Child) -> str:
    return f"{child.saga} {child.id}"


def _command(command: Command) -> str:
    return f"{command.title} ({command.id})"


def _sends(names: Iterable[str]) -> str:
    return f"sends {_all(names)}, last in first out"


def _all(names: Iterable[str]) -> str:
    listed = list(names)
    more = len(listed) - _NAMED
    return ", ".join(listed[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")
