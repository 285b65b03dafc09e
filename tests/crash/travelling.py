"""The worker that runs tours and trips until something kills it, and the points at which that happens."""

from __future__ import annotations

import asyncio
import os
import random
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from sagalog import CommandContext, JournalUnavailableError, OutcomeUnknownError, SagaRunner, open_journal

from . import travel
from .shop import WORKER_SECONDS, Killer, Ledger, is_durable, opened, patiently, read_ledger, running, settings
from .travel import (
    PRICE_SECONDS,
    STAMPS,
    AskPrice,
    BagBrought,
    Board,
    Boarded,
    Closed,
    Planned,
    Priced,
    Stamped,
    TicketPrinted,
    TourSaga,
    TripRequested,
    TripSaga,
    VisaGranted,
    is_through,
    kind,
    stays,
)
from .witness import url_of, witness

MARKS = [
    "the join",
    "entering the phase",
    "making a leg",
    "handling what was kept",
    "a numbered event",
    "a leg's answer",
    "the end of the gather",
    "the recurring timer",
    "the answer to the request",
    "the deadline of the request",
    "the result",
    "an activity",
    "an undo",
]
POINTS = [
    *(f"{mark}, before its commit" for mark in MARKS),
    *(f"{mark}, after its commit" for mark in MARKS),
    *(
        f"{which}, {moment}"
        for which in ("an activity", "an undo")
        for moment in ("before it arrives", "after it arrived")
    ),
]


def trapped(journal: Any) -> Any:
    """Put a trap before and after each write that may hold a step of interest."""
    write = journal.write_batch

    async def write_batch(records: Any) -> Any:
        marks = travel.killer.flags
        travel.killer.flags = set()
        for what in sorted(marks):
            travel.killer.here(f"{what}, before its commit")
        answers = await write(records)
        for what in sorted(marks):
            travel.killer.here(f"{what}, after its commit")
        return answers

    journal.write_batch = write_batch
    return journal


def plan(tours: int, chance: random.Random) -> list[list[Any]]:
    """Return what happens outside, by tour and trip: a start, what comes then in any order, and an end."""
    found: list[list[Any]] = []
    for n in range(tours):
        tour = f"t-{n}"
        middle: list[Any] = [
            VisaGranted(tour, f"{tour}/visa 1"),
            VisaGranted(tour, f"{tour}/visa 2"),
            TicketPrinted(tour, f"{tour}/ticket 1"),
            TicketPrinted(tour, f"{tour}/ticket 2"),
            BagBrought(tour, f"{tour}/bag 1"),
            BagBrought(tour, f"{tour}/bag 2"),
            *(Stamped(tour, n) for n in range(1, STAMPS + 1)),
        ]
        if kind(tour) in (1, 2):
            middle.append(Priced(tour, f"{tour}/priced"))
        chance.shuffle(middle)
        end = [] if stays(tour) else [Closed(tour, f"{tour}/closed")]
        found += [[Planned(tour, f"{tour}/planned"), *middle, *end], [TripRequested(f"p-{n}", f"p-{n}/requested")]]
    return found


async def dispatch(command: Any, context: CommandContext) -> Any:
    what = "AskPrice" if isinstance(command, AskPrice) else f"Board {command.seat}"
    travel.killer.ledger.note(
        command=what,
        order=command.tour,
        id=context.id,
        durable=await is_durable(travel.seen, context.id),
        pid=os.getpid(),
    )
    if isinstance(command, Board):
        return Boarded(command.tour, command.seat)
    return Priced(command.tour, f"{command.tour}/priced") if kind(command.tour) in (0, 4) else None


async def work(folder: Path, tours: int, seed: int, killing: Killer) -> None:
    """Send what is not acknowledged yet, and some of the rest again; return when nothing more can happen."""
    ledger = killing.ledger
    chance = random.Random(seed)
    acknowledged = {note["ack"] for note in read_ledger(folder / "ledger") if "ack" in note}
    url = url_of(folder, seed)
    seen = witness(folder)
    travel.under(killing, seen)
    journal = trapped(open_journal(url or f"sqlite:///{folder}/shop.db"))
    todo = [
        [event for event in events if event.uid not in acknowledged or chance.random() < 0.1]
        for events in plan(tours, chance)
    ]
    chance.shuffle(todo)

    async def customer() -> None:
        while todo:
            for event in todo.pop():
                if isinstance(event, Priced) and chance.random() < 0.7:
                    await asyncio.sleep(PRICE_SECONDS)  # it may come too late
                copies = 2 if chance.random() < 0.1 else 1  # at the same time
                for receipt in await asyncio.gather(*(patiently(runner, event, event.uid) for _ in range(copies))):
                    ledger.note(ack=event.uid, outcome=next(iter(receipt.outcomes.values())).value)

    async def told(tour: str) -> None:
        """Wait for the end of a tour, whoever brings it about."""
        outcome = await runner.outcome(TourSaga, tour, timeout=timedelta(seconds=WORKER_SECONDS), missing="wait")
        ledger.note(told=tour, status=outcome.status.value, result=vars(outcome.result))

    await opened(journal)
    deadline = time.monotonic() + WORKER_SECONDS
    sagas: list[Any] = [TourSaga, TripSaga]
    async with running(SagaRunner(journal, sagas=sagas, dispatch=dispatch, settings=settings(url))) as runner:
        ledger.note(ready=os.getpid())
        ends = [asyncio.create_task(told(f"t-{n}")) for n in range(tours) if not stays(f"t-{n}")]
        await asyncio.gather(*(customer() for _ in range(6)))
        await asyncio.gather(*ends)
        while True:
            try:
                live = await journal.ids_by_prefix("saga::")
                names = [persistence_id.rpartition("::")[2] for persistence_id in live]
                if all(name.startswith("t-") and stays(name) for name in names):
                    states = [await runner.state(TourSaga, name) for name in names]
                    if all(is_through(state) for state in states):
                        break
            except (JournalUnavailableError, OutcomeUnknownError):  # the server is away
                pass
            assert time.monotonic() < deadline, "instances that never end"
            await asyncio.sleep(0.01)
    await seen.close()
    await journal.close()
    ledger.note(done=os.getpid())


def main(folder: str, tours: str, seed: str, point: str, passing: str, freeze: str) -> None:
    killing = Killer(Ledger(Path(folder) / "ledger"), point, int(passing), freeze)
    random.seed(int(seed))
    asyncio.run(work(Path(folder), int(tours), int(seed), killing))
