"""Workers that let desks take seats and give them up, and are killed: each seat is that of one desk at a time.

What a worker knows it writes into a ledger outside of Sagalog: that a desk has a seat, once `handle` has returned; that it
gives it up, before it asks for that. In between it has the seat for sure, and nobody else may.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from sagalog import (
    JournalUnavailableError,
    KeyTakenError,
    OutcomeUnknownError,
    Receipt,
    RunnerSettings,
    SagaRunner,
    open_journal,
)
from sagalog.journal import reservations
from sagalog.waiting import Waiting

from ..keyed import Booked, DeskSaga, Leave, Scanned, Shut
from .shop import WORKER_SECONDS, Killer, Ledger, read_ledger
from .witness import url_of

SEATS = 3
POINTS = ["reserves", "reserved", "writes a step that takes a seat", "has written a step that takes a seat"]


def trapped(journal: Any, killing: Killer) -> Any:
    """Let the worker be killed before and after each of the two writes that take a seat."""
    real = journal.write_batch
    reserved = False

    async def write_batch(records: Any) -> Any:
        nonlocal reserved
        if any(record.persistence_id.startswith("key::") for record in records):
            killing.here("reserves")
            answers = await real(records)
            reserved = reserved or answers == [None]
            killing.here("reserved")
            return answers
        taking, reserved = reserved, False
        if taking:
            killing.here("writes a step that takes a seat")
        answers = await real(records)
        if taking:
            killing.here("has written a step that takes a seat")
        return answers

    journal.write_batch = write_batch
    return journal


async def work(folder: Path, desks: int, seed: int, killing: Killer) -> None:
    """Seat those desks that are this worker's, one after the other, until each has had its seat."""
    ledger, part = killing.ledger, seed % 2
    reservations._PATIENCE = Waiting(first=0.002, most=0.02, seconds=0.1)
    notes = read_ledger(folder / "ledger")
    has = {note["has"] for note in notes if "has" in note}
    gives = {note["gives"] for note in notes if "gives" in note}
    done = {note["done"] for note in notes if "done" in note}
    url = url_of(folder, seed)
    journal = trapped(open_journal(url or f"sqlite:///{folder}/shop.db"), killing)
    deadline = time.monotonic() + WORKER_SECONDS
    while True:
        try:
            await journal.open()
            break
        except JournalUnavailableError:
            await asyncio.sleep(0.05)
    settings = RunnerSettings(lease=timedelta(seconds=1), due_poll=timedelta(milliseconds=100))

    async def asked(event: Any, message_id: str) -> Receipt:
        while True:
            assert time.monotonic() < deadline, f"{message_id} is never accepted"
            try:
                return await runner.handle(event, message_id=message_id)
            except (JournalUnavailableError, OutcomeUnknownError, KeyTakenError) as error:
                await asyncio.sleep(0.002 if isinstance(error, KeyTakenError) else 0.05)

    async def seat(desk: str, wanted: str) -> None:
        if desk not in gives:
            await asked(Booked(desk, [wanted]), f"book-{desk}")
            if desk not in has:
                ledger.note(has=desk, seat=wanted)
            receipt = await asked(Scanned(wanted), f"scan-{desk}")
            ledger.note(scanned=desk, reached=list(receipt.instances["desk"]))
            ledger.note(gives=desk, seat=wanted)
        if int(desk[1:]) % 3 == 0:
            await asked(Leave(desk, wanted), f"leave-{desk}")
        await asked(Shut(desk), f"shut-{desk}")
        ledger.note(done=desk)

    async with SagaRunner(journal, sagas=[DeskSaga], dispatch=lambda command: None, settings=settings) as runner:
        ledger.note(ready=os.getpid())
        for first in range(part, desks, 2 * SEATS):  # as many at once as there are seats
            mine = [f"D{n}" for n in range(first, min(first + 2 * SEATS, desks), 2) if f"D{n}" not in done]
            await asyncio.gather(*(seat(desk, str(int(desk[1:]) % SEATS)) for desk in mine))
    await journal.close()


def main(folder: str, desks: str, seed: str, point: str, passing: str, freeze: str) -> None:
    killing = Killer(Ledger(Path(folder) / "ledger"), point, int(passing), freeze)
    random.seed(int(seed))
    asyncio.run(work(Path(folder), int(desks), int(seed), killing))
