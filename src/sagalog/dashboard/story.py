"""What happened to one instance, step by step: read backwards, a page of steps at a time."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from ..decision.entries import Audit, Command, Handled, Held, Timer
from ..decision.ids import sent_in
from ..decision.keys import KeyValue
from ..decision.record import SagaRecord
from ..definition.codec import Typed
from ..definition.results import result_type
from ..journal import Journal
from ..operating.inspect import SagaView, state_of
from ..operating.json_diff import ABSENT, changes
from ..operating.steps import (
    accepted_in,
    activities_in,
    added,
    begun_in,
    gathered_in,
    indexed_in,
    joined_in,
    kept_in,
    keys_in,
    passed_over_in,
    phase_in,
    repairs_of,
    result_in,
)
from ..operating.view import steps_between
from .mask import MASKED, Mask
from .render import MAX_OF_A_MESSAGE, cut, pretty
from .tally import name_of

STEPS = 25
MAX_CHANGES = 40
MAX_OF_A_CHANGE = 300  # characters


class Payload(msgspec.Struct, frozen=True):
    """A message as it is shown: its type and JSON, cut where it is long; `left_out` characters are missing then."""

    type: str
    text: str
    left_out: int


class SentCommand(msgspec.Struct, frozen=True):
    """A command that a step put into the outbox."""

    id: str
    payload: Payload
    undo: bool


class ShownChange(msgspec.Struct, frozen=True):
    """A change of the state as it is shown; None where nothing was, or is."""

    path: str
    before: str | None
    after: str | None


class StoryStep(msgspec.Struct):
    """One record: what it handled, sent and set, and what it took out of the outbox."""

    version: int
    status: str
    at: datetime | None
    writer: str
    unreadable: str
    handled: tuple[Handled, ...]
    sent: list[SentCommand]
    timers: dict[str, Timer]  # that it set, by name
    stopped: list[str]  # timers that it cancelled, or that fired
    accepted: list[str]  # commands that it no longer has to deliver
    held: list[Held]  # messages that it kept for the repair
    repairs: list[Audit]
    before: SagaRecord | None
    record: SagaRecord | None
    changes: list[ShownChange] = []
    begins: bool = False  # a new incarnation
    parks: str = ""
    gathered: list[str] = []  # gathers that came to their end
    joined: list[str] = []  # joins that it ran
    activities: dict[str, str] = {}  # that came to another stage, and to which
    passed_over: list[str] = []  # recurring timers whose missed times it passed over
    lease: bool = False  # it prolonged the lease of the worker that is at the first command
    result: Payload | None = None  # that it completed with
    kept: list[Held] = []  # messages that it keeps for their moment
    phase: str = ""  # that it entered
    alone: str = ""  # the type of the command that it began by itself, because workers died that had it in hand
    indexed: bool = False  # it is found by something else since
    added: list[KeyValue] = []  # keys
    removed: list[KeyValue] = []


class InstanceStory(msgspec.Struct):
    """Some steps, the newest first. `older`: the step to go on from, 0 where the kept history begins."""

    steps: list[StoryStep]
    older: int


def shown(kind: str, data: msgspec.Raw, mask: Mask) -> Payload:
    """Return a stored message as it is shown."""
    return Payload(kind, *cut(pretty(data, mask), MAX_OF_A_MESSAGE))


def shown_result(stored: Typed, mask: Mask) -> Payload:
    """Return a stored result as it is shown: a mask may name its fields, or `result` for all of it."""
    data = msgspec.Raw(msgspec.json.encode(MASKED)) if mask.hides(("result",)) else stored.data
    return shown(result_type(stored), data, mask)


async def story(journal: Journal, view: SagaView, mask: Mask, *, newest: int | None = None) -> InstanceStory:
    """Return the steps up to and including `newest` (all of them: None), STEPS at most."""
    top = view.version if newest is None else max(0, min(newest, view.version))
    found = await steps_between(journal, name_of(view), max(1, top - STEPS), top)
    numbers = sorted(found, reverse=True)
    steps = [_step(found[number], found.get(number - 1), mask) for number in numbers[:STEPS]]
    return InstanceStory(steps, numbers[STEPS] if len(numbers) > STEPS else 0)


def _step(view: SagaView, previous: SagaView | None, mask: Mask) -> StoryStep:
    record = view.record
    if record is None:
        return StoryStep(
            view.version, view.status, None, view.writer, view.unreadable, (), [], {}, [], [], [], [], None, None
        )
    before = previous.record if previous is not None else None
    begins = record.incarnation > 1 and before is not None and before.incarnation < record.incarnation
    return StoryStep(
        view.version,
        view.status,
        record.updated_at,
        view.writer,
        "",
        record.handled,
        [SentCommand(entry.id, _payload(entry, mask), entry.undo) for entry in record.outbox if _of(entry.id, view)],
        {name: timer for name, timer in record.timers.items() if _of(timer.id, view)},
        []
        if before is None
        else [before.timer_title(name) for name, timer in before.timers.items() if record.timers.get(name) != timer],
        [f"{entry.title} ({entry.id})" for entry in accepted_in(before, view)],
        added(before.held, record.held) if before is not None else [],
        repairs_of(before, view),
        before,
        record,
        _changes(record, before, mask) if before is not None or view.version == 1 else [],
        begins,
        record.parked if record.parked and (before is None or before.parked != record.parked) else "",
        gathered_in(before, view),
        joined_in(before, view),
        activities_in(before, view),
        passed_over_in(before, view),
        before is not None and record.leased_until not in (None, before.leased_until),
        None if (result := result_in(before, view)) is None else shown_result(result, mask),
        kept_in(before, view),
        phase_in(before, view),
        begun_in(before, view),
        indexed_in(before, view),
        *[[veiled(key, mask) for key in some] for some in keys_in(before, view)],
    )


def veiled(key: KeyValue, mask: Mask) -> KeyValue:
    """Return a key as it is shown: its value is hidden where a mask names it."""
    return (key[0], MASKED) if mask.hides((key[0],)) else key


def _of(entry: str, view: SagaView) -> bool:
    return sent_in(entry)[0] == view.version


def _payload(entry: Command, mask: Mask) -> Payload:
    return shown(entry.title, entry.command.data, mask)


def _changes(record: SagaRecord, before: SagaRecord | None, mask: Mask) -> list[ShownChange]:
    if before is not None and bytes(before.state) == bytes(record.state):
        return []
    after = mask.veiled(state_of(record))
    old = mask.veiled(state_of(before)) if before is not None else {} if isinstance(after, dict) else ABSENT
    found = changes(old, after)
    shown = [ShownChange(one.path or "all of it", _short(one.before), _short(one.after)) for one in found[:MAX_CHANGES]]
    if len(found) > MAX_CHANGES:
        shown.append(ShownChange(f"and {len(found) - MAX_CHANGES:,} more", None, None))
    return shown


def _short(value: Any) -> str | None:
    if value is ABSENT:
        return None
    try:
        text = msgspec.json.encode(value, enc_hook=str).decode()
    except RecursionError:
        return "(nested too deeply to show)"
    return text if len(text) <= MAX_OF_A_CHANGE else f"{text[:MAX_OF_A_CHANGE]}… ({len(text):,} characters)"
