"""Durable steps a second with telemetry on, beside the same without it; and in event time.

The same five-step orders as in `steps`, on one journal, in short turns that take their places one after the other, so
that a slow moment of the machine hits all alike. Spans are handed over in batches to an exporter that drops them;
`otel` records every trace, `sampled` one in ten, and `both` is that beside Prometheus. `rate`: steps a second, in those of
the plain runner. `processor`: the processor's time of a step, in that of a plain one.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CollectorRegistry

from sagalog import EventClock, Hook, Journal, SagaRunner, open_journal
from sagalog.telemetry.otel import OpenTelemetryHook
from sagalog.telemetry.prometheus import PrometheusHook

from .orders import EVENTS, OrderSaga, handle_surely
from .report import Case, Column, Figures
from .servers import JOURNALS, server, version_of

TURNS = 4  # of each way
COLUMNS: list[Column] = [
    ("journal", "journal", "s"),
    ("callers", "callers", ",d"),
    ("plain steps/s", "plain", ",.0f"),
    *(
        (f"{way}: {what}", f"{way}_{what}", ".2f")
        for way in ("prometheus", "sampled", "both", "otel", "events")
        for what in ("rate", "processor")
    ),
]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--journal", choices=JOURNALS, nargs="+", default=["sqlite"])
    parser.add_argument("--callers", type=int, nargs="+", default=[64])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each way")


def cases(options: argparse.Namespace) -> list[Case]:
    return [
        {"journal": journal, "callers": callers, "seconds": options.seconds}
        for journal in options.journal
        for callers in options.callers
    ]


def measure(case: Case) -> Figures:
    with tempfile.TemporaryDirectory(prefix="sagalog-bench-") as folder, server(case["journal"], Path(folder)) as url:
        return asyncio.run(_measure(url, case["callers"], case["seconds"] / TURNS))


async def _measure(url: str, callers: int, seconds: float) -> Figures:
    gc.set_threshold(50_000, 20, 50)  # as `sagalog run` does
    from .tracing import provider_of  # `guard`, which measures nothing of it, runs where the SDK is not installed

    all_of_them, one_in_ten = provider_of(1), provider_of(0.1)
    hooks: dict[str, Callable[[], list[Hook]]] = {
        "plain": list,
        "prometheus": lambda: [PrometheusHook(CollectorRegistry())],
        "sampled": lambda: [OpenTelemetryHook(one_in_ten)],
        "both": lambda: [PrometheusHook(CollectorRegistry()), OpenTelemetryHook(one_in_ten)],
        "otel": lambda: [OpenTelemetryHook(all_of_them)],
        "events": list,
    }
    turns: dict[str, list[tuple[float, float]]] = {way: [] for way in hooks}
    async with open_journal(url) as journal:
        await journal.open()
        for _ in range(TURNS):
            for way, made in hooks.items():
                turns[way].append(await _turn(journal, made(), callers, seconds, in_event_time=way == "events"))
    for provider in (all_of_them, one_in_ten):
        provider.shutdown()
    averages = {way: tuple(sum(one) / TURNS for one in zip(*found, strict=True)) for way, found in turns.items()}
    rate, cost = averages.pop("plain")
    figures: Figures = {"plain": rate, "server": await version_of(url)}
    for way, (its_rate, its_cost) in averages.items():
        figures[f"{way}_rate"], figures[f"{way}_processor"] = its_rate / rate, its_cost / cost
    return figures


_numbers = iter(range(10**9))


async def _turn(
    journal: Journal, hooks: list[Hook], callers: int, seconds: float, *, in_event_time: bool
) -> tuple[float, float]:
    """Return steps a second, and the seconds of processor for each."""
    clock = EventClock() if in_event_time else None
    count = 0
    async with SagaRunner(
        journal, sagas=[OrderSaga], dispatch=lambda command: None, hooks=hooks, clock=clock
    ) as runner:
        begun, used = time.perf_counter(), time.process_time()
        end = begun + seconds

        async def caller() -> None:
            nonlocal count
            while time.perf_counter() < end:
                order = f"order-{next(_numbers)}"
                for index, event in enumerate(EVENTS):
                    if clock is None:
                        await handle_surely(runner, event(order), f"{order}/{index}")
                    else:
                        await runner.handle(event(order), message_id=f"{order}/{index}", at=datetime.now(UTC))
                    count += 1

        await asyncio.gather(*(caller() for _ in range(callers)))
        return count / (time.perf_counter() - begun), (time.process_time() - used) / count
