"""Any sequence of messages leaves a record that lists and a dict would have: the step against a simple model."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sagalog import (
    CancelTimer,
    Compensate,
    Complete,
    DefinitionError,
    Outcome,
    SagaRecord,
    Schedule,
    Send,
    SetTimer,
)
from sagalog.decision.advance import advance
from sagalog.decision.draft import Draft
from sagalog.decision.message import Message, refusal, unhold
from sagalog.decision.parking import park
from sagalog.decision.record import decode_record, encode_record
from sagalog.decision.state import decode_state
from sagalog.decision.timers import due_timer

from ..orders import Asked, Charge, Overdue, Placed, Refund, Ship, Survey
from .test_step import NOW, PID, REGISTRY, SAGA, Told, draft

MINUTE = timedelta(minutes=1)
ACTIONS: dict[str, Any] = {
    "send": Send(Ship("a")),
    "send with undo": Send(Charge("a"), undo=Refund("a")),
    "set a": SetTimer("a", Overdue("a"), after=1 * MINUTE),
    "set b": SetTimer("b", Overdue("a"), after=3 * MINUTE),
    "cancel a": CancelTimer("a"),
    "schedule": Schedule(Survey("a"), 2 * MINUTE),
    "complete": Complete(),
    "compensate": Compensate(),
}


@dataclass
class Model:
    """What a record should say. The last of each is the incarnation that it is of.

    Outbox: (id, type, undo of, life); timers: (id, due, scheduled command, life); undo: (of, type, life).
    """

    status: str = "none"
    log: list[str] = field(default_factory=list)
    inbox: list[str] = field(default_factory=list)
    remembered: list[str] = field(default_factory=list)
    outbox: list[tuple[str, str, str, int]] = field(default_factory=list)
    timers: dict[str, tuple[str, datetime, bool, int]] = field(default_factory=dict)
    undo: list[tuple[str, str, int]] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    held_lives: list[int] = field(default_factory=list)  # of refusals: their command's incarnation; else 0
    parked: bool = False
    incarnation: int = 0
    version: int = 0
    index: int = 0

    @property
    def live(self) -> bool:
        return self.status in ("running", "compensating", "compensation_failed")

    def knows(self, message_id: str) -> bool:
        return message_id in (*self.inbox, *self.remembered, *self.held)

    def next_id(self) -> str:
        self.index += 1
        return f"{self.version + 1}/{self.index - 1}"

    def start(self) -> None:
        self.incarnation += 1
        self.remembered += self.inbox
        self.status, self.log, self.inbox = "running", [], []
        self.timers = {name: timer for name, timer in self.timers.items() if timer[2]}
        self.forget_earlier()

    def forget_earlier(self) -> None:
        """What cannot be refused any more need not be undone."""
        owing = {one[-1] for one in (*self.outbox, *self.timers.values())} | {self.incarnation, *self.held_lives}
        self.undo = [one for one in self.undo if one[-1] in owing]

    def send(self, kind: str, undo: str = "") -> None:
        entry = self.next_id()
        self.outbox.append((entry, kind, "", self.incarnation))
        if undo:
            self.undo.append((entry, undo, self.incarnation))

    def act(self, names: list[str], now: datetime) -> None:
        for name in names:
            match name:
                case "send":
                    self.send("Ship")
                case "send with undo":
                    self.send("Charge", "Refund")
                case "set a" | "set b":
                    wait = {"a": 1, "b": 3}[name[-1]] * MINUTE
                    self.timers[name[-1]] = (self.next_id(), now + wait, False, self.incarnation)
                case "cancel a":
                    self.timers.pop("a", None)
                case "schedule":
                    entry = self.next_id()
                    self.timers[f"schedule/{entry}"] = (entry, now + 2 * MINUTE, True, self.incarnation)
                case "complete":
                    self.status = "completed"
                    self.timers = {name: timer for name, timer in self.timers.items() if timer[2]}
                case "compensate":
                    self.compensate()

    def take_back(self, life: int) -> bool:
        """Send what undoes an incarnation, and drop its timers; the others keep theirs. Say whether there was any."""
        self.timers = {name: timer for name, timer in self.timers.items() if timer[-1] != life}
        mine = [one for one in self.undo if one[-1] == life]
        self.undo = [one for one in self.undo if one[-1] != life]
        for of, kind, _ in reversed(mine):
            self.outbox.append((self.next_id(), kind, of, life))
        return bool(mine)

    def compensate(self) -> None:
        self.status = "compensating" if self.take_back(self.incarnation) else "compensated"

    def forget(self, entry: str) -> None:
        self.outbox = [one for one in self.outbox if one[0] != entry]
        self.undo = [one for one in self.undo if one[0] != entry]

    def settle(self) -> None:
        if self.status == "compensating" and not any(of and life == self.incarnation for _, _, of, life in self.outbox):
            self.status, self.undo = "compensated", [one for one in self.undo if one[-1] != self.incarnation]


def allowed(names: list[str]) -> bool:
    """Behind its end a saga can neither end again, nor set a timer, nor send what could be undone."""
    ends = [n for n, name in enumerate(names) if name in ("complete", "compensate")]
    after = names[ends[0] + 1 :] if ends else []
    return not any(name in ("complete", "compensate", "send with undo", "set a", "set b") for name in after)


class StepMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.record: SagaRecord | None = None
        self.model = Model()
        self.now = NOW
        self.count = 0
        self.used: dict[str, str] = {}

    def draft(self) -> Draft:
        self.model.index = 0
        return draft(self.record, self.model.version, self.now)

    def save(self, made: Draft) -> None:
        """As a store would: the bytes, and one number more."""
        if made.changed and made.record is not None:
            self.model.version += 1
            payload = encode_record(made.record)
            self.record = decode_record(payload)
            assert encode_record(self.record) == payload
            for entry in self.record.outbox:  # an id names one command for ever
                assert self.used.setdefault(entry.id, entry.command.type) == entry.command.type

    @rule(names=st.lists(st.sampled_from(sorted(ACTIONS)), max_size=4), starts=st.booleans(), again=st.booleans())
    def event(self, names: list[str], starts: bool, again: bool) -> None:
        self.count += not again
        message_id = f"e{self.count}"
        Told.act = staticmethod(lambda state, event: [ACTIONS[name] for name in names])
        made, model = self.draft(), self.model
        expected = Outcome.HANDLED
        if model.knows(message_id):
            expected = Outcome.DUPLICATE
        elif model.parked:
            expected = Outcome.HELD
        elif model.status != "running" if model.live else not starts:
            expected = Outcome.NO_INSTANCE
        message = Message(message_id, Placed("a") if starts else Asked("a"))
        if expected is Outcome.HANDLED and not starts and not allowed(names):
            try:
                advance(made, message)
            except DefinitionError:
                assert not made.changed
                return
            raise AssertionError(f"{names} are accepted together")
        assert advance(made, message) is expected
        if expected is Outcome.HELD:
            model.held.append(message_id)
            model.held_lives.append(0)
        elif expected is Outcome.HANDLED:
            if not model.live:
                model.start()
            model.inbox.append(message_id)
            if starts:
                model.log.append("placed")
                model.send("Reserve", "Release")
            else:
                model.act(names, self.now)
        self.save(made)

    @precondition(lambda self: self.record is not None and self.record.outbox)
    @rule()
    def accept(self) -> None:
        made, model = self.draft(), self.model
        made.accept([model.outbox[0][0]])
        del model.outbox[0]
        model.settle()
        model.forget_earlier()
        self.save(made)

    @precondition(lambda self: self.record is not None and self.record.outbox)
    @rule()
    def refuse(self) -> None:
        made, model = self.draft(), self.model
        entry, kind, of, life = model.outbox[0]
        assert self.record is not None
        command = REGISTRY.unpack(self.record.outbox[0].command)
        outcome = advance(made, refusal(command, f"{PID}/{entry}", "no"))
        refused = f"{PID}/{entry}/refused"
        if life != model.incarnation:
            assert outcome is Outcome.HANDLED
            if of:
                model.outbox[0] = (model.next_id(), kind, of, life)
                model.parked = True
            else:
                model.forget(entry)
                model.take_back(life)
        elif model.status in ("running", "completed") and not of and model.parked:
            assert outcome is Outcome.HELD
            model.forget(entry)
            model.held.append(refused)
            model.held_lives.append(life)
        else:
            assert outcome is Outcome.HANDLED
            if of:
                left = [one for one in model.outbox if one[2] and one[-1] == life]
                model.outbox = [one for one in model.outbox if one not in left]
                model.undo += [(of, kind, life) for _, kind, of, life in reversed(left)]
                model.status = "compensation_failed"
            else:
                compensates = model.status in ("running", "completed")
                model.forget(entry)
                if compensates:
                    model.compensate()
                else:
                    model.outbox = [one for one in model.outbox if one[2] != entry]
                    model.settle()
        self.save(made)

    @rule(minutes=st.integers(1, 3))
    def time_passes(self, minutes: int) -> None:
        self.now += minutes * MINUTE
        made, model = self.draft(), self.model
        while (message := due_timer(made, self.now)) is not None:
            may_fire = [name for name, timer in model.timers.items() if timer[2] or not model.parked]
            name = min(may_fire, key=lambda name: model.timers[name][1])
            entry, due, scheduled, life = model.timers.pop(name)
            assert (message.name, message.id, message.at) == (name, f"{PID}/{entry}", due)
            outcome = advance(made, message)
            if scheduled:
                model.outbox.append((entry, "Survey", "", life))
            else:
                assert outcome is Outcome.HANDLED
                model.log.append("overdue")
        self.save(made)

    @precondition(lambda self: self.model.live and not self.model.parked and self.model.status == "running")
    @rule()
    def park(self) -> None:
        self.count += 1
        made = self.draft()
        park(made, "because", Message(f"e{self.count}", Asked("a")))
        self.model.parked = True
        self.model.held.append(f"e{self.count}")
        self.model.held_lives.append(0)
        self.save(made)

    @precondition(lambda self: self.model.parked)
    @rule()
    def repair(self) -> None:
        """Replay the held messages; the events of the test do nothing this time."""
        Told.act = staticmethod(lambda state, event: None)
        made, model = self.draft(), self.model
        assert self.record is not None
        held = [unhold(one, REGISTRY) for one in self.record.held]
        made.touch().parked = made.touch().stuck = ""
        made.replaying = made.touch().held
        for message in held:  # as runner/replay.py does
            made.touch().held = ()
            if advance(made, message) is not Outcome.HANDLED and message.kind == "event":
                made.remember(made.touch(), message.id)
        made.touch().held = ()
        model.parked, model.held = False, []
        for message in held:
            running = model.status == "running"
            begins = message.kind == "event" and isinstance(message.event, Placed) and (running or not model.live)
            if begins and not running:
                model.start()
            if message.kind == "event":
                model.inbox.append(message.id)
            if begins:
                model.log.append("placed")
                model.send("Reserve", "Release")
            elif message.kind == "timer" and running:
                model.log.append("overdue")
            elif message.kind == "refused" and message.life != model.incarnation:
                model.take_back(message.life)
            elif message.kind == "refused" and model.status in ("running", "completed"):
                model.compensate()
        model.held_lives = []
        self.save(made)

    @invariant()
    def the_record_is_what_the_model_says(self) -> None:
        record, model = self.record, self.model
        if record is None:
            assert model.status == "none"
            return
        state = decode_state(SAGA, record)
        assert (
            Model(
                record.status.value,
                state.log,
                list(record.inbox),
                list(record.inherited),
                [(entry.id, entry.command.type, entry.of, entry.life) for entry in record.outbox],
                {name: (timer.id, timer.due_at, timer.send, timer.life) for name, timer in record.timers.items()},
                [(undo.of, undo.command.type, undo.life) for undo in record.undo],
                [held.id for held in record.held],
                [held.life for held in record.held],
                bool(record.parked),
                record.incarnation,
                model.version,
                model.index,
            )
            == model
        )


TestStepMachine = StepMachine.TestCase
TestStepMachine.settings = settings(
    max_examples=100,
    stateful_step_count=30,
    deadline=None,
    print_blob=True,
    phases=(Phase.reuse, Phase.generate, Phase.shrink),
)
