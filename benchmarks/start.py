"""Start on a file with many live sagas: time until the first event is handled, and memory."""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sagalog import JournalSagaStateStore, PersistentRepr, SagaRunner, SqliteJournal

from .orders import OrderSaga, Paid, Placed


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sagas", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--file", help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> None:
    if options.file:
        print(json.dumps(asyncio.run(_first(options.file))))
        return
    with tempfile.TemporaryDirectory(prefix="sagalog-bench-") as folder:
        path = Path(folder) / "live.db"
        asyncio.run(_fill(path, options.sagas))
        command = [sys.executable, "-m", "benchmarks", "start", "--file", str(path)]
        result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        result = {"sagas": options.sagas, "file_mb": path.stat().st_size / 2**20, **result}
    print(json.dumps(result, indent=2) if options.json else "\n".join(f"{k:<22} {v:,.3f}" for k, v in result.items()))


async def _fill(path: Path, sagas: int) -> None:
    """Make one saga by the runner, and the others like it."""
    async with SqliteJournal(path) as journal:
        async with SagaRunner(journal, sagas=[OrderSaga], dispatch=lambda command: None) as runner:
            await runner.handle(Placed("order-0", 5))
            await runner.settle()
        saved = await JournalSagaStateStore(journal, "order").load("order-0")
        assert saved is not None
        due = datetime.now(UTC) + timedelta(days=1)
        for start in range(1, sagas, 5000):
            numbers = range(start, min(start + 5000, sagas))
            await asyncio.gather(
                *(
                    journal.write_messages(
                        [
                            PersistentRepr(
                                f"saga::order::order-{n}",
                                1,
                                saved.payload,
                                "saga-state",
                                "saga-x",
                                False,
                                ("saga::order",),
                                due,
                            )
                        ]
                    )
                    for n in numbers
                )
            )


async def _first(path: str) -> dict[str, float]:
    begun = time.perf_counter()
    journal = SqliteJournal(path)
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=lambda command: None) as runner:
        await runner.handle(Paid("order-777"))
        first = time.perf_counter() - begun
        await runner.settle()
    await journal.close()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"first_event_seconds": first, "peak_memory_mb": memory}
