"""What a program's code can read: would it be able to go on with an instance?

A record can be read without the code of its saga; its state and messages cannot. So whoever looks without the code takes
for running what every worker leaves alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from ..decision.entries import UNDER_WAY, Command, Held, Status
from ..decision.ids import GAP, parent_in, parts_of
from ..decision.message import unhold
from ..decision.phases import unknown_phase
from ..decision.record import SagaRecord
from ..decision.sequences import sequence_of
from ..decision.state import UnreadableStateError, decode_state
from ..definition.codec import TypeRegistry
from ..definition.recurring import RuleError, check_rule
from ..definition.saga import Saga
from ..definition.schema import schema_of
from ..errors import CodecError, InvalidEventError
from .inspect import SagaView


class Reason(NamedTuple):
    """Why some code could not go on with an instance: no values, only the names of types and timers.

    `entry`: the number of the command or timer, if it is one. `unreadable`: it cannot be read; else it has no handler here.
    """

    text: str
    entry: str = ""
    unreadable: bool = True


def otherwise_declared(saga: Saga[Any], record: SagaRecord) -> list[str]:
    """Return the keys that an instance holds otherwise than its saga declares them now: each with what that means."""
    found = []
    for name in (*record.keys, *record.unique_keys):
        key = saga.key_table.get(name)
        if key is None:
            found.append(f"the key {name}, which is no longer declared: no event reaches them by it")
        elif key.unique and name in record.keys:
            found.append(
                f"the key {name} from before it was unique: an event reaches them by it only once they add it again"
            )
        elif not key.unique and name in record.unique_keys:
            found.append(
                f"the key {name} from when it was unique: an event reaches them by it only once they add it again"
            )
    return found


def _number_of(saga: Saga[Any], registry: TypeRegistry, held: Held) -> int | None:
    """Return the number that this code reads from an event; None where it cannot, or reads none."""
    try:
        event = registry.unpack(held.event)
        numbering = saga.numberings.get(type(event))
        return None if numbering is None else numbering.place(event)[1]
    except (CodecError, InvalidEventError):
        return None


def begun_without_undo(saga: Saga[Any], record: SagaRecord) -> list[str]:
    """Return the activities of an instance that this code could undo, and that were begun by code which could not."""
    if saga.activities is None or record.status is not Status.RUNNING:
        return []
    if record.committed:  # nothing is undone any more
        return []
    undoable = {undo.of for undo in record.undo}
    steps = saga.activities.steps
    return [
        name
        for name, stage in record.activities.items()
        if stage.entry
        and stage.status in ("done", *UNDER_WAY)
        and stage.entry not in undoable
        and (step := steps.get(name)) is not None
        and step.undo is not None
    ]


class Code:
    """The sagas of a program, and for which types of commands it has a handler."""

    def __init__(self, sagas: Iterable[Saga[Any]], handles: Callable[[type], bool]) -> None:
        self._sagas = {saga.name: saga for saga in sagas}
        self._registries = {name: type(saga).registry(saga) for name, saga in self._sagas.items()}
        self._handles = handles

    def view(self, view: SagaView) -> SagaView:
        """Return the view as this code sees it: unreadable, with the first reason, where it could not go on with it.

        An instance that has ended, or is of a saga of another program, is returned as it is.
        """
        if view.finished or view.unreadable or view.record is None or view.saga not in self._sagas:
            return view
        found = next((reason for reason in self.reasons(view) if reason.unreadable), None)
        if found is None:
            return view
        return msgspec.structs.replace(view, unreadable=f"{found.text} ({found.entry})" if found.entry else found.text)

    def numbered_otherwise(self, saga: Saga[Any], record: SagaRecord) -> list[str]:
        """Return the sequences of an instance that this code lacks, or counts by another field: each with what follows."""
        names = {one.sequence.name for one in saga.numberings.values()}
        stored = dict.fromkeys(key.partition("/")[0] for key in record.sequences)
        found = [
            f"numbers of the sequence {name}, which this code does not have: handled events count as new, and the numbers "
            f"begin again; Sequence(..., name={name!r}) keeps them"
            for name in stored
            if name not in names
        ]
        registry = self._registries[saga.name]
        for held in (*record.kept, *record.held):
            name = held.sequence.partition("/")[0]
            if name in names and _number_of(saga, registry, held) not in (None, held.number):
                found.append(
                    f"events that wait in the sequence {name} under another number than the one "
                    "that this code reads from them: they keep it, and new events are counted by this code's field"
                )
        return list(dict.fromkeys(found))

    def reasons(self, view: SagaView) -> Iterator[Reason]:
        """Yield why this code could not go on with an instance."""
        saga, record = self._sagas.get(view.saga), view.record
        if saga is None:
            yield Reason("this runner has no such saga", unreadable=False)
            return
        if record is None or view.unreadable:
            yield Reason(view.unreadable or "its record is empty")
            return
        try:
            decode_state(saga, record)
        except UnreadableStateError as error:
            yield Reason(f"state: {error}")
        if saga.phase_table is not None and record.phase and saga.phase_table.named(record.phase) is None:
            yield Reason(unknown_phase(saga, record))
        yield from self._of_messages(saga, record)

    def _of_messages(self, saga: Saga[Any], record: SagaRecord) -> Iterator[Reason]:
        registry = self._registries[saga.name]
        for name, timer in record.timers.items():
            if name.startswith(GAP):
                continue
            try:
                event = registry.unpack(timer.event)
            except CodecError as error:
                yield Reason(f"timer {name if not timer.send else 'of a scheduled command'}: {error}", timer.id)
                continue
            if timer.rule is not None:
                try:
                    check_rule(timer.rule)
                except RuleError as error:
                    yield Reason(f"timer {name} {error}", timer.id)
            if timer.send:
                yield from self._handled(event, "scheduled command", timer.id)
            elif not saga.handles_event(event):
                yield Reason(f"timer {name}: no handler takes {timer.event.type}", timer.id, unreadable=False)
        names = {schema_of(event).name for event in saga.event_types()}
        for request in record.requests:
            if request.reply and request.reply not in names and type(saga).handle is Saga.handle:
                yield Reason(
                    f"{request.command} waits for {request.reply}, and no handler takes it",
                    request.id,
                    unreadable=False,
                )
        yield from _of_activities(saga, record)
        yield from _of_joins(saga, record)
        yield from _of_gathers(saga, registry, record)
        for command in record.outbox:
            if command.family:
                yield from self._of_child(registry, command)
        for what, entry, stored in (
            *(("pending command", command.id, command.command) for command in record.outbox if not command.family),
            *(("undo command", "", undo.command) for undo in record.undo),
        ):
            try:
                yield from self._handled(registry.unpack(stored), what, entry)
            except CodecError as error:
                yield Reason(f"{what}: {error}", entry)
        for what, held in (*(("held", one) for one in record.held), *(("kept", one) for one in record.kept)):
            try:
                event = unhold(held, registry).event
            except CodecError as error:
                yield Reason(f"{what} event: {error}")
                continue
            if held.kind not in ("refused", "child") and not saga.handles_event(event):
                yield Reason(f"{what} event: no handler takes {held.event.type}", unreadable=False)
            elif what == "kept" and _waits_for_ever(saga, record, held, type(event)):
                name = held.sequence.partition("/")[0]
                yield Reason(
                    f"kept event: {held.event.type} waits for those before it in the sequence {name}, which this code does "
                    f"not have: give it that name again, Sequence(..., name={name!r})",
                    unreadable=False,
                )

    def _of_child(self, registry: TypeRegistry, command: Command) -> Iterator[Reason]:
        parent = parent_in(command.to)
        name = parts_of(command.to if parent is None else parent.persistence_id)[0]
        if name not in self._sagas:
            yield Reason(f"{command.command.type}: this runner has no saga {name}", command.id, unreadable=False)
        if command.family == "start":
            try:
                registry.unpack(command.command)
            except CodecError as error:
                yield Reason(f"start of a child: {error}", command.id)

    def _handled(self, command: Any, what: str, entry: str) -> Iterator[Reason]:
        if not self._handles(type(command)):
            yield Reason(f"{what}: no command handler for {type(command).__name__}", entry, unreadable=False)


def _waits_for_ever(saga: Saga[Any], record: SagaRecord, kept: Held, event: type) -> bool:
    """Say whether a numbered event waits for numbers that this code counts in another sequence."""
    return (
        bool(kept.sequence)
        and event in saga.numberings
        and sequence_of(saga, kept.sequence) is None
        and kept.number > record.sequences.get(kept.sequence, kept.number)
    )


def passed_over(saga: Saga[Any], record: SagaRecord) -> list[str]:
    """Return the activities that will not run in an instance, because this code has them before some that have begun."""
    if saga.activities is None or record.status is not Status.RUNNING:
        return []
    begun = {name for name, stage in record.activities.items() if stage.status != "early"}
    steps = saga.activities.steps.values()
    return [step.name for step in steps if step.after is not None and step.name not in begun and step.before & begun]


def _of_activities(saga: Saga[Any], record: SagaRecord) -> Iterator[Reason]:
    """Yield which activities of an instance this code cannot go on with: it would be called, or has to be undone."""
    table = saga.activities
    undoable = {undo.of for undo in record.undo}
    for name, stage in record.activities.items():
        step = None if table is None else table.steps.get(name)
        if step is None and stage.status in UNDER_WAY:
            yield Reason(
                f"activity {name} is {stage.status}, but this code has no such activity: keep it until these "
                "instances have ended",
                stage.entry,
                unreadable=False,
            )
        elif stage.entry in undoable and (step is None or step.undo is None):
            yield Reason(
                f"activity {name} may have to be undone, but this code has no undo for it: keep it until these "
                "instances have ended",
                stage.entry,
                unreadable=False,
            )
        elif step is not None and stage.status == "waiting" and step.options.until is None:
            yield Reason(
                f"activity {name} waits for an event, but in this code it does not: give the new one another name",
                unreadable=False,
            )
        elif step is not None and stage.status == "running" and step.options.until is not None:
            yield Reason(
                f"activity {name} is carried out, but in this code it waits for an event: give the new one another name",
                stage.entry,
                unreadable=False,
            )


def _of_joins(saga: Saga[Any], record: SagaRecord) -> Iterator[Reason]:
    """Yield what has changed about the joins of an instance that have not run: it would wait for other events, or none."""
    known = {join.name: join for join in saga.joins()}
    for name, joined in record.joins.items():
        if joined.done:
            continue
        if name not in known:
            yield Reason(
                f"when_all {name}: this code has no such join, so nothing happens when all have come",
                unreadable=False,
            )
            continue
        for leg in known[name].legs:
            if leg not in joined.came and leg not in joined.waits:
                yield Reason(
                    f"when_all {name}: this code waits for {leg} too, but one that came before does not count",
                    unreadable=False,
                )


def _of_gathers(saga: Saga[Any], registry: TypeRegistry, record: SagaRecord) -> Iterator[Reason]:
    """Yield why a gather that is under way could not come to its end."""
    for name, gathering in record.gathers.items():
        if gathering.over:
            continue
        if gathering.sent < gathering.total and name not in saga.legs():
            left = gathering.total - gathering.sent
            yield Reason(f"gather {name}: no method makes the {left:,} legs that are not sent", unreadable=False)
        for stored in (gathering.then, gathering.failed):
            if stored is None:
                continue
            try:
                if not saga.handles_event(registry.unpack(stored)):
                    yield Reason(f"gather {name}: no handler takes {stored.type}", unreadable=False)
            except CodecError as error:
                yield Reason(f"gather {name}: {error}")
