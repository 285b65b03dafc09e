"""The worker of orders and their parcels, of parcels and their boxes, until something kills it; and the points at which."""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path
from typing import Any

from sagalog import CommandContext, JournalUnavailableError, OutcomeUnknownError, SagaRunner, open_journal
from sagalog.decision.record import decode_record

from ..families import Carry, Delivered, Lost, Ordered, OrderSaga, ParcelSaga, ShipParcel, Withdrawn
from .shop import WORKER_SECONDS, Killer, Ledger, is_durable, opened, patiently, read_ledger, running, settings
from .witness import url_of, witness

PARCELS = 3
MARKS = {
    "a child begins": lambda record, number: bool(record.parent) and number == 1,
    "a child ends": lambda record, number: record.told,
    "a parent hears": lambda record, number: any(one.id.endswith("/ended") for one in record.handled),
    "children are stopped": lambda record, number: any(one.family == "stop" for one in record.outbox),
}
POINTS = [f"{mark}, {moment} its commit" for mark in MARKS for moment in ("before", "after")]


def trapped(journal: Any, killing: Killer) -> Any:
    """Put a trap before and after each write that holds a step between parent and child."""
    write = journal.write_batch

    async def write_batch(records: Any) -> Any:
        steps = [(decode_record(one.payload), one.sequence_nr) for one in records]
        marks = [mark for mark, is_one in MARKS.items() if any(is_one(*step) for step in steps)]
        for mark in marks:
            killing.here(f"{mark}, before its commit")
        answers = await write(records)
        for mark in marks:
            killing.here(f"{mark}, after its commit")
        return answers

    journal.write_batch = write_batch
    return journal


def kind(correlation_id: str) -> int:
    """Return 0: one parcel of the order is lost; 1: it is withdrawn; 2: its parcels end in their first step."""
    return int(correlation_id.partition("-")[0][1:]) % 3


def plan(orders: int) -> list[list[Any]]:
    """Return what happens outside, by order, and a parcel with boxes beside each."""
    found: list[list[Any]] = []
    for n in range(orders):
        order = f"o{n}"
        end = [Withdrawn(order)] if kind(order) == 1 else []
        found += [[Ordered(order, PARCELS, "at once" if kind(order) == 2 else "", undo=True), *end]]
        found += [[ShipParcel(f"p{n}", boxes=2)]]
    return found


def answer(command: Any) -> Any:
    """Return what becomes of a parcel: the last one of an order that is withdrawn waits, and so does one with boxes."""
    if not isinstance(command, Carry) or (command.id.startswith("p") and "-" not in command.id):
        return None
    if command.id.startswith("o") and kind(command.id) == 1 and command.id.endswith("-2"):
        return None
    lost = command.id.startswith("o") and kind(command.id) == 0 and command.id.endswith("-0")
    return Lost(command.id) if lost else Delivered(command.id)


async def work(folder: Path, orders: int, seed: int, killing: Killer) -> None:
    """Send what is not acknowledged yet, and some of the rest again; return when nothing lives any more."""
    ledger, chance = killing.ledger, random.Random(seed)
    acknowledged = {note["ack"] for note in read_ledger(folder / "ledger") if "ack" in note}
    url = url_of(folder, seed)
    seen = witness(folder)
    journal = trapped(open_journal(url or f"sqlite:///{folder}/shop.db"), killing)
    todo = [
        [(event, uid) for event in events if (uid := repr(event)) not in acknowledged or chance.random() < 0.1]
        for events in plan(orders)
    ]
    chance.shuffle(todo)

    async def dispatch(command: Any, context: CommandContext) -> Any:
        of = getattr(command, "id", None) or command.parcel
        stored = await is_durable(seen, context.id)
        ledger.note(command=type(command).__name__, of=of, id=context.id, durable=stored, pid=os.getpid())
        return answer(command)

    async def customer() -> None:
        while todo:
            for event, uid in todo.pop():
                await patiently(runner, event, uid)
                ledger.note(ack=uid)
                await asyncio.sleep(chance.choice([0, 0.01]))

    await opened(journal)
    deadline = time.monotonic() + WORKER_SECONDS
    async with running(
        SagaRunner(journal, sagas=[OrderSaga, ParcelSaga], dispatch=dispatch, settings=settings(url))
    ) as runner:
        ledger.note(ready=os.getpid())
        await asyncio.gather(*(customer() for _ in range(4)))
        while True:
            try:
                if not await journal.ids_by_prefix("saga::"):
                    break
            except (JournalUnavailableError, OutcomeUnknownError):  # the server is away
                pass
            assert time.monotonic() < deadline, "instances that never end"
            await asyncio.sleep(0.01)
    await seen.close()
    await journal.close()
    ledger.note(done=os.getpid())


def main(folder: str, orders: str, seed: str, point: str, passing: str, freeze: str) -> None:
    killing = Killer(Ledger(Path(folder) / "ledger"), point, int(passing), freeze)
    random.seed(int(seed))
    asyncio.run(work(Path(folder), int(orders), int(seed), killing))
