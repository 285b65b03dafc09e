"""How long `handle` takes when events come at a fixed rate, whether or not the ones before are answered (open loop).

The time of an event counts from the moment it was due to be sent, so that a stall counts for all that had to wait behind
it (coordinated omission). Orders advance together, a thousand at a time: the events of one instance do not meet.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sagalog import SagaRunner

from .orders import EVENTS, OrderSaga, handle_surely
from .report import Case, Column, Figures, percentile
from .servers import JOURNALS, server, version_of

COLUMNS: list[Column] = [
    ("journal", "journal", "s"),
    ("events/s", "rate", ",d"),
    ("answered/s", "answered_per_second", ",.0f"),
    ("p50 ms", "p50_ms", ".2f"),
    ("p99 ms", "p99_ms", ".2f"),
    ("p99.9 ms", "p999_ms", ".2f"),
    ("highest ms", "highest_ms", ".1f"),
]
_TOGETHER = 1000


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--journal", choices=JOURNALS, nargs="+", default=["sqlite"])
    parser.add_argument("--rates", type=int, nargs="+", default=[500, 2000, 5000], help="events a second")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each rate")


def cases(options: argparse.Namespace) -> list[Case]:
    return [
        {"journal": journal, "rate": rate, "seconds": options.seconds}
        for journal in options.journal
        for rate in options.rates
    ]


def measure(case: Case) -> Figures:
    with tempfile.TemporaryDirectory(prefix="sagalog-bench-") as folder, server(case["journal"], Path(folder)) as url:
        return asyncio.run(_measure(url, case["rate"], case["seconds"]))


def _events() -> Iterator[tuple[Any, str]]:
    window = 0
    while True:
        for index, event in enumerate(EVENTS):
            for n in range(window, window + _TOGETHER):
                yield event(f"order-{n}"), f"order-{n}/{index}"
        window += _TOGETHER


async def _measure(url: str, rate: int, seconds: float) -> Figures:
    latencies: list[float] = []
    clock = time.perf_counter
    gc.set_threshold(50_000, 20, 50)  # as `sagalog run` does
    async with SagaRunner(url, sagas=[OrderSaga], dispatch=lambda command: None) as runner:

        async def send(event: Any, message_id: str, due: float) -> None:
            await handle_surely(runner, event, message_id)
            latencies.append(clock() - due)

        async with asyncio.TaskGroup() as group:
            begun = clock() + 0.1
            for sent, (event, message_id) in enumerate(_events()):
                due = begun + sent / rate
                if due > begun + seconds:
                    break
                while (wait := due - clock()) > 0:
                    await asyncio.sleep(wait)
                group.create_task(send(event, message_id, due))
                if sent % 64 == 0:
                    await asyncio.sleep(0)  # late already: what was sent has to run as well
        elapsed = clock() - begun
        version = await version_of(url)
    latencies.sort()
    return {
        "answered_per_second": len(latencies) / elapsed,
        "p50_ms": percentile(latencies, 0.5) * 1000,
        "p99_ms": percentile(latencies, 0.99) * 1000,
        "p999_ms": percentile(latencies, 0.999) * 1000,
        "highest_ms": latencies[-1] * 1000,
        "server": version,
    }
