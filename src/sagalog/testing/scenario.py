"""Given, when, then: one instance of a saga, driven by hand (driven.py) through the rule that production runs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Generic, Self, TypeVar
from uuid import UUID

from ..decision.children import ChildTold, live_children
from ..decision.entries import Joined, Status
from ..decision.ids import ACTIVITY, ANSWER, GAP
from ..decision.keys import checked_key
from ..decision.message import Message
from ..decision.phases import phase_of
from ..decision.record import SagaRecord
from ..decision.timers import due_timer
from ..definition.actions import AddKey
from ..definition.children import ChildOutcome
from ..definition.itinerary import DefinedActivity
from ..definition.results import pack_result, unpack_result
from ..definition.saga import Saga
from ..durations import remedy
from ..errors import DefinitionError, SagaParkedError
from ..runner.arguments import check_moment
from ..text import given
from .driven import DrivenInstance
from .story import Story, differences, shown

S = TypeVar("S")
_UNSET: Any = object()
_MAX_TIMERS = 1_000


class Scenario(Generic[S]):
    """Drives one instance of a saga in a test, without an event loop.

        scenario = Scenario(OrderSaga)
        scenario.given(OrderPlaced("A-1", 120))
        scenario.when(PaymentReceived("A-1"))
        scenario.then(sent=[ShipOrder("A-1")], timers={}, completed=True)

    Commands are accepted as soon as they are sent, in order, unless `refuses` says otherwise. Time stands still at `now`
    until `after`. What a handler raises is raised by the call that ran it; nothing has changed then.
    """

    def __init__(self, saga: Saga[S] | type[Saga[S]], *, now: datetime = datetime(2030, 1, 1, tzinfo=UTC)) -> None:
        made = saga() if isinstance(saga, type) and issubclass(saga, Saga) else saga
        if not isinstance(made, Saga):
            shown = saga.__name__ if isinstance(saga, type) else type(saga).__name__
            raise DefinitionError(f"Scenario(saga) takes a saga or its class, not {shown}")
        check_moment("now= of a Scenario", now)
        self._saga: Saga[S] = made
        self._story = Story(made.name)
        self._instance = DrivenInstance(made, self._story, now.astimezone(UTC))

    def __repr__(self) -> str:
        return f"<Scenario of {self._saga.name!r}, {self.status or 'not started'} at {self.now:%Y-%m-%d %H:%M:%S}>"

    def given(self, *events: Any) -> Self:
        """Let events happen, of which `then` will not speak."""
        for event in events:
            self._instance.happen(event, None)
        self._instance.begin()
        return self

    def when(self, event: Any, *, message_id: str | None = None) -> Self:
        """Let an event happen. With a `message_id` that came before, it is a duplicate, and changes nothing."""
        self._instance.begin()
        self._instance.happen(event, message_id)
        return self

    def after(self, passed: timedelta) -> Self:
        """Let time pass: timers that fall due fire in the order of their moments, also those set meanwhile."""
        until = _ahead(self.now, passed)
        self._instance.begin()
        at_once = 0
        while True:
            message = due_timer(self._instance.draft(), until, since=self.now)
            if message is None:
                break
            assert message.at is not None
            at_once = at_once + 1 if message.at <= self.now else 0
            if at_once > _MAX_TIMERS:
                raise AssertionError(f"{_MAX_TIMERS:,} timers fired at one moment: does one set itself again at once?")
            self._instance.now = max(self.now, message.at)
            told = "was missed, and is skipped" if message.missed else "fires"
            self._instance.step(message, f"{self._timer(message)} {told}")
        self._instance.now = until
        return self

    def away(self, passed: timedelta) -> Self:
        """Let time pass while no worker runs; then one comes back. Recurring timers do as their `missed` says."""
        until = _ahead(self.now, passed)
        self._instance.begin()
        self._instance.now = until
        for _ in range(_MAX_TIMERS):
            message = due_timer(self._instance.draft(), self.now)
            if message is None:
                return self
            told = "was missed, and is skipped" if message.missed else "fires late"
            self._instance.step(message, f"{self._timer(message)} {told}")
        raise AssertionError(
            f"{_MAX_TIMERS:,} timers were due after {passed}: was one set again at once, or are these so many?"
        )

    def in_phase(self, phase: Enum) -> Self:
        """Put the instance into a phase, as an operator may: nothing acts. What is kept for that phase is handled."""
        table = self._saga.phase_table
        if table is None:
            raise DefinitionError(f"in_phase({phase!r}): saga {self._saga.name!r} has no phases")
        table.check("in_phase(...)", phase)
        if self._instance.record is None:
            raise AssertionError(self._story.told("there is no instance to be in a phase: no event has started one"))
        self._instance.begin()
        self._story.begin(self.now, f"is put into {phase.name}")
        draft = self._instance.draft()
        draft.touch().phase = phase.name
        self._instance.save(draft)
        self._instance.deliver()
        return self

    def given_done(self, activity: str, result: Any = None) -> Self:
        """Let an activity that runs return this, of which `then` will not speak."""
        self.when_done(activity, result)
        self._instance.begin()
        return self

    def when_done(self, activity: str, result: Any = None) -> Self:
        """Let an activity that runs return this."""
        step = self._running(activity)
        done = step.done(result) if step.done.__struct_fields__ else step.done()  # type: ignore[attr-defined]
        return self._ended(activity, done, f"{activity} is done: {result!r}")

    def when_failed(self, activity: str, reason: str = "refused", *, refused: bool = True) -> Self:
        """Let an activity that runs fail: it is refused, or nobody knows whether it was carried out (`refused=False`).

        Raises SagaParkedError, and nothing has changed, for one about whose failure an operator has to decide.
        """
        step = self._running(activity)
        record = self._instance.record
        assert record is not None
        committed = record.committed
        if (step.never_fails or committed) and not step.options.optional:
            raise SagaParkedError(self._saga.name, str(self._instance.correlation_id), f"{activity} failed: {reason}")
        return self._ended(activity, step.failed(reason, refused), f"{activity} fails: {reason}")

    def _running(self, activity: str) -> DefinedActivity:
        table = self._saga.activities
        if table is None or activity not in table.steps:
            raise DefinitionError(f"saga {self._saga.name!r} has no activity {activity!r}")
        if activity not in self.running:
            raise AssertionError(self._story.told(f"{activity} is not running; running are {sorted(self.running)}"))
        return table.steps[activity]

    def _ended(self, activity: str, event: Any, what: str) -> Self:
        self._instance.begin()
        self._instance.end(activity, event, what)
        return self

    def given_child(
        self, saga: type[Saga[Any]] | str, child: str, outcome: ChildOutcome = "completed", **end: Any
    ) -> Self:
        """Let a child that runs come to its end, as `when_child` does; `then` will not speak of it."""
        self.when_child(saga, child, outcome, **end)
        self._instance.begin()
        return self

    def when_child(
        self,
        saga: type[Saga[Any]] | str,
        child: str,
        outcome: ChildOutcome = "completed",
        *,
        result: Any = None,
        reason: str = "",
    ) -> Self:
        """Let a child that runs come to its end: that saga's, of that id. It completes with a result, or as said."""
        name = saga if isinstance(saga, str) else saga.name
        record = self._instance.record
        live = {} if record is None else live_children(record)
        entry = next((entry for entry, one in live.items() if (one.saga, one.id) == (name, child)), None)
        if entry is None:
            raise AssertionError(self._story.told(f"no child {name} {child} runs; children are {self.children}"))
        self._instance.begin()
        packed = None if result is None else pack_result(result, self._instance.registry)
        self._instance.end_child(entry, ChildTold(name, child, outcome, packed, reason))
        return self

    def answers(self, command: type, answer: Any) -> Self:
        """From now on, let the handler of such commands answer this event, or what this function makes of the command.

        None is no answer. One to a command of an earlier life is let go, as a runner does.
        """
        self._instance.answers[command] = answer
        return self

    def refuses(self, command: type | str, reason: str = "refused") -> Self:
        """From now on, let the handler of such commands refuse them for that reason; a name: the undo of that activity."""
        self._instance.refuses[command] = reason
        return self

    def taken(self, key: str, value: str | int | UUID, *, held: bool = True) -> Self:
        """From now on, let another instance hold that value of a unique key; with `held=False` nobody else any more."""
        declared = self._saga.key_table.get(key)
        if declared is None or not declared.unique:
            raise DefinitionError(f"taken({key!r}, ...): saga {self._saga.name!r} has no such unique key")
        named = checked_key(AddKey(key, value), self._saga.name, self._saga.key_table)
        (self._instance.taken.add if held else self._instance.taken.discard)(named)
        return self

    @property
    def now(self) -> datetime:
        """The moment that it is."""
        return self._instance.now

    @property
    def sent(self) -> list[Any]:
        """The commands since the last `when`, `after` or `away`, in their order, undo commands included."""
        return self._instance.sent

    @property
    def state(self) -> S:
        """The state, decoded anew. Raises AssertionError where there is no instance."""
        if self._instance.record is None:
            raise AssertionError(self._story.told("there is no instance: no event has started one"))
        return self._saga.decode_state(self._instance.record.state_bytes())

    @property
    def result(self) -> Any:
        """What it has completed with, read back from what is stored; None: nothing yet, or without a result."""
        record = self._instance.record
        return None if record is None else unpack_result(record.result, self._instance.registry)

    @property
    def status(self) -> str | None:
        """`running`, `compensating`, `compensation_failed`, `completed`, `compensated`, or None: there is no instance."""
        record = self._instance.record
        return None if record is None else record.status.value

    @property
    def phase(self) -> Enum | None:
        """The phase; None where there is no instance, or the saga has no phases."""
        record = self._instance.record
        return None if record is None else phase_of(self._saga, record)

    @property
    def keys(self) -> dict[str, list[str]]:
        """The keys that it holds: their values as they are stored, by name. An event by another key does not reach it."""
        record = self._instance.record
        return {} if record is None else _by_name(record)

    @property
    def kept(self) -> list[Any]:
        """The events that wait for their moment, in the order they came."""
        record = self._instance.record
        return [] if record is None else [self._instance.registry.unpack(one.event) for one in record.kept]

    @property
    def running(self) -> set[str]:
        """The activities that are carried out."""
        return set(self._instance.running())

    @property
    def undone(self) -> list[str]:
        """The activities that were taken back since the last `when`, `after` or `away`, in their order."""
        return self._instance.undone

    @property
    def started(self) -> list[Any]:
        """The starting events of the children that were started since the last `when`, `after` or `away`."""
        return self._instance.started

    @property
    def stopped(self) -> list[str]:
        """The ids of children that were asked to compensate, or to end, since then. Those that compensate have done so."""
        return self._instance.stopped

    @property
    def children(self) -> list[str]:
        """The ids of the children that run, in the order of their starts."""
        return (
            [] if self._instance.record is None else [one.id for one in live_children(self._instance.record).values()]
        )

    @property
    def activities(self) -> dict[str, str]:
        """What became of each activity that was begun or passed over, in the order in which it came to that."""
        record = self._instance.record
        return {} if record is None else {name: stage.status for name, stage in record.activities.items()}

    @property
    def timers(self) -> dict[str, datetime]:
        """When the pending timers are due, by name; scheduled commands and deadlines are not among them."""
        if self._instance.record is None:
            return {}
        timers = self._instance.record.timers.items()
        ours = (ANSWER, ACTIVITY, GAP)
        return {name: timer.due_at for name, timer in timers if not timer.send and not name.startswith(ours)}

    @property
    def joins(self) -> dict[str, tuple[str, ...]]:
        """What each `when_all` waits for still, by its name; nothing for one that has run."""
        joined = {} if self._instance.record is None else self._instance.record.joins
        return {join.name: _left(joined.get(join.name), join.legs) for join in self._saga.joins()}

    @property
    def gathers(self) -> dict[str, tuple[int, int]]:
        """The gathers that are under way, by name: how many legs have been answered or refused, and of how many."""
        under_way = {} if self._instance.record is None else self._instance.record.gathers
        return {name: (one.come, one.total) for name, one in under_way.items() if not one.over}

    @property
    def awaited(self) -> list[tuple[str, datetime]]:
        """The commands whose answer has a deadline that has not passed: their types, and until when, in their order."""
        record = self._instance.record
        if record is None:
            return []
        due = {name.removeprefix(ANSWER): timer.due_at for name, timer in record.timers.items()}
        return [(request.command, due[request.id]) for request in record.requests if request.id in due]

    def then(
        self,
        *,
        sent: list[Any] = _UNSET,
        timers: Mapping[str, timedelta | datetime] = _UNSET,
        state: S | Mapping[str, Any] = _UNSET,
        status: str | None = _UNSET,
        completed: bool = _UNSET,
        compensated: bool = _UNSET,
        result: Any = _UNSET,
        phase: Enum | None = _UNSET,
        kept: list[Any] = _UNSET,
        running: set[str] = _UNSET,
        undone: list[str] = _UNSET,
        activities: Mapping[str, str] = _UNSET,
        started: list[Any] = _UNSET,
        stopped: list[str] = _UNSET,
        children: list[str] = _UNSET,
        keys: Mapping[str, list[str]] = _UNSET,
    ) -> Self:
        """Raise AssertionError, with the story so far, unless all that is named is so.

        `sent`: exactly these commands since the last `when` or `after`, in this order. `timers`: exactly these are
        pending, due at that moment or that long from now. `state`: equal to it, or a mapping: these attributes are.
        `result`: it has completed with that. `phase`: it is in that one. `kept`: exactly these events wait for their
        moment, in this order. `running`: exactly these activities are carried out. `undone`: exactly these were taken
        back since the last `when`, in this order. `activities`: what became of these. `started`: exactly these events began
        children since the last `when`; `stopped`: children of these ids were asked to end; `children`: these run.
        `keys`: it holds exactly these.
        """
        wrong: list[str] = []
        if sent is not _UNSET and self.sent != sent:
            wrong += shown("sent", sent, self.sent)
        if timers is not _UNSET:
            expected = {name: self.now + due if isinstance(due, timedelta) else due for name, due in timers.items()}
            if self.timers != expected:
                wrong += shown("timers", self._left(expected), self._left(self.timers))
        if running is not _UNSET and self.running != set(running):
            wrong += shown("running", sorted(running), sorted(self.running))
        if undone is not _UNSET and self.undone != undone:
            wrong += shown("undone", undone, self.undone)
        if activities is not _UNSET:
            now = {name: self.activities.get(name) for name in activities}
            wrong += shown("activities", dict(activities), now) if now != dict(activities) else []
        for what, wanted, actual_list in (
            ("started", started, self.started),
            ("stopped", stopped, self.stopped),
            ("children", children, self.children),
        ):
            if wanted is not _UNSET and wanted != actual_list:
                wrong += shown(what, wanted, actual_list)
        if keys is not _UNSET and self.keys != keys:
            wrong += shown("keys", dict(keys), self.keys)
        if kept is not _UNSET and self.kept != kept:
            wrong += shown("kept", kept, self.kept)
        if state is not _UNSET:
            wrong += differences(state, self.state)
        if result is not _UNSET and (type(self.result) is not type(result) or self.result != result):
            wrong += shown("result", result, self.result)
        for name, value, actual in (
            ("status", status, self.status),
            ("phase", phase, self.phase),
            ("completed", completed, self.status == Status.COMPLETED),
            ("compensated", compensated, self.status == Status.COMPENSATED),
        ):
            if value is not _UNSET and value != actual:
                wrong += shown(name, value, actual if name in ("status", "phase") else f"{actual}, it is {self.status}")
        if wrong:
            raise AssertionError(self._story.told("\n".join(wrong)))
        return self

    def _left(self, timers: Mapping[str, datetime]) -> dict[str, str]:
        return {name: f"in {due - self.now}" for name, due in sorted(timers.items())}

    def _timer(self, message: Message) -> str:
        title = message.name if self._instance.record is None else self._instance.record.timer_title(message.name)
        return f"timer {title!r}" if title == message.name else f"the deadline ({title})"


def _by_name(record: SagaRecord) -> dict[str, list[str]]:
    return {name: list(texts) for name, texts in (*record.keys.items(), *record.unique_keys.items())}


def _left(joined: Joined | None, legs: tuple[str, ...]) -> tuple[str, ...]:
    if joined is None:
        return legs
    return () if joined.done else tuple(leg for leg in legs if leg not in joined.came)


def _ahead(now: datetime, passed: Any) -> datetime:
    if not isinstance(passed, timedelta):
        raise DefinitionError(f"passed must be a timedelta, not {given(passed)}: {remedy('passed', passed)}")
    if passed < timedelta(0):
        raise DefinitionError(f"time goes forward only, not by {passed}")
    try:
        return now + passed
    except OverflowError:
        raise DefinitionError(f"there is no time {passed} from now") from None
