"""What an operator can do about an instance, as pure decisions on its record: retry, skip, drop, cancel, edit, resend.

    Repair.decide(record, next_id, now, own) ─► Decision: the record after it, and in plain words what that means

None needs the saga's code. Held messages are not replayed here, because that takes handlers: a repaired record is not
parked any more and still holds them, and whoever has the handlers replays them before anything else of that instance
(runner/replay.py), in the same turn or in another process.

`cancelling`, `dropping`, `dropped_children` and `dropped_legs` change the record; what they say stands in `repair_words`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import datetime

import msgspec

from ..definition.indexing import PHASE
from ..errors import RepairError
from .cancelling import cancel_as_it_stands, cancel_compensating, resume_compensation, stuck_in
from .children import NextId
from .compensation import end_compensation, forget_earlier
from .dropped_children import awaits, fail_awaited, fail_dropped
from .dropping import SKIPPED, drop_commands, drop_held, drop_kept, skip_waiting, waiting_activity
from .ending import date_end
from .entries import FINAL, Audit, Command, Status
from .family_effects import dropped_effect, resent_effect
from .ids import ACTIVITY, DROPPED, FAMILY, GAP, parts_of
from .record import SagaRecord, embed_state
from .repair_words import child_named, command_named, listed
from .sequences import skip_missing


class Decision(msgspec.Struct, frozen=True):
    """What a repair does. `record` is the very one that was given if there is nothing to do.

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
        fail_dropped(record, after, next_id, own)
        if awaits(record, self.entry):
            fail_awaited(after, self.entry, next_id, own)
        if activity := waiting_activity(after, self.entry):
            skip_waiting(after, activity, parts_of(own)[0])
        after.updated_at = now
        after.goes_on = after.goes_on and bool(after.parked)
        date_end(after, record, now, own, next_id)
        if after.kept:  # whatever was changed, their moment may have come
            after.waking = True
        after.audit = (*after.audit, Audit(now, self.action, self.note, self.by))
        return Decision(after, tuple(effects))


def retry(*, note: str = "", by: str = "") -> Repair:
    """Deliver the stuck command again, take up a failed compensation again, replay what is held."""

    def change(record: SagaRecord, next_id: NextId) -> list[str]:
        effects = [f"delivers {command_named(stuck)} again" for stuck in stuck_in(record)]
        if record.status is Status.COMPENSATION_FAILED:
            effects += resume_compensation(record, next_id)
        return effects + _unpark(record)

    return Repair("retry", _not_parked, change, note, by)


def skip(*, note: str = "", by: str = "") -> Repair:
    """Drop what failed (the stuck command, the refused undo, or else the first held message), then go on as `retry`."""

    def change(record: SagaRecord, next_id: NextId) -> list[str]:
        effects: list[str] = []
        if stuck := stuck_in(record):
            effects += drop_commands(record, stuck)
            end_compensation(record, next_id)
        elif record.status is Status.COMPENSATION_FAILED:
            effects += [f"drops the refused {undo.command.type}: it is not undone" for undo in record.undo[-1:]]
            record.undo = record.undo[:-1]
            effects += resume_compensation(record, next_id)
        elif record.gap:
            effects.append(f"no longer waits for what is missing of {record.gap}: continues after it")
            skip_missing(record, record.gap)
        elif record.held[:1] and record.held[0].id.startswith(f"{FAMILY}{SKIPPED}"):
            effects.append("continues from the activity that was skipped before, which drops nothing more")
        else:
            never_started = _never_started(record)
            first = record.held[:1]
            effects += drop_held(record, first)
            if first and first[0].name.startswith(GAP) and not first[0].kept:
                effects.append(f"no longer waits for what is missing of {first[0].name.removeprefix(GAP)}")
                skip_missing(record, first[0].name.removeprefix(GAP))
            if never_started:
                record.status = Status.CANCELLED
                effects.append("ends the instance: the dropped message was to start it")
        return effects + _unpark(record)

    return Repair("skip", _not_parked, change, note, by)


def drop(entry: str, *, note: str = "", by: str = "") -> Repair:
    """Take one command out of the outbox, or cancel one timer, by its number, or drop one kept message by its id.

    By the number of an activity that waits for its event, it counts as skipped, and the others go on. By the number that
    started a child, it is waited for no longer: it counts as failed, and is left as it is.

    Also where the instance is not parked, as for a command whose handler hangs: its attempt is cut off, and what waits
    behind it is delivered. How to undo it stays known. An instance that it parks goes on, as after `skip`. Refused
    (RepairError) where nothing has that number (`<sequence nr>/<index>`) or id.
    """

    def change(record: SagaRecord, next_id: NextId) -> list[str]:
        if commands := [command for command in record.outbox if command.id == entry]:
            follows = [told for command in commands for told in dropped_effect(record, command)]
            effects = [*drop_commands(record, commands), *follows, *_passes_activity(record, entry)]
            end_compensation(record, next_id)
            forget_earlier(record)
            return effects + (_unpark(record) if record.stuck == entry else [])
        if awaits(record, entry):
            child = child_named(record.children[entry])
            return [
                f"no longer waits for its child {child} ({entry}), which counts as failed; that one is left as it is"
            ]
        if passes := _passes_activity(record, entry):
            return passes
        for name, timer in record.timers.items():
            if timer.id == entry:
                record.timers = {other: kept for other, kept in record.timers.items() if other != name}
                what = "the scheduled" if timer.send else f"the timer {name}, that is"
                ends = "" if timer.rule is None else "; it does not come again"
                stage = record.activities.get(name.removeprefix(ACTIVITY)) if name.startswith(ACTIVITY) else None
                if stage is not None and stage.status == "waiting":
                    ends += f"; the activity now waits without a deadline: `drop {stage.entry}` continues without it"
                return [f"drops {what} {timer.event.type} ({entry}){ends}"]
        if entry.startswith(GAP) and any(one.sequence == entry.removeprefix(GAP) for one in record.kept):
            skip_missing(record, entry.removeprefix(GAP))
            return [f"no longer waits for what is missing of {entry.removeprefix(GAP)}: continues after it"]
        for kept in record.kept:
            if kept.id == entry or (kept.kind == "timer" and kept.id.endswith(f"/{entry}")):
                return drop_kept(record, kept.id)
        waiting = [
            *map(command_named, record.outbox),
            *(f"activity {name} ({one.entry})" for name, one in record.activities.items() if one.status == "waiting"),
            *(f"{timer.event.type} ({timer.id})" for timer in record.timers.values()),
            *(f"{GAP}{name}" for name in sorted({one.sequence for one in record.kept if one.sequence})),
            *(f"kept {one.event.type} ({one.id})" for one in record.kept),
        ]
        raise RepairError(
            f"{entry!r} is neither a command in the outbox nor a timer, nor the id of a kept message; there "
            + (f"wait {listed(waiting)}" if waiting else "is none")
        )

    return Repair("drop", lambda record: "", change, note, by, entry=entry)


def _passes_activity(record: SagaRecord, entry: str) -> list[str]:
    activity = waiting_activity(record, entry)
    return [f"no longer waits for activity {activity} ({entry}), which counts as skipped"] if activity else []


def cancel(*, compensate: bool, note: str = "", by: str = "") -> Repair:
    """End the instance: with its undo commands sent, or as it stands. What is held is dropped, its ids are kept.

    With its undo commands sent, the commands that wait to be accepted are dropped, so that none that hangs is in the way;
    as they may have been carried out, what undoes them is sent all the same. As it stands, they are still delivered.
    """
    action = "cancel with compensation" if compensate else "cancel"
    return Repair(action, _ended, cancel_compensating if compensate else cancel_as_it_stands, note, by)


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
        return "the state is unchanged" if phase is None else f"its phase is already {phase}"

    def change(record: SagaRecord, next_id: NextId) -> list[str]:
        effects, what = [], "state" if phase is None else "phase"
        if not same_state(record):
            record.state, record.state_is_base64, record.state_version = raw, wrapped, state_version
            effects.append("replaces the state")
        if phase is not None and phase != record.phase:
            effects.append(f"sets the phase {phase}, where it was {record.phase or 'in none'}; no handler runs")
            record.phase = phase
            if record.index.get(PHASE, phase) != phase:
                record.index = {**record.index, PHASE: phase}
            if record.kept and not record.parked:
                effects.append(f"handles, of {len(record.kept):,} kept, what that phase expects")
        if index is not None:
            record.index = index(record.phase)
        return [*effects, *([f"stays parked: retry it once the {what} is right"] if record.parked else [])]

    return Repair("edit", needless, change, note, by)


def resend(command: Command, *, note: str = "", by: str = "") -> Repair:
    """Put a command that was in the outbox before (operate.find_command) back into it, under the same id.

    Also on an instance that has ended. Refused (RepairError) where the command waits in the outbox already, and for an
    undo command outside of the compensation that it belongs to.
    """

    def change(record: SagaRecord, next_id: NextId) -> list[str]:
        name = command_named(command)
        if any(waiting.id == command.id for waiting in record.outbox):
            raise RepairError(f"{name} is in the outbox already: it is delivered until it is accepted")
        if command.undo and record.status is Status.COMPENSATION_FAILED:
            raise RepairError(f"{name} is an undo command of a compensation that failed: retry that instead")
        if command.undo and record.status not in (Status.COMPENSATING, Status.COMPENSATED):
            raise RepairError(f"{name} is an undo command, and the instance is {record.status.value}")
        behind = stuck_in(record)
        record.outbox = (*record.outbox, command)
        waits = [f"it waits behind the stuck {command_named(stuck)}" for stuck in behind]
        return [f"sends {name} again, under the same id", *resent_effect(record, command), *waits]

    return Repair("resend", lambda record: "", change, note, by, on_finished=True)


def _not_parked(record: SagaRecord) -> str:
    if record.parked or record.status is Status.COMPENSATION_FAILED:
        return ""
    if record.held:
        return "it is repaired already; what it holds is replayed as soon as a worker takes it over"
    waiting = [f"{name} ({stage.entry})" for name, stage in record.activities.items() if stage.status == "waiting"]
    asks = f"; `drop` with its number continues without an activity that waits: {listed(waiting)}" if waiting else ""
    return f"it is not parked, it is {record.status.value}{_waits(record)}{asks}"


def _ended(record: SagaRecord) -> str:
    if record.status not in FINAL or record.parked:  # for a last command that nobody accepts, say
        return ""
    return f"it has ended, it is {record.status.value}{_waits(record)}"


def _waits(record: SagaRecord) -> str:
    """Say what an instance that is not parked waits for, and how to pass it."""
    if not record.outbox:
        return ""
    return f"; it waits until {command_named(record.outbox[0])} is accepted: `drop` takes that out of the outbox"


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
        + listed(f"{one.event.type} ({one.id})" for one in held)
    ]
