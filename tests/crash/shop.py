"""The saga under fire, and the worker that runs it until something kills it.

Everything that happens outside is written to the ledger, one line with one write() each. Orders are of four kinds, by
number: paid and shipped; never paid, so a timer compensates; charge refused; cancelled after payment.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from sagalog import (
    CancelTimer,
    CommandContext,
    CommandRefused,
    Compensate,
    Complete,
    JournalUnavailableError,
    OutcomeUnknownError,
    PersistentRepr,
    Receipt,
    RetryPolicy,
    RunnerSettings,
    Saga,
    SagalogError,
    SagaRunner,
    Send,
    SetTimer,
    SqliteJournal,
    on,
    open_journal,
    starts,
)
from sagalog.runner import clock

from .witness import Witness, url_of, witness

LEASE_SECONDS = 0.25
NATS_LEASE_SECONDS = 2.5  # it is slower, and an election takes seconds
TIMER_SECONDS = 0.15
WORKER_SECONDS = 90.0  # a worker that is not through by then gives up, and the verdict says what is not finished


@dataclass
class Placed:
    order: str
    uid: str


@dataclass
class Paid:
    order: str
    uid: str


@dataclass
class Cancelled:
    order: str
    uid: str


@dataclass
class Delivered:
    order: str


@dataclass
class Overdue:
    order: str


@dataclass
class Reserve:
    order: str


@dataclass
class Release:
    order: str


@dataclass
class Charge:
    order: str


@dataclass
class Refund:
    order: str


@dataclass
class Ship:
    order: str


@dataclass
class State:
    log: list[str] = field(default_factory=list)


class Ledger:
    """Lines appended by one write() each.

    A SIGKILL may cut a write short where its bytes cross a page of memory. So each line begins anew: what is cut stands by
    itself, and says as little as if its process had died before it.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, **fields: Any) -> None:
        os.write(self._file, b"\n" + json.dumps(fields).encode() + b"\n")


class Killer:
    """Kills this process at the n-th passing of one named point; the ledger says that it was there.

    Or freezes it, once, at the place named by `freeze`; the parent wakes it up again.
    """

    def __init__(self, ledger: Ledger, point: str, passing: int, freeze: str = "") -> None:
        self.ledger = ledger
        self.point = point
        self.left = passing
        self.freeze = freeze
        self.flags: set[str] = set()
        self.writing = threading.Lock()

    def freeze_at(self, place: str) -> None:
        if place == self.freeze:
            self.freeze = ""
            with self.writing:  # a process that is frozen inside a transaction keeps SQLite's lock: not the point here
                self.ledger.note(frozen=place)
                os.kill(os.getpid(), signal.SIGSTOP)

    def here(self, point: str, *, after_seconds: float = 0.0) -> None:
        if point != self.point:
            return
        self.left -= 1
        if self.left == 0:
            self.ledger.note(killed=point)
            if after_seconds:
                threading.Thread(target=self._later, args=(after_seconds,), daemon=True).start()
            else:
                os.kill(os.getpid(), signal.SIGKILL)

    def _later(self, seconds: float) -> None:
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)


killer: Killer


class ShopSaga(Saga[State]):
    name = "shop"

    @starts(Placed, key="order")
    def placed(self, state: State, event: Placed):
        state.log.append(event.uid)
        yield Send(Reserve(event.order), undo=Release(event.order))
        yield SetTimer("payment", Overdue(event.order), after=timedelta(seconds=TIMER_SECONDS))

    @on(Paid, key="order")
    def paid(self, state: State, event: Paid):
        killer.freeze_at(f"step {event.uid}")
        state.log.append(event.uid)
        yield CancelTimer("payment")
        yield Send(Charge(event.order), undo=Refund(event.order))
        if number(event.order) % 4 == 0:
            yield Send(Ship(event.order))

    @on(Cancelled, key="order")
    def cancelled(self, state: State, event: Cancelled):
        state.log.append(event.uid)
        return Compensate()

    @on(Overdue, key="order")
    def overdue(self, state: State, event: Overdue):
        killer.here("in timer firing")
        killer.flags.add("timer")
        state.log.append("overdue")
        return Compensate()

    @on(Delivered, key="order")
    def delivered(self, state: State, event: Delivered):
        state.log.append("delivered")
        return Complete()


def number(order: str) -> int:
    return int(order.partition("-")[2])


class Journal(SqliteJournal):
    """The real journal, with a trap at each point of a commit."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        writer: Any = self._writer._writer
        serve, connection = writer.serve, writer._connection
        if killer.point.startswith("in commit"):  # SQLite spells a batch out for each of its rows where it is traced
            connection.set_trace_callback(self._statement)
        if random.random() < 0.5:  # often enough that some kills meet a checkpoint
            connection.execute("PRAGMA wal_autocheckpoint=20")
        # What earlier workers owe, and until when it was theirs: who saves such an instance later takes it over.
        self.inherited = dict(connection.execute("SELECT persistence_id, due_at FROM instance WHERE NOT deleted"))

        def guarded(jobs: Any, **how: bool) -> bool:
            with killer.writing:
                done: bool = serve(jobs, **how)
                return done

        writer.serve = guarded

    def _statement(self, sql: str) -> None:
        if sql == "COMMIT":
            killer.here("in commit, at its beginning")
            killer.here("in commit, while it runs", after_seconds=random.uniform(0.00001, 0.0006))

    async def write_batch(self, records: Sequence[PersistentRepr]) -> Sequence[SagalogError | None]:
        ends = any(record.deleted for record in records)
        killer.here("after step, before commit")
        for flag, point in (
            ("dispatched", "after dispatch, before it is recorded"),
            ("timer", "after the timer's step, before its commit"),
        ):
            if flag in killer.flags:
                killer.here(point)
        takeover = sum(self._is_takeover(record.persistence_id) for record in records) > 0  # all of them are asked
        if takeover:
            killer.here("in a takeover, before it is saved")
        if ends:
            killer.here("before the tombstone")
        answers = await super().write_batch(records)
        killer.here("after commit, before dispatch")
        if takeover:
            killer.here("in a takeover, after it is saved")
        if ends:
            killer.here("after the tombstone")
        return answers

    def _is_takeover(self, persistence_id: str) -> bool:
        lease_end = self.inherited.get(persistence_id)
        if lease_end is None or lease_end > time.time() * 1e6:
            return False
        del self.inherited[persistence_id]
        return True


POINTS = [
    "after step, before commit",
    "in commit, at its beginning",
    "in commit, while it runs",
    "after commit, before dispatch",
    "in dispatch, before it arrives",
    "in dispatch, after it arrived",
    "after dispatch, before it is recorded",
    "in compensation, before it arrives",
    "in compensation, after it arrived",
    "in compensation, between two undo commands",
    "in timer firing",
    "after the timer's step, before its commit",
    "before the tombstone",
    "after the tombstone",
    "in a takeover, before it is saved",
    "in a takeover, after it is saved",
]


def plan(orders: int) -> list[tuple[str, Any]]:
    """Return the events of the outside world, in the order they happen."""
    events: list[tuple[str, Any]] = []
    for n in range(orders):
        order = f"o-{n}"
        events.append((f"{order}/placed", Placed(order, f"{order}/placed")))
        if n % 4 != 1:
            events.append((f"{order}/paid", Paid(order, f"{order}/paid")))
        if n % 4 == 3:
            events.append((f"{order}/cancelled", Cancelled(order, f"{order}/cancelled")))
    return events


def settings(url: str | None) -> RunnerSettings:
    slow = url is not None and url.startswith("nats://")
    return RunnerSettings(
        lease=timedelta(seconds=NATS_LEASE_SECONDS if slow else LEASE_SECONDS),
        due_poll=timedelta(seconds=0.25 if slow else 0.05),
        dispatch_retry=RetryPolicy(base=timedelta(milliseconds=5), cap=timedelta(milliseconds=50)),
        max_takeovers=1_000_000,  # here the workers are killed by the test, and not by what they carry out
    )


async def work(folder: Path, orders: int, seed: int) -> None:
    """Send what is not acknowledged yet, and some of the rest again; return when every order is finished."""
    ledger = killer.ledger
    chance = random.Random(seed)
    acknowledged = {note["ack"] for note in read_ledger(folder / "ledger") if "ack" in note}

    async def dispatch(command: Any, context: CommandContext) -> Any:
        kind = type(command).__name__
        undone = context.correlation_id in undoing
        if context.undo:
            undoing.add(context.correlation_id)
            killer.here("in compensation, before it arrives")
            if undone:
                killer.here("in compensation, between two undo commands")
        else:
            killer.here("in dispatch, before it arrives")
        refused = kind == "Charge" and number(command.order) % 4 == 2
        ledger.note(
            command=kind,
            order=command.order,
            id=context.id,
            undo=context.undo,
            refused=refused,
            durable=await is_durable(seen, context.id),
            pid=os.getpid(),
            at=time.time(),
        )
        killer.freeze_at(f"{kind} {command.order}")
        if chance.random() < 0.3:
            await asyncio.sleep(0)
        killer.here("in compensation, after it arrived" if context.undo else "in dispatch, after it arrived")
        killer.flags.add("dispatched")
        if refused:
            raise CommandRefused("no money")
        return Delivered(command.order) if kind == "Ship" else None

    url = url_of(folder, seed)
    journal = Journal(folder / "shop.db") if url is None else open_journal(url)
    seen = witness(folder)
    undoing: set[str] = set()
    by_order: dict[str, list[tuple[str, Any]]] = {}
    for uid, event in plan(orders):
        if uid not in acknowledged or chance.random() < 0.1:
            by_order.setdefault(event.order, []).append((uid, event))
    todo = list(by_order.values())
    chance.shuffle(todo)

    async def customer() -> None:
        while todo:
            for uid, event in todo.pop():
                ledger.note(sent=uid, at=time.time())
                copies = 2 if chance.random() < 0.1 else 1  # at the same time
                receipts = await asyncio.gather(*(patiently(runner, event, uid) for _ in range(copies)))
                for receipt in receipts:
                    ledger.note(ack=uid, outcome=receipt.outcomes["shop"].value)
                if chance.random() < 0.1:
                    await patiently(runner, event, uid)

    await opened(journal)
    deadline = time.monotonic() + WORKER_SECONDS
    async with running(SagaRunner(journal, sagas=[ShopSaga], dispatch=dispatch, settings=settings(url))) as runner:
        ledger.note(ready=os.getpid())
        await asyncio.gather(*(customer() for _ in range(4)))
        while True:
            try:
                await runner.settle()
                if not await journal.ids_by_prefix("saga::"):
                    break
            except (JournalUnavailableError, OutcomeUnknownError):  # the server is away
                pass
            assert time.monotonic() < deadline, "instances that never end"
            await asyncio.sleep(0.01)
    await seen.close()
    await journal.close()
    ledger.note(done=os.getpid())


async def patiently(runner: SagaRunner, event: Any, uid: str) -> Receipt:
    """Send an event until it is accepted, as a broker would: where the journal is away, and where nobody knows."""
    while True:
        try:
            return await runner.handle(event, message_id=uid)
        except (JournalUnavailableError, OutcomeUnknownError):
            await asyncio.sleep(0.02)


async def opened(journal: Any) -> Any:
    """Open a journal whose server may be away for as long as a database takes to recover on a busy machine."""
    deadline = time.monotonic() + WORKER_SECONDS
    while True:
        try:
            await journal.open()
            return journal
        except JournalUnavailableError:
            if time.monotonic() > deadline:
                raise


@asynccontextmanager
async def running(runner: SagaRunner) -> AsyncIterator[SagaRunner]:
    """Start a runner, again and again while its server is away, as supervisors do with a worker; stop it at the end."""
    deadline = time.monotonic() + WORKER_SECONDS
    while True:
        try:
            await runner.start()
            break
        except JournalUnavailableError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.02)
    try:
        yield runner
    finally:
        await runner.stop()


async def is_durable(seen: Witness, command_id: str) -> bool:
    """Say whether the step that decided this command is stored, as another program sees it."""
    persistence_id, sequence_nr, _ = command_id.rsplit("/", 2)
    return await seen.durable(persistence_id, int(sequence_nr))


def skew_clock(direction: int) -> None:
    """Let this process's clock go wrong by so many times five seconds."""
    right = clock.datetime

    class Wrong(right):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return right.now(tz) + direction * timedelta(seconds=5)

    clock.datetime = Wrong  # type: ignore[misc]


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """Return the notes; a line that was cut, by a SIGKILL or because it is being written, is none."""
    notes = []
    for line in path.read_text().splitlines() if path.exists() else ():
        with suppress(json.JSONDecodeError):
            notes.append(json.loads(line))
    return notes


def main(folder: str, orders: str, seed: str, point: str, passing: str, freeze: str) -> None:
    global killer
    if (Path(folder) / "skew").exists():
        skew_clock(int(seed) % 3 - 1)
    killer = Killer(Ledger(Path(folder) / "ledger"), point, int(passing), freeze)
    random.seed(int(seed))
    asyncio.run(work(Path(folder), int(orders), int(seed)))
