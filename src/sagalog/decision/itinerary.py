"""How far the activities of an instance have come, and what a step means for them. Pure, like all of the decision.

    advance ─► handler ─► [proceed] ─► finish

The record says of each activity that was ever begun, by its name, what became of it; which are ready follows from that and
from the definition. So a handler's actions are followed by one more, `Proceed`: it is applied with them, or not at all.

    running, waiting (for an event)  ─►  done │ failed │ left (failed, and gone on without)  ─►  undone
    skipped (not needed; its place was passed; by an operator)     early (its event came before it was begun)
    stopped (it waited when another failed)
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import msgspec

from ..definition.actions import Compensate, Complete, Run
from ..definition.codec import Typed
from ..definition.itinerary import ActivityTable, DefinedActivity
from ..errors import DefinitionError
from .entries import UNDER_WAY, Stage, Status, Undo
from .gathering import ends_in
from .ids import ACTIVITY
from .message import Message
from .moments import after
from .record import SagaRecord

Asked = Callable[[Any, list[Any]], list[Any]]
_ENDED = frozenset({"done", "skipped", "left", "undone"})
_RUNNING = Status.RUNNING  # looked up once: Python 3.11 finds a member of an enum by a call
_MOST_TOLD = 200  # characters of the reason of a failure


class Proceed(msgspec.Struct):
    """What a step changes about activities. `stages`: of the record after it, entries of those that begin still to come."""

    stages: dict[str, Stage]
    begin: tuple[tuple[str, Typed, Typed | None], ...] = ()  # activity, command, undo
    over: tuple[str, ...] = ()  # types of commands that need not be carried out any more
    newest: tuple[str, ...] = ()  # entries whose undo comes first from now on
    undone: tuple[str, ...] = ()  # entries that were not carried out: there is nothing to take back
    commits: bool = False  # nothing that was done so far is undone any more
    timers: tuple[tuple[str, Typed, datetime], ...] = ()
    drops: tuple[str, ...] = ()  # names of timers


def is_stale(draft: Any, record: SagaRecord, message: Message) -> bool:
    """Say whether a message is about a call of an activity that is over: its result is known, or not wanted any more."""
    table = draft.saga.activities
    what, name = table.events.get(type(message.event), ("", ""))
    if what not in ("done", "failed"):
        return False
    stage = record.activities.get(name)
    if stage is None or stage.status not in UNDER_WAY:
        return True
    return stage.status == "running" and not message.id.startswith(f"{draft.persistence_id}/{stage.entry}/reply/")


def knows_by_progress(draft: Any, message: Message) -> bool:
    """Say whether the progress of activities tells if a message has come before: `is_stale`. Its id is not remembered."""
    table = draft.saga.activities
    return table is not None and message.answer and type(message.event) in table.events and not message.replayed


def proceed(
    draft: Any, message: Message, record: SagaRecord, state: Any, actions: list[Any], asked: Asked
) -> list[Any]:
    """Return the actions of a handler, and what follows for the activities. Raises DefinitionError; nothing has changed.

    `asked` makes actions of what `then` or `failed` of an activity returned that has ended by an event. It is given the
    actions before those.
    """
    table: ActivityTable = draft.saga.activities
    wanted = [action for action in actions if isinstance(action, Run)] if actions else actions
    if record.status is not _RUNNING:
        if wanted:
            raise DefinitionError(f"saga {table.name!r}: Run({_name(wanted[0])!r}) while it is {record.status.value}")
        return actions
    if wanted:
        actions = [action for action in actions if not isinstance(action, Run)]
    step = _Itinerary(draft, table, record, state, actions, asked)
    step.note(message)
    if record.gathers:
        for event in ends_in(actions):
            step.note_event(event)
    if wanted:
        step.want([_name(action) for action in wanted])
    ending: list[Any] = []
    end = _end_in(step.actions) if step.actions else None
    if end is None:
        ending = step.go_on()
        end = _end_in(step.actions) if step.actions else None  # where an event that came early ends it
    actions = step.actions
    if not (actions or ending):
        return step.change()
    if end is None:
        return [*actions, *step.change(), *ending]
    step.end(actions[end])
    return [*actions[:end], *step.change(), *actions[end:], *ending]


def _end_in(actions: list[Any]) -> int | None:
    return next((number for number, one in enumerate(actions) if isinstance(one, (Complete, Compensate))), None)


def mark_undone(record: SagaRecord, entries: set[str]) -> None:
    """Note that what was done under these entries has been taken back."""
    record.activities = {
        name: msgspec.structs.replace(stage, status="undone") if stage.entry in entries else stage
        for name, stage in record.activities.items()
    }


def reordered(record: SagaRecord, change: Proceed) -> tuple[Undo, ...]:
    """Return the undo stack with the newest on top, without what was not carried out; none of activities behind a pivot."""
    if change.commits:
        of = {stage.entry for stage in change.stages.values() if stage.entry}
        return tuple([undo for undo in record.undo if undo.of not in of or undo.life != record.incarnation])
    if not change.undone and not any(undo.of in change.newest for undo in record.undo[:-1]):
        return record.undo  # what has ended is the newest already, or nothing takes it back
    moved = {*change.newest, *change.undone}
    newest = [undo for entry in change.newest for undo in record.undo if undo.of == entry]
    return (*[undo for undo in record.undo if undo.of not in moved], *newest)


def _name(action: Run) -> str:
    name: Any = action.activity if isinstance(action.activity, str) else getattr(action.activity, "name", None)
    if isinstance(name, str):
        return name
    called = getattr(action.activity, "__name__", "flight")
    raise DefinitionError(
        f"Run takes an activity of the class, or its name: Run({called!r}), not {type(action.activity).__name__}"
    )


class _Itinerary:
    """The activities of one instance in one step."""

    __slots__ = (
        "_asked",
        "_before",
        "_change",
        "_draft",
        "_stages",
        "_state",
        "_table",
        "_timers",
        "_wanted",
        "actions",
    )

    def __init__(
        self, draft: Any, table: ActivityTable, record: SagaRecord, state: Any, actions: list[Any], asked: Asked
    ) -> None:
        self.actions = actions
        self._asked = asked
        self._draft = draft
        self._table = table
        self._state = state
        self._before = record.activities
        self._timers = record.timers
        self._wanted: set[str] = set()
        self._change = Proceed(dict(record.activities))
        self._stages = self._change.stages

    def note(self, message: Message) -> None:
        """Note what the message says about an activity."""
        event = message.event
        kind = type(event.command if message.kind == "refused" else event)
        what, name = self._table.events.get(kind, ("", ""))
        if what:
            if what == "proceed":
                return
            step, stage = self._table.steps[name], self._stages.get(name)
            if stage is None or stage.status not in UNDER_WAY:
                return
            if what == "done":
                self._done(step, stage)
            elif what == "failed":
                self._failed(step, stage, event.reason, refused=event.refused)
            elif what == "overdue":
                if not step.never_fails:
                    self._failed(step, stage, step.too_long, refused=False)
            elif stage.status == "waiting" and step.options.remind is not None:
                self._ask(step, event.number, step.options.remind)
        elif message.kind != "refused":
            self.note_event(event)

    def note_event(self, event: Any) -> None:
        """Note an event that an activity may wait for."""
        if type(event) in self._table.awaited:
            self._came(*self._table.awaited[type(event)], event)

    def want(self, names: list[str]) -> None:
        """Note which activities a handler asks for."""
        for name in names:
            if name not in self._table.steps:
                has = ", ".join(self._table.steps)
                raise DefinitionError(f"saga {self._table.name!r} has no activity {name!r} to Run; it has {has}")
            if self._table.automatic:
                raise DefinitionError(
                    f"saga {self._table.name!r}: Run({name!r}) in an ItinerarySaga, whose activities begin by themselves"
                )
            stage = self._stages.get(name)
            if stage is None or stage.status not in UNDER_WAY:
                self._wanted.add(name)
                if stage is not None and stage.status != "early":
                    del self._stages[name]

    def go_on(self) -> list[Any]:
        """Begin what is ready; return the action that ends the saga, if all has come to its end."""
        standing = self._standing()
        if "failed" not in standing:
            self._begin_ready(early="early" in standing)
            standing = self._standing()
        if "failed" in standing:
            self._stop_waiting()
            return [] if "running" in standing else [Compensate()]
        if standing or not self._table.automatic:
            return []
        return [Complete(self._draft.saga.result(self._state))]

    def end(self, ending: Any) -> None:
        """Let a handler's own Complete or Compensate end it."""
        if self._wanted:
            what = type(ending).__name__
            raise DefinitionError(f"saga {self._table.name!r}: Run({min(self._wanted)!r}) and {what}() in one step")
        self._stop_waiting()
        running = [name for name, stage in self._stages.items() if stage.status == "running"]
        if running and not isinstance(ending, Compensate):
            raise DefinitionError(
                f"saga {self._table.name!r}: Complete() while {', '.join(running)} is under way, which would then "
                "run without its saga: complete it in @activity.then, or compensate"
            )

    def change(self) -> list[Proceed]:
        """Return what has changed as an action; none where nothing has."""
        change = self._change
        if change.begin or change.over or change.timers or self._stages != self._before:
            return [change]
        return []

    def _standing(self) -> list[str]:
        """Return the statuses of those that have not ended."""
        return [stage.status for stage in self._stages.values() if stage.status not in _ENDED]

    def _begin_ready(self, *, early: bool) -> None:
        """Begin what is ready, in the order of the class. `early`: there are some whose event is here already."""
        stages, changed = self._stages, True
        while changed:
            changed = False
            for name, step in self._table.steps.items():
                if name in stages and not (early and stages[name].status == "early"):
                    continue
                if self._is_ready(name, step):
                    changed = self._begin(step, stages.get(name)) or changed
                    if changed and "failed" in self._standing():
                        return

    def _is_ready(self, name: str, step: DefinedActivity) -> bool:
        if name in self._wanted:
            return True
        if step.after is None:
            return False
        for other in step.after:
            stage = self._stages.get(other)
            if stage is None or stage.status not in _ENDED:
                return False
        return True

    def _begin(self, step: DefinedActivity, stage: Stage | None) -> bool:
        """Begin an activity, or pass it over; say whether it has ended by that."""
        name, options = step.name, step.options
        asked = name in self._wanted
        self._wanted.discard(name)
        if stage is not None:  # its event is here already
            refused = stage.why
            self._move(name, Stage("done", pivot=options.pivot) if not refused else self._failure(step, "", refused))
            self._change.commits = self._change.commits or (options.pivot and not refused)
            self._tell(step, refused)
            return True
        if options.when is not None and not options.when(self._state):
            self._move(name, Stage("skipped", why="not needed"))
            return True
        if not (asked or step.before.isdisjoint(self._stages)) and any(
            other in step.before and one.status != "early" for other, one in self._stages.items()
        ):
            # This code has put it before what older code had begun already.
            self._move(name, Stage("skipped", why="its place was passed"))
            return True
        self._move(name, Stage("waiting" if options.until is not None else "running"))
        undo = step.stored_undo
        if undo is not None and (self._change.commits or any(one.pivot for one in self._stages.values())):
            undo = None
        self._change.begin += ((name, step.stored, undo),)
        if options.within is not None:
            self._set(ACTIVITY + name, step.overdue(), options.within)
        if options.remind is not None:
            self._set(f"{ACTIVITY}{name}/reminder", step.reminder(1), options.remind)
        return False

    def _ask(self, step: DefinedActivity, number: int, remind: timedelta) -> None:
        """Call it again, as a reminder."""
        command = self._draft.registry.pack(step.command(number))
        self._change.begin += ((step.name, command, None),)
        self._set(f"{ACTIVITY}{step.name}/reminder", step.reminder(number + 1), remind)

    def _came(self, step: DefinedActivity, refuses: bool, event: Any) -> None:
        """An event has come that an activity waits for, or that ends its waiting."""
        stage = self._stages.get(step.name)
        why = f"{type(event).__name__} came" if refuses else ""
        if stage is None:
            self._stages[step.name] = Stage("early", why=why)
        elif stage.status != "waiting":
            return
        if step.field and not refuses:
            setattr(self._state, step.name, event)
        if stage is None:
            return
        if refuses:
            self._failed(step, stage, why, refused=False)
        else:
            self._done(step, stage)
        self._tell(step, why)

    def _tell(self, step: DefinedActivity, why: str) -> None:
        """Let the saga's `then` or `failed` of an activity run that an event has ended."""
        method = step.methods.get("failed" if why else "then")
        if method is None:
            return
        told = getattr(self._draft.saga, method)
        more = self._asked(told(self._state, why) if why else told(self._state), self.actions)
        self.want([_name(action) for action in more if isinstance(action, Run)])
        self.actions = [*self.actions, *(action for action in more if not isinstance(action, Run))]

    def _done(self, step: DefinedActivity, stage: Stage) -> None:
        self._over(step)
        self._move(step.name, Stage("done", stage.entry, pivot=step.options.pivot))
        if step.options.pivot:
            self._change.commits = True
        else:
            self._change.newest += (stage.entry,)

    def _failed(self, step: DefinedActivity, stage: Stage, reason: str, *, refused: bool) -> None:
        self._over(step)
        self._move(step.name, self._failure(step, stage.entry, reason))
        if refused:
            self._change.undone += (stage.entry,)
        else:
            self._change.newest += (stage.entry,)

    @staticmethod
    def _failure(step: DefinedActivity, entry: str, reason: str) -> Stage:
        return Stage("left" if step.options.optional else "failed", entry, reason[:_MOST_TOLD])

    def _stop_waiting(self) -> None:
        for name, stage in list(self._stages.items()):
            if stage.status == "waiting":
                if (step := self._table.steps.get(name)) is not None:
                    self._over(step)
                self._move(name, Stage("stopped", stage.entry))
                self._change.newest += (stage.entry,)

    def _over(self, step: DefinedActivity) -> None:
        """Forget what is still to be done about an activity, also what other code has set."""
        change = self._change
        change.over += (step.stored.type,)
        if self._timers:
            change.drops += (ACTIVITY + step.name, f"{ACTIVITY}{step.name}/reminder")

    def _move(self, name: str, stage: Stage) -> None:
        """Note the stage of an activity, behind all others: they stand in the order in which they came there."""
        self._stages.pop(name, None)
        self._stages[name] = stage

    def _set(self, timer: str, event: Any, span: Any) -> None:
        due_at = after(self._draft.now, span, self._draft.saga, timer)
        self._change.timers += ((timer, self._draft.registry.pack(event), due_at),)
