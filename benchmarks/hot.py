"""One instance that receives many events at once: what its mailbox, and the saves they share, can do."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from sagalog import Incoming, Saga, SagaRunner, open_journal, starts

from .report import Case, Column, Figures
from .servers import JOURNALS, server, version_of

COLUMNS: list[Column] = [
    ("journal", "journal", "s"),
    ("events", "events", ",d"),
    ("events/s", "events_per_second", ",.0f"),
    ("spread", "events_per_second", "spread"),
    ("saves", "saves", ",.0f"),
    ("record at the end, kB", "record_kb", ",.0f"),
]


@dataclass
class Ticked:
    counter: str


@dataclass
class Count:
    ticks: int = 0


class CounterSaga(Saga[Count]):
    name = "counter"

    @starts(Ticked, key="counter")
    def ticked(self, state: Count, event: Ticked) -> None:
        state.ticks += 1


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--journal", choices=JOURNALS, nargs="+", default=["sqlite"])
    parser.add_argument("--events", type=int, default=10_000)


def cases(options: argparse.Namespace) -> list[Case]:
    return [{"journal": journal, "events": options.events} for journal in options.journal]


def measure(case: Case) -> Figures:
    with tempfile.TemporaryDirectory(prefix="sagalog-bench-") as folder, server(case["journal"], Path(folder)) as url:
        return asyncio.run(_measure(url, case["events"]))


async def _measure(url: str, events: int) -> Figures:
    async with open_journal(url) as journal, SagaRunner(journal, sagas=[CounterSaga]) as runner:
        await runner.handle(Ticked("only"), message_id="first")
        saves = runner.counters.saves
        begun = time.perf_counter()
        await runner.handle_many(Incoming(Ticked("only"), f"tick-{n}") for n in range(events))
        elapsed = time.perf_counter() - begun
        saves = runner.counters.saves - saves
        stored = await journal.latest_message("saga::counter::only")
        assert stored is not None
        assert f'"ticks":{events + 1}'.encode() in stored.payload, "events were lost"
    return {
        "events_per_second": events / elapsed,
        "saves": saves,
        "record_kb": len(stored.payload) / 1024,
        "server": await version_of(url),
    }
