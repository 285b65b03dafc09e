"""Many pending timers, so many due each second: how late they fire, and whether the runner keeps up.

Each timer's instance sends a command when it fires and ends; lateness is from the timer's moment to that command's
handler. The others stay pending until tomorrow.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from sagalog import Action, CommandContext, Complete, Saga, SagaRunner, Send, SetTimer, on, open_journal, starts
from sagalog.decision.entries import Timer
from sagalog.decision.record import SagaRecord, decode_record, encode_record

from .live import fill, template
from .report import Case, Column, Figures, percentile, run_child
from .servers import JOURNALS, server, version_of

COLUMNS: list[Column] = [
    ("journal", "journal", "s"),
    ("pending", "pending", ",d"),
    ("due/s", "rate", ",d"),
    ("fired/s", "fired_per_second", ",.0f"),
    ("late p50 ms", "late_p50_ms", ",.0f"),
    ("late p99 ms", "late_p99_ms", ",.0f"),
    ("latest ms", "latest_ms", ",.0f"),
    ("early", "early", ".0f"),
    ("peak MB", "peak_memory_mb", ",.0f"),
]
_AHEAD_SECONDS = 5.0  # from the last timer stored to the first one due; a busy machine starts the runner slowly


@dataclass
class Asked:
    reminder: str


@dataclass
class Reminded:
    reminder: str


@dataclass
class Remind:
    reminder: str


@dataclass
class Reminder:
    asked: bool = False


class ReminderSaga(Saga[Reminder]):
    name = "reminder"

    @starts(Asked, key="reminder")
    def asked(self, state: Reminder, event: Asked) -> Iterator[Action]:
        state.asked = True
        yield SetTimer("remind", Reminded(event.reminder), after=timedelta(days=1))

    @on(Reminded, key="reminder")
    def reminded(self, state: Reminder, event: Reminded) -> Iterator[Action]:
        yield Send(Remind(event.reminder))
        yield Complete()


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--journal", choices=JOURNALS[:-1], nargs="+", default=["sqlite"])
    parser.add_argument("--pending", type=int, default=100_000, help="up to 1000000 and more")
    parser.add_argument("--rate", type=int, default=2_000, help="due a second")
    parser.add_argument("--seconds", type=float, default=5.0, help="in which timers are due")


def cases(options: argparse.Namespace) -> list[Case]:
    return [
        {"journal": journal, "pending": options.pending, "rate": options.rate, "seconds": options.seconds}
        for journal in options.journal
    ]


def measure(case: Case) -> Figures:
    if "url" in case:
        return asyncio.run(_fire(case))
    with tempfile.TemporaryDirectory(prefix="sagalog-bench-") as folder, server(case["journal"], Path(folder)) as url:
        begun = time.time()
        # Filling takes as long as it takes, so the moments are moved to the first one once it is known how long that is.
        first = asyncio.run(_fill(url, case))
        figures = run_child("timers", {**case, "url": url, "first": first})
        return {**figures, "fill_seconds": first - begun}


async def _fill(url: str, case: Case) -> float:
    """Fill the journal; return the moment at which the first timer is due, some seconds after the filling."""
    like = await template(ReminderSaga, Asked("r-0"), "r-0")
    record = decode_record(like.payload)
    timer = record.timers["remind"]
    due = min(case["pending"], int(case["rate"] * case["seconds"]))

    async with open_journal(url) as journal:
        await journal.open()
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        pending = encode_record(_due(record, timer, tomorrow))
        await fill(journal, like, "later-", case["pending"] - due, lambda n: (pending, tomorrow))
        # These last, when the rest is known to be there: a second for each 5,000, which slow machines need as well.
        first = datetime.now(UTC) + timedelta(seconds=_AHEAD_SECONDS + due / 5_000)

        def vary(n: int) -> tuple[bytes, datetime]:
            at = first + timedelta(seconds=n / case["rate"])
            return encode_record(_due(record, timer, at)), at

        await fill(journal, like, "r-", due, vary)
    return first.timestamp()


def _due(record: SagaRecord, timer: Timer, at: datetime) -> SagaRecord:
    return msgspec.structs.replace(record, timers={"remind": msgspec.structs.replace(timer, due_at=at)})


async def _fire(case: Case) -> Figures:
    rate: int = case["rate"]
    due = min(case["pending"], int(rate * case["seconds"]))
    late: dict[str, float] = {}
    done = asyncio.Event()

    def remind(command: Remind, context: CommandContext) -> None:
        number = int(context.correlation_id.partition("-")[2])
        late.setdefault(context.id, time.time() - (case["first"] + number / rate))
        if len(late) == due:
            done.set()

    gc.set_threshold(50_000, 20, 50)  # as `sagalog run` does
    assert time.time() < case["first"], "filling took longer than expected: the first timers are due already"
    async with SagaRunner(case["url"], sagas=[ReminderSaga], dispatch=remind) as runner:
        await done.wait()
        elapsed = time.time() - case["first"]
        version = await version_of(case["url"])
        fired = runner.counters.timers
    found = sorted(late.values())
    return {
        "fired_per_second": due / elapsed,
        "late_p50_ms": percentile(found, 0.5) * 1000,
        "late_p99_ms": percentile(found, 0.99) * 1000,
        "latest_ms": found[-1] * 1000,
        "early": sum(one < 0 for one in found),
        "twice": fired - due,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "server": version,
    }
