"""Durable steps a second of five-step order sagas, beside what the bare engine does with the same rows in the same batches.

Closed loop: each caller sends the next event of its order when the one before was answered. Everything is on: history,
durable commits, inbox, outbox, timers, dispatch to a plain function. With several processes the callers are shared out
over workers on one journal, and there is no bare rate beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import multiprocessing
import resource
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path

from sagalog import Journal, SagaRunner, open_journal

from .bare import Work, bare
from .batches import count_batches
from .orders import EVENTS, OrderSaga, handle_surely
from .report import Case, Column, Figures, percentile
from .servers import JOURNALS, server, version_of

COLUMNS: list[Column] = [
    ("journal", "journal", "s"),
    ("processes", "processes", "d"),
    ("callers", "callers", ",d"),
    ("steps/s", "steps_per_second", ",.0f"),
    ("spread", "steps_per_second", "spread"),
    ("p50 ms", "p50_ms", ".2f"),
    ("p99 ms", "p99_ms", ".2f"),
    ("MB", "peak_memory_mb", ",.0f"),
    ("rows/commit", "rows_per_commit", ",.0f"),
    ("bare rows/s", "bare_per_second", ",.0f"),
    ("ratio", "ratio", ".2f"),
    ("bare commit ms", "bare_commit_ms", ".2f"),
]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--journal", choices=JOURNALS, nargs="+", default=["sqlite"])
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 64, 1024])
    parser.add_argument(
        "--processes", type=int, nargs="+", default=[1], help="workers; more than one on postgres or nats"
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run")


def cases(options: argparse.Namespace) -> list[Case]:
    return [
        {"journal": journal, "processes": processes, "callers": callers, "seconds": options.seconds}
        for journal in options.journal
        for processes in options.processes
        if processes == 1 or journal in ("postgres", "nats")
        for callers in options.callers
        if callers >= processes
    ]


def measure(case: Case) -> Figures:
    with tempfile.TemporaryDirectory(prefix="sagalog-bench-") as folder, server(case["journal"], Path(folder)) as url:
        if case["processes"] > 1:
            return _together(url, case)
        return asyncio.run(_alone(url, case, Path(folder)))


async def _alone(url: str, case: Case, folder: Path) -> Figures:
    journal = open_journal(url)
    await journal.open()
    batches = count_batches(journal)
    latencies, begun, ended = await load(journal, case["callers"], case["seconds"])
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = await average_size(journal)
    await journal.close()
    rate = len(latencies) / (ended - begun)
    beside = await bare(url, folder, Work(batches, int(size), case["callers"], case["seconds"]))
    return {
        **_figures(latencies, rate),
        "peak_memory_mb": memory,
        "record_bytes": size,
        "rows_per_commit": statistics.mean(batches) if batches else None,
        "bare_per_second": beside.rows_per_second if beside else None,
        "bare_commit_ms": beside.commit_ms if beside else None,
        "ratio": rate / beside.rows_per_second if beside else None,
        "server": await version_of(url),
    }


def _figures(latencies: list[float], rate: float) -> Figures:
    latencies.sort()
    return {
        "steps_per_second": rate,
        "p50_ms": percentile(latencies, 0.5) * 1000,
        "p99_ms": percentile(latencies, 0.99) * 1000,
    }


async def average_size(journal: Journal) -> float:
    """Return the average payload of some hundred of the newest records."""
    ids = await journal.ids_by_prefix("", limit=300) + await journal.ids_by_prefix("", limit=300, deleted=True)
    found = [await journal.latest_message(one) for one in ids]
    return statistics.mean(len(one.payload) for one in found if one is not None)


async def load(
    journal: Journal, callers: int, seconds: float, prefix: str = "order", ready: Barrier | None = None
) -> tuple[list[float], float, float]:
    """Handle orders in a closed loop; return the time of each step, and when the first began and the last ended."""
    latencies: list[float] = []
    numbers = iter(range(10**9))
    clock = time.perf_counter  # one clock for all processes of a machine
    gc.set_threshold(50_000, 20, 50)  # as `sagalog run` does
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=lambda command: None) as runner:
        if ready is not None:
            ready.wait(60)
        begun = clock()
        end = begun + seconds

        async def caller() -> None:
            while clock() < end:
                order = f"{prefix}-{next(numbers)}"
                for index, event in enumerate(EVENTS):
                    sent = clock()
                    await handle_surely(runner, event(order), f"{order}/{index}")
                    latencies.append(clock() - sent)

        await asyncio.gather(*(caller() for _ in range(callers)))
        return latencies, begun, clock()


_ready: Barrier | None = None  # of this process, where it is a worker: pools hand things over in their initializer


def _together(url: str, case: Case) -> Figures:
    processes: int = case["processes"]
    asyncio.run(_make(url))  # the tables are there before the workers are
    spawning = multiprocessing.get_context("spawn")
    barrier = spawning.Barrier(processes)
    with ProcessPoolExecutor(processes, mp_context=spawning, initializer=_begin, initargs=(barrier,)) as pool:
        shares = [case["callers"] // processes + (n < case["callers"] % processes) for n in range(processes)]
        jobs = [pool.submit(_worker, url, shares[n], case["seconds"], f"order-{n}") for n in range(processes)]
        found = [job.result() for job in jobs]
    latencies = [latency for one, _, _, _ in found for latency in one]
    elapsed = max(ended for _, _, ended, _ in found) - min(begun for _, begun, _, _ in found)
    return {
        **_figures(latencies, len(latencies) / elapsed),
        "peak_memory_mb": sum(memory for _, _, _, memory in found),
        "server": asyncio.run(version_of(url)),
    }


async def _make(url: str) -> None:
    async with open_journal(url) as journal:
        await journal.open()


def _begin(barrier: Barrier) -> None:
    global _ready
    _ready = barrier


def _worker(url: str, callers: int, seconds: float, prefix: str) -> tuple[list[float], float, float, float]:
    async def work() -> tuple[list[float], float, float]:
        async with open_journal(url) as journal:
            await journal.open()
            return await load(journal, callers, seconds, prefix, _ready)

    return (*asyncio.run(work()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
