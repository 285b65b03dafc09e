"""What many live sagas change: rate, memory, size on disk, and the time until the first event is handled.

The journal is filled with live instances; then a process of its own starts on it and handles events of random ones, cold
from disk, each replaced by a new one when it ends, so that their number stays. The rate of the first seconds and that
of the rest are shown by themselves, too: caches are empty at first, of the worker, of the system and of the servers.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import resource
import tempfile
import time
from array import array
from pathlib import Path

from sagalog import SagaRunner, open_journal

from .live import fill, template
from .orders import EVENTS, OrderSaga, Paid, Placed, handle_surely
from .report import Case, Column, Figures, percentile, run_child
from .servers import JOURNALS, disk_mb, server, version_of

_COLD_SECONDS = 3.0
_STRIDE = 2_654_435_761  # a prime near the golden ratio of 2**32

COLUMNS: list[Column] = [
    ("journal", "journal", "s"),
    ("live sagas", "sagas", ",d"),
    ("steps/s", "steps_per_second", ",.0f"),
    ("spread", "steps_per_second", "spread"),
    ("cold steps/s", "cold_steps_per_second", ",.0f"),
    ("warm steps/s", "warm_steps_per_second", ",.0f"),
    ("p99 ms", "p99_ms", ".1f"),
    ("first event, s", "first_event_seconds", ".2f"),
    ("peak MB", "peak_memory_mb", ",.0f"),
    ("disk MB", "disk_mb", ",.0f"),
    ("fill, s", "fill_seconds", ",.0f"),
]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--journal", choices=JOURNALS[:-1], nargs="+", default=["sqlite"])
    parser.add_argument("--sagas", type=int, nargs="+", default=[10_000, 100_000], help="up to 1000000")
    parser.add_argument(
        "--also-on-sqlite", type=int, nargs="*", default=[], help="more than servers are filled with here"
    )
    parser.add_argument("--callers", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=60.0, help="the first 3 are shown as cold, too")


def cases(options: argparse.Namespace) -> list[Case]:
    return [
        {"journal": journal, "sagas": sagas, "callers": options.callers, "seconds": options.seconds}
        for journal in options.journal
        for sagas in options.sagas + (options.also_on_sqlite if journal == "sqlite" else [])
    ]


def measure(case: Case) -> Figures:
    if "url" in case:
        return asyncio.run(_use(case))
    with tempfile.TemporaryDirectory(prefix="sagalog-bench-") as folder, server(case["journal"], Path(folder)) as url:
        begun = time.perf_counter()
        asyncio.run(_fill(url, case["sagas"]))
        filled = time.perf_counter() - begun
        size = disk_mb(Path(folder))
        return {**run_child("grow", {**case, "url": url}), "disk_mb": size, "fill_seconds": filled}


async def _fill(url: str, sagas: int) -> None:
    like = await template(OrderSaga, Placed("order-0", 5), "order-0")
    async with open_journal(url) as journal:
        await journal.open()
        await fill(journal, like, "order-", sagas)


async def _use(case: Case) -> Figures:
    begun = time.perf_counter()
    latencies = array("d")
    gc.set_threshold(50_000, 20, 50)  # as `sagalog run` does
    async with SagaRunner(case["url"], sagas=[OrderSaga], dispatch=lambda command: None) as runner:
        await runner.handle(Paid("order-0"))
        first = time.perf_counter() - begun
        # Without a list of them, whose memory would be told as the worker's: each of the first ones once, in an order
        # that jumps about in the file, then those that replaced them.
        sagas: int = case["sagas"]
        olds = (n * _STRIDE % sagas if n < sagas else n for n in range(1, 10**9))
        fresh = iter(range(sagas, 10**9))
        clock = time.perf_counter
        start = clock()
        cold_seconds = min(_COLD_SECONDS, case["seconds"] / 2)
        cold_steps = 0

        def warm() -> None:
            nonlocal cold_steps
            cold_steps = len(latencies)

        asyncio.get_running_loop().call_later(cold_seconds, warm)
        end = start + case["seconds"]

        async def caller() -> None:
            while clock() < end:
                old, new = next(olds), next(fresh)
                events = [(f"order-{old}", index, event) for index, event in enumerate(EVENTS) if index > 0]
                for order, index, event in [*events, (f"order-{new}", 0, EVENTS[0])]:
                    sent = clock()
                    await handle_surely(runner, event(order), f"{order}/{index}")
                    latencies.append(clock() - sent)

        await asyncio.gather(*(caller() for _ in range(case["callers"])))
        elapsed = clock() - start
        version = await version_of(case["url"])
    return {
        "steps_per_second": len(latencies) / elapsed,
        "cold_steps_per_second": cold_steps / cold_seconds,
        "warm_steps_per_second": (len(latencies) - cold_steps) / (elapsed - cold_seconds),
        "p99_ms": percentile(sorted(latencies), 0.99) * 1000,
        "first_event_seconds": first,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "server": version,
    }
