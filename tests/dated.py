"""An order whose events come from a log, each with its time; what is fed to it, and what has become of it."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sagalog import (
    CommandRefused,
    Compensate,
    Complete,
    EventClock,
    Incoming,
    InMemoryJournal,
    Journal,
    RetryPolicy,
    RunnerSettings,
    Saga,
    SagaRunner,
    Send,
    SetTimer,
    StepContext,
    on,
    starts,
)
from sagalog.decision.record import decode_record

START = datetime(2030, 1, 1, tzinfo=UTC)


@dataclass
class Placed:
    id: str


@dataclass
class Noted:
    id: str
    text: str


@dataclass
class Reserved:
    id: str


@dataclass
class Overdue:
    id: str


@dataclass
class Cancelled:
    id: str


@dataclass
class Closed:
    id: str


@dataclass
class Reserve:
    id: str


@dataclass
class Release:
    id: str


@dataclass
class Note:
    id: str
    text: str


@dataclass
class Remind:
    id: str
    number: int


@dataclass
class Reminded:
    id: str
    number: int


@dataclass
class Silence:
    id: str


@dataclass
class Story:
    told: list[str] = field(default_factory=list)


class Order(Saga[Story]):
    name = "order"
    remembered_messages = 8

    def tell(self, state: Story, what: str, context: StepContext) -> None:
        state.told.append(f"{what} {context.now.isoformat()}")

    @starts(Placed, key="id")
    def placed(self, state: Story, event: Placed, context: StepContext) -> Any:
        self.tell(state, "placed", context)
        yield Send(Reserve(event.id), undo=Release(event.id))
        yield SetTimer("late", Overdue(event.id), after=timedelta(hours=5))

    @on(Reserved, key="id")
    def reserved(self, state: Story, event: Reserved, context: StepContext) -> None:
        self.tell(state, "reserved", context)

    @on(Noted, key="id")
    def noted(self, state: Story, event: Noted, context: StepContext) -> Any:
        self.tell(state, f"noted {event.text}", context)
        return Send(Note(event.id, event.text))

    @on(Overdue, key="id")
    def overdue(self, state: Story, event: Overdue, context: StepContext) -> Any:
        self.tell(state, "overdue", context)
        return [
            Send(Remind(event.id, len(state.told))),
            SetTimer("late", Overdue(event.id), after=timedelta(hours=7)),
            SetTimer("later", Silence(event.id), after=timedelta(hours=len(state.told) % 3)),
        ]

    @on(Reminded, key="id")
    def reminded(self, state: Story, event: Reminded, context: StepContext) -> Any:
        self.tell(state, f"reminded of {event.number}", context)
        return Send(Note(event.id, "x" if event.number % 5 == 4 else f"reminded {event.number}"))

    @on(Silence, key="id")
    def silence(self, state: Story, event: Silence, context: StepContext) -> Any:
        self.tell(state, "silence", context)
        return [Send(Note(event.id, "silence")), Compensate()] if len(state.told) > 20 else None

    @on(Cancelled, key="id")
    def cancelled(self, state: Story, event: Cancelled, context: StepContext) -> Any:
        self.tell(state, "cancelled", context)
        return Compensate()

    @on(Closed, key="id")
    def closed(self, state: Story, event: Closed, context: StepContext) -> Any:
        self.tell(state, "closed", context)
        return Complete()


class Slow(InMemoryJournal):
    """Answers a write after so many turns of the loop, as a file or a server does."""

    def __init__(self, turns: int = 20) -> None:
        super().__init__()
        self.turns = turns

    async def write_batch(self, records: Any) -> Any:
        for _ in range(self.turns):
            await asyncio.sleep(0)
        return await super().write_batch(records)


class Dying(Slow):
    """Answers nothing more after so many writes: to the run that uses it this is its death."""

    def __init__(self, turns: int = 0) -> None:
        super().__init__(turns)
        self.left = 10**9
        self.died = asyncio.Event()

    async def write_batch(self, records: Any) -> Any:
        if self.left <= 0:
            self.died.set()
            await asyncio.Event().wait()
        self.left -= 1
        return await super().write_batch(records)


Line = tuple[str, datetime, Any]


def log_of(chance: random.Random, orders: int) -> list[Line]:
    lines: list[tuple[datetime, Any]] = []
    for number in range(orders):
        key, at = f"o{number}", START + timedelta(minutes=chance.randrange(600))
        if chance.random() < 0.5:
            lines.append((at - timedelta(minutes=5), Noted(key, "too early")))
        lines.append((at, Placed(key)))
        for step in range(chance.randrange(18)):
            at += timedelta(minutes=chance.choice([0, 0, 0, 0, 0, 0, 1, 50, 300, 900]))
            lines.append(
                (at, chance.choice([Noted(key, str(step)), Noted(key, "x"), Placed(key), Cancelled(key), Closed(key)]))
            )
        if chance.random() < 0.5:
            lines.append((at + timedelta(days=30), Placed(key)))
    lines.sort(key=lambda line: line[0])
    return [(f"m{number}", at, event) for number, (at, event) in enumerate(lines)]


def runner_of(journal: Journal, chance: random.Random) -> SagaRunner:
    async def dispatch(command: Any) -> Any:
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        if chance.random() < 0.15:
            raise OSError("away")
        if isinstance(command, Note) and command.text == "x":
            raise CommandRefused("no")
        if isinstance(command, Remind):
            return Reminded(command.id, command.number)
        return Reserved(command.id) if isinstance(command, Reserve) else None

    return SagaRunner(
        journal,
        sagas=[Order],
        dispatch=dispatch,
        clock=EventClock(),
        settings=RunnerSettings(
            lease=timedelta(milliseconds=20),
            retention=timedelta(days=1),
            dispatch_retry=RetryPolicy(base=timedelta(milliseconds=1), cap=timedelta(milliseconds=2)),
            stop_timeout=timedelta(0),
            max_in_flight=chance.choice([1, 7, 500]),
        ),
    )


async def run(journal: Journal, log: list[Line], chance: random.Random) -> None:
    async with runner_of(journal, chance) as runner:
        await runner.handle_many([Incoming(event, message_id, at) for message_id, at, event in log])
        await runner.settle()


async def history(journal: Journal) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    ids = [one async for one in journal.all_persistence_ids()]
    ids += await journal.ids_by_prefix("saga::", deleted=True)
    for persistence_id in sorted(set(ids)):
        latest = await journal.latest_message(persistence_id)
        assert latest is not None
        record = decode_record(latest.payload)
        sent: list[str] = []
        async for one in journal.replay_messages(persistence_id):
            before = decode_record(one.payload)
            sent += [
                f"{c.command.type} {bytes(c.command.data)!r}"
                for c in before.outbox
                if c.id.startswith(f"{one.sequence_nr}/")
            ]
        found[persistence_id] = [record.status, bytes(record.state), record.incarnation, sorted(record.timers), sent]
    return found
