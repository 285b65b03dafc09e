"""A process is killed while it owes many commands: how long the next one takes until all of them are out.

The first process stores the records of so many instances, each with a command that nobody has accepted, and gets SIGKILL.
The next one starts when the leases of the dead one have ended: those seconds come on top, and are a setting.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sagalog import (
    Action,
    CommandContext,
    InMemoryJournal,
    PersistentRepr,
    RunnerSettings,
    Saga,
    SagaRunner,
    Send,
    open_journal,
    starts,
)

from .live import fill
from .report import Case, Column, Figures, RunError, run_child
from .servers import JOURNALS, server, version_of

COLUMNS: list[Column] = [
    ("journal", "journal", "s"),
    ("commands", "commands", ",d"),
    ("all out, s", "seconds", ".1f"),
    ("spread", "seconds", "spread"),
    ("commands/s", "commands_per_second", ",.0f"),
    ("first, s", "first_seconds", ".2f"),
    ("twice", "twice", ".0f"),
    ("peak MB", "peak_memory_mb", ",.0f"),
]


@dataclass
class Ordered:
    order: str


@dataclass
class Ship:
    order: str


@dataclass
class Shipment:
    ordered: bool = False


class ShipmentSaga(Saga[Shipment]):
    name = "shipment"

    @starts(Ordered, key="order")
    def ordered(self, state: Shipment, event: Ordered) -> Iterator[Action]:
        state.ordered = True
        yield Send(Ship(event.order))


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--journal", choices=JOURNALS[:-1], nargs="+", default=["sqlite"])
    parser.add_argument("--commands", type=int, default=20_000, help="undelivered at the kill")
    parser.add_argument(
        "--lease",
        type=float,
        default=RunnerSettings().lease.total_seconds(),
        help="of the dead process and the next, in seconds",
    )


def cases(options: argparse.Namespace) -> list[Case]:
    return [{"journal": journal, "commands": options.commands, "lease": options.lease} for journal in options.journal]


def measure(case: Case) -> Figures:
    phase = case.get("phase")
    if phase == "owe":
        asyncio.run(_owe(case))
    if phase == "deliver":
        return asyncio.run(_deliver(case))
    with tempfile.TemporaryDirectory(prefix="sagalog-bench-") as folder, server(case["journal"], Path(folder)) as url:
        _owe_and_die({**case, "url": url, "phase": "owe"})
        time.sleep(case["lease"])
        return run_child("recover", {**case, "url": url, "phase": "deliver"})


def _owe_and_die(case: Case) -> None:
    command = [sys.executable, "-m", "benchmarks", "--child", "recover", json.dumps(case)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        process.kill()
    if ready != "ready\n":
        raise RunError("the process that owes the commands ended by itself")


async def _owe(case: Case) -> None:
    """Store what a worker has stored whose command handlers have not answered yet; never returns."""
    kept = InMemoryJournal()
    owing: list[PersistentRepr] = []

    async def keep(command: Ship) -> None:
        stored = await kept.latest_message("saga::shipment::order-0")
        assert stored is not None
        owing.append(stored)  # as it is while its command is on its way

    async with SagaRunner(kept, sagas=[ShipmentSaga], dispatch=keep) as runner:
        await runner.handle(Ordered("order-0"), message_id="order-0")
        await runner.settle()
    (like,) = owing
    lease = timedelta(seconds=case["lease"])
    async with open_journal(case["url"]) as journal:
        await journal.open()
        await fill(journal, like, "order-", case["commands"], lambda n: (like.payload, datetime.now(UTC) + lease))
        print("ready", flush=True)
        await asyncio.Event().wait()


async def _deliver(case: Case) -> Figures:
    count: int = case["commands"]
    out: set[str] = set()
    deliveries = 0
    first = 0.0
    done = asyncio.Event()

    def ship(command: Ship, context: CommandContext) -> None:
        nonlocal deliveries, first
        deliveries += 1
        first = first or time.perf_counter()
        out.add(context.id)
        if len(out) == count:
            done.set()

    gc.set_threshold(50_000, 20, 50)  # as `sagalog run` does
    begun = time.perf_counter()
    settings = RunnerSettings(lease=timedelta(seconds=case["lease"]))
    async with SagaRunner(case["url"], sagas=[ShipmentSaga], dispatch=ship, settings=settings):
        await done.wait()
        elapsed = time.perf_counter() - begun
        version = await version_of(case["url"])
    return {
        "seconds": elapsed,
        "commands_per_second": count / elapsed,
        "first_seconds": first - begun,
        "twice": deliveries - count,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "server": version,
    }
