"""Durable steps a second of five-step order sagas, beside what bare SQLite does with the same rows in the same batches.

Closed loop: each caller sends the next event of its order when the one before was answered. Everything is on: history,
synchronous=FULL, inbox, outbox, timers, dispatch to a plain function. Each run is a process of its own; the median of
the runs is shown, and with --json every run.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sagalog import InMemoryJournal, Journal, SagaRunner, SqliteJournal, open_journal

from .orders import EVENTS, OrderSaga
from .servers import bare_nats, bare_postgres, server


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--journal", choices=["sqlite", "postgres", "nats", "memory"], default="sqlite")
    parser.add_argument("--callers", default="1,64,1024", help="comma-separated")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run")
    parser.add_argument("--runs", type=int, default=3, help="of each number of callers")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> None:
    if options.one:
        print(json.dumps(asyncio.run(_measure(options.journal, int(options.callers), options.seconds))))
        return
    results = []
    for callers in options.callers.split(","):
        command = [sys.executable, "-m", "benchmarks", "steps", "--one", "--journal", options.journal]
        command += ["--callers", callers, "--seconds", str(options.seconds)]
        runs = []
        for _ in range(options.runs):
            runs.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
            if not options.json:
                print(".", end="", file=sys.stderr, flush=True)
        results.append(_summary(runs))
    if options.json:
        print(json.dumps(results, indent=2))
        return
    print(
        f"\n{'callers':>7} {'steps/s':>9} {'spread':>7} {'p50 ms':>8} {'p99 ms':>8} {'MB':>5} {'raw/s':>9} {'ratio':>6}"
    )
    for result in results:
        print(
            f"{result['callers']:>7} {result['steps_per_second']:>9,.0f} {result['spread']:>6.0%} {result['p50_ms']:>8.2f} "
            f"{result['p99_ms']:>8.2f} {result['peak_memory_mb']:>5.0f} {result['raw_per_second'] or 0:>9,.0f} "
            f"{result['ratio'] or 0:>6.2f}"
        )


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of every figure; `spread` is (highest - lowest) / median of the steps a second."""
    rates = [one["steps_per_second"] for one in runs]
    median = {
        key: statistics.median(one[key] for one in runs) if isinstance(value, float) else value
        for key, value in runs[0].items()
    }
    return {**median, "spread": (max(rates) - min(rates)) / statistics.median(rates), "runs": runs}


async def _measure(journal_name: str, callers: int, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="sagalog-bench-") as folder, ExitStack() as stack:
        batches: list[int] = []
        journal: Journal
        url = ""
        if journal_name == "sqlite":
            journal = SqliteJournal(Path(folder) / "steps.db")
            serve = journal._writer._serve

            def counting(jobs: list[Any]) -> None:
                batches.append(len(jobs))
                serve(jobs)

            journal._writer._serve = counting
        elif journal_name in ("postgres", "nats"):
            url = stack.enter_context(server(journal_name, Path(folder)))
            journal = open_journal(url)
            await journal.open()
            if journal_name == "postgres":
                take: Any = journal._writer._batch  # type: ignore[attr-defined]

                def counted() -> Any:
                    calls = take()
                    batches.append(len(calls))
                    return calls

                journal._writer._batch = counted  # type: ignore[attr-defined]
        else:
            journal = InMemoryJournal()
        latencies, elapsed = await _load(journal, callers, seconds)
        steps = len(latencies)
        size = 0.0
        if isinstance(journal, SqliteJournal):
            connection = sqlite3.connect(journal.path)
            (size,) = connection.execute("SELECT avg(length(payload)) FROM record").fetchone()
            connection.close()
        elif journal_name != "memory":
            size = float(await _average_size(journal))
        await journal.close()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        raw = None
        if journal_name == "sqlite":
            raw = _bare(Path(folder) / "raw.db", batches, int(size), seconds, callers)
        elif journal_name == "postgres":
            raw = await bare_postgres(url, batches, int(size), seconds, callers)
        elif journal_name == "nats":
            raw = await bare_nats(url, int(size), seconds, callers)
        latencies.sort()
        return {
            "journal": journal_name,
            "callers": callers,
            "steps_per_second": steps / elapsed,
            "p50_ms": latencies[steps // 2] * 1000,
            "p99_ms": latencies[int(steps * 0.99)] * 1000,
            "peak_memory_mb": memory,
            "raw_per_second": raw,
            "ratio": steps / elapsed / raw if raw else None,
            "rows_per_commit": sum(batches) / len(batches) if batches else None,
            "record_bytes": float(size),
        }


async def _average_size(journal: Journal) -> float:
    """Return the average payload of some hundred of the newest records."""
    ids = await journal.ids_by_prefix("", limit=300, deleted=True)
    found = [await journal.latest_message(one) for one in ids]
    sizes = [len(one.payload) for one in found if one is not None]
    return statistics.mean(sizes) if sizes else 500.0


async def _load(journal: Journal, callers: int, seconds: float) -> tuple[list[float], float]:
    latencies: list[float] = []
    numbers = iter(range(10**9))
    clock = time.perf_counter
    gc.set_threshold(50_000, 20, 50)  # as `sagalog run` does
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=lambda command: None) as runner:
        start = clock()
        end = start + seconds

        async def caller() -> None:
            while clock() < end:
                order = f"order-{next(numbers)}"
                for index, event in enumerate(EVENTS):
                    sent = clock()
                    await runner.handle(event(order), message_id=f"{order}/{index}")
                    latencies.append(clock() - sent)

        await asyncio.gather(*(caller() for _ in range(callers)))
        return latencies, clock() - start


def _bare(path: Path, batches: list[int], size: int, seconds: float, callers: int) -> float:
    """Write rows of that size in those batches with nothing but sqlite3, into the same tables; return rows a second.

    In the same order, too: every caller's first step, every caller's second, to the fifth, then their next orders.
    """
    from sagalog.journal.sqlite.schema import connect, prepare

    prepare(str(path), busy_seconds=5)
    connection = connect(str(path), busy_seconds=5, write=True)
    payload = b"x" * size
    number = 0

    def order(n: int) -> str:
        return f"saga::order::order-{n // (callers * 5) * callers + n % callers}"

    start = time.perf_counter()
    for batch in batches:
        rows = range(number, number + batch)
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO record VALUES (?, ?, ?, ?, ?, 'saga-state', 'saga-writer', 0, '[\"saga::order\"]', 1)",
            [
                (n + 1, order(n), n // callers % 5 + 1, n - callers + 1 if n // callers % 5 else None, payload)
                for n in rows
            ],
        )
        connection.executemany(
            """INSERT INTO instance VALUES (?, ?, ?, 0, 0, 1) ON CONFLICT DO UPDATE SET sequence_nr = excluded.sequence_nr,
               record_id = excluded.record_id, due_at = excluded.due_at + ?4
               WHERE sequence_nr = excluded.sequence_nr - 1""",
            [(order(n), n // callers % 5 + 1, n + 1, n) for n in rows],
        )
        connection.execute("COMMIT")
        number += batch
        if time.perf_counter() - start > seconds:
            break
    elapsed = time.perf_counter() - start
    connection.close()
    return number / elapsed
