"""The history of one instance, step by step: what each handled, changed, sent, and recorded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

import msgspec

from ..decision import ids
from ..decision.entries import Audit, Command, Held
from ..decision.keys import KeyValue
from ..decision.record import SagaRecord
from ..definition.codec import Typed
from ..definition.recurring import LATE
from ..journal import Journal
from .inspect import ABSENT, Change, SagaView, changes, history, state_changes, state_of


class Step(msgspec.Struct, frozen=True):
    """One step of a history: what it left, and what is new against the step before.

    `before`: the number of the step that it is compared with, the newest before it that is kept and can be read; None
    where there is none, and then what only a comparison tells is not known (all of step 1 is new).
    """

    view: SagaView
    before: int | None
    changes: list[Change]
    repairs: list[Audit]
    held: list[Held]
    accepted: list[Command]  # that it recorded as accepted
    lease: datetime | None  # it prolonged the lease of the worker that is at the first command, until then

    alone: str  # the type of the command that it began by itself, because workers died that had it in hand
    gathered: list[str]  # gathers that came to their end, by name
    joined: list[str]  # joins that it ran, by name
    # Activities that came to another stage, and to which; with the reason, where there is one.
    activities: dict[str, str]
    passed_over: list[str]  # recurring timers whose missed times it passed over, by name
    result: Typed | None = None  # that it completed with
    kept: list[Held] = []  # messages that it keeps for their moment
    phase: str = ""  # that it entered
    indexed: bool = False  # it is found by something else since
    added: list[KeyValue] = []  # keys
    removed: list[KeyValue] = []

    @property
    def says_nothing(self) -> bool:
        """Nothing that a record tells is new in it, as far as is known."""
        record = self.view.record
        new = (
            self.changes
            or self.repairs
            or self.held
            or self.accepted
            or self.lease
            or self.alone
            or self.view.sent
            or self.passed_over
            or self.kept
            or self.phase
        )
        return not new and not (record is not None and record.handled)


async def steps(journal: Journal, saga: str, correlation_id: str) -> AsyncIterator[Step]:
    """Yield the steps that are kept of an instance, oldest first, each compared with the one before."""
    before: SagaView | None = None
    async for view in history(journal, saga, correlation_id):
        known = before.record if before is not None else None
        yield Step(
            view,
            before.version if before is not None else None,
            _changed(known, view),
            repairs_of(known, view),
            _held(known, view),
            accepted_in(known, view),
            _lease(known, view),
            begun_in(known, view),
            gathered_in(known, view),
            joined_in(known, view),
            activities_in(known, view),
            passed_over_in(known, view),
            result_in(known, view),
            kept_in(known, view),
            phase_in(known, view),
            indexed_in(known, view),
            *keys_in(known, view),
        )
        if view.record is not None:
            before = view


def _changed(before: SagaRecord | None, view: SagaView) -> list[Change]:
    if before is not None and view.record is not None:
        return state_changes(before, view.record)
    state = state_of(view.record)
    return changes({} if isinstance(state, dict) else ABSENT, state) if view.version == 1 else []


def _held(before: SagaRecord | None, view: SagaView) -> list[Held]:
    if view.record is None:
        return []
    return added(before.held if before is not None else (), view.record.held)


def added(earlier: tuple[Held, ...], messages: tuple[Held, ...]) -> list[Held]:
    """Return the messages of a step that the one before did not have."""
    if messages[: len(earlier)] == earlier:
        return list(messages[len(earlier) :])
    known = {one.id for one in earlier}
    return [one for one in messages if one.id not in known]


def kept_in(before: SagaRecord | None, view: SagaView) -> list[Held]:
    """Return the messages that a step keeps for their moment."""
    if view.record is None or (before is None and view.version > 1):
        return []
    return added(before.kept if before is not None else (), view.record.kept)


def phase_in(before: SagaRecord | None, view: SagaView) -> str:
    """Return the phase that an instance is in since a step, if it was in another one before."""
    if view.record is None or (before is None and view.version > 1):
        return ""
    return view.record.phase if before is None or before.phase != view.record.phase else ""


def repairs_of(before: SagaRecord | None, view: SagaView) -> list[Audit]:
    """Return the repairs that a step made; `before`: the record before it, if that is kept."""
    if view.record is None:
        return []
    if before is not None:
        return list(view.record.audit[len(before.audit) :])
    return [audit for audit in view.record.audit if audit.at == view.record.updated_at]


def accepted_in(before: SagaRecord | None, view: SagaView) -> list[Command]:
    """Return the commands that a step recorded as accepted.

    They left the outbox, and were not refused, nor the undo of what was refused, nor put back onto the undo stack. What a
    repair took out is dropped: a step that is a repair accepts none.
    """
    record = view.record
    if before is None or record is None or not before.outbox:
        return []
    if not all(one.by_engine for one in record.audit[len(before.audit) :]):
        return []
    own = ids.persistence_id(view.saga, view.correlation_id)
    refused = {entry for one in record.handled if (entry := ids.refused_entry(own, one.id)) is not None}
    refused.update(ids.entry_of(own, ids.refused_command(held.id)) for held in record.held if held.kind == "refused")
    back = {(undo.of, undo.command.type) for undo in record.undo} if refused else set()
    left = {command.id for command in record.outbox} | refused
    return [
        command
        for command in before.outbox
        if command.id not in left
        and command.of not in refused
        and not (command.undo and (command.of, command.command.type) in back)
    ]


def begun_in(before: SagaRecord | None, view: SagaView) -> str:
    """Return the type of the command that a step recorded as begun by itself, because workers died that had it in hand."""
    record = view.record
    if before is None or record is None or not record.begun or (before.begun and before.taken == record.taken):
        return ""
    return next((command.command.type for command in record.outbox if command.id == record.taken), "")


def gathered_in(before: SagaRecord | None, view: SagaView) -> list[str]:
    """Return the names of the gathers that came to their end in a step, well or not."""
    record = view.record
    if before is None or record is None or not before.gathers or before.incarnation != record.incarnation:
        return []
    left = {name for name, one in record.gathers.items() if not one.over}
    return [name for name, one in before.gathers.items() if not one.over and name not in left]


def activities_in(before: SagaRecord | None, view: SagaView) -> dict[str, str]:
    """Return the activities that came to another stage in a step, and to which, with the reason of a failure."""
    record = view.record
    if record is None or not record.activities or (before is None and view.version > 1):
        return {}
    earlier = before.activities if before is not None and before.incarnation == record.incarnation else {}
    new = {name: stage for name, stage in record.activities.items() if earlier.get(name) != stage}
    return {name: f"{stage.status}: {stage.why}" if stage.why else stage.status for name, stage in new.items()}


def joined_in(before: SagaRecord | None, view: SagaView) -> list[str]:
    """Return the names of the joins that a step ran."""
    record = view.record
    if record is None or not record.joins or (before is None and view.version > 1):
        return []
    earlier = before.joins if before is not None and before.incarnation == record.incarnation else {}
    return [name for name, one in record.joins.items() if one.done and not (name in earlier and earlier[name].done)]


def passed_over_in(before: SagaRecord | None, view: SagaView) -> list[str]:
    """Return the names of the recurring timers that a step moved on without handling them: they had been missed."""
    record = view.record
    if before is None or record is None or not before.timers:
        return []
    own = ids.persistence_id(view.saga, view.correlation_id)
    fired = {*(one.id for one in record.handled), *(held.id for held in record.held)}
    return [
        name
        for name, timer in before.timers.items()
        if timer.rule is not None
        and timer.rule.missed == "skip"
        and record.updated_at - timer.due_at > LATE
        and (now := record.timers.get(name)) is not None
        and now.id != timer.id
        and now.rule == timer.rule
        and f"{own}/{timer.id}" not in fired
    ]


def indexed_in(before: SagaRecord | None, view: SagaView) -> bool:
    """Say whether an instance is found by something else since a step."""
    return before is not None and view.record is not None and view.record.index != before.index


def keys_in(before: SagaRecord | None, view: SagaView) -> tuple[list[KeyValue], list[KeyValue]]:
    """Return the keys that a step has added, and those that it has removed or that ended with the life."""
    if view.record is None or (before is None and view.version > 1):
        return [], []
    old, new = [] if before is None else before.all_keys(), view.record.all_keys()
    return [key for key in new if key not in old], [key for key in old if key not in new]


def result_in(before: SagaRecord | None, view: SagaView) -> Typed | None:
    """Return the result that a step completed with; `before`: the record before it, if that is kept."""
    result = view.record.result if view.record is not None else None
    return None if before is not None and before.result == result else result


def _lease(before: SagaRecord | None, view: SagaView) -> datetime | None:
    until = view.record.leased_until if view.record is not None else None
    return until if before is not None and until is not None and until != before.leased_until else None
