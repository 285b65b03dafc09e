"""Itineraries of five activities a second, beside the five-step orders of `steps`, one after the other in one run.

Closed loop in both: each caller begins the next process when the one before is at its last call. Both are counted
until all is durable. `ratio`: the time of an itinerary, in those of an order. `processor ratio`: the processor's.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from sagalog import Call, ItinerarySaga, Journal, SagaRunner, activity, open_journal

from .orders import EVENTS, OrderSaga, handle_surely
from .report import Case, Column, Figures
from .servers import JOURNALS, server, version_of

COLUMNS: list[Column] = [
    ("journal", "journal", "s"),
    ("callers", "callers", ",d"),
    ("orders/s", "orders_per_second", ",.0f"),
    ("itineraries/s", "itineraries_per_second", ",.0f"),
    ("ratio", "ratio", ".2f"),
    ("processor ratio", "processor_ratio", ".2f"),
]


@dataclass
class Requested:
    trip: str


@dataclass
class Trip:
    request: Requested | None = None
    flight: str | None = None
    hotel: str | None = None
    car: str | None = None
    payment: str | None = None
    ticket: str | None = None


class TripSaga(ItinerarySaga[Trip]):
    name = "trip"
    starts_with, key = Requested, "trip"

    def __init__(self, arrived: Callable[[str], None] = lambda trip: None) -> None:
        self.arrived = arrived

    @activity
    async def flight(self, trip: Trip, call: Call) -> str:
        return "LH 1"

    @flight.undo
    async def cancel_flight(self, trip: Trip, call: Call) -> None: ...

    @activity
    async def hotel(self, trip: Trip, call: Call) -> str:
        return "Ritz"

    @activity
    async def car(self, trip: Trip, call: Call) -> str:
        return "Beetle"

    @activity
    async def payment(self, trip: Trip, call: Call) -> str:
        return "paid"

    @activity
    async def ticket(self, trip: Trip, call: Call) -> str:
        self.arrived(call.correlation_id)
        return "T"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--journal", choices=JOURNALS, nargs="+", default=["sqlite"])
    parser.add_argument("--callers", type=int, nargs="+", default=[64])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each half")


def cases(options: argparse.Namespace) -> list[Case]:
    return [
        {"journal": journal, "callers": callers, "seconds": options.seconds}
        for journal in options.journal
        for callers in options.callers
    ]


def measure(case: Case) -> Figures:
    with tempfile.TemporaryDirectory(prefix="sagalog-bench-") as folder, server(case["journal"], Path(folder)) as url:
        return asyncio.run(_measure(url, case["callers"], case["seconds"]))


async def _measure(url: str, callers: int, seconds: float) -> Figures:
    gc.set_threshold(50_000, 20, 50)  # as `sagalog run` does
    journal = open_journal(url)
    await journal.open()
    found: dict[str, list[tuple[float, float]]] = {"orders": [], "trips": []}
    for _ in range(2):  # one after the other, twice, so that a slow half hits both
        found["orders"].append(await _orders(journal, callers, seconds / 2))
        found["trips"].append(await _trips(journal, callers, seconds / 2))
    await journal.close()
    orders, order_cost = (sum(part) / 2 for part in zip(*found["orders"], strict=True))
    trips, trip_cost = (sum(part) / 2 for part in zip(*found["trips"], strict=True))
    return {
        "orders_per_second": orders,
        "itineraries_per_second": trips,
        "ratio": orders / trips,
        "processor_ratio": trip_cost / order_cost,
        "server": await version_of(url),
    }


_numbers = iter(range(10**9))


async def _orders(journal: Journal, callers: int, seconds: float) -> tuple[float, float]:
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=lambda command: None) as runner:

        async def one() -> None:
            order = f"order-{next(_numbers)}"
            for index, event in enumerate(EVENTS):
                await handle_surely(runner, event(order), f"{order}/{index}")

        return await _rate(runner, one, callers, seconds)


async def _trips(journal: Journal, callers: int, seconds: float) -> tuple[float, float]:
    waiting: dict[str, asyncio.Event] = {}
    saga = TripSaga(lambda trip: waiting[trip].set())
    async with SagaRunner(journal, sagas=[saga]) as runner:

        async def one() -> None:
            trip = f"trip-{next(_numbers)}"
            arrived = waiting[trip] = asyncio.Event()
            await handle_surely(runner, Requested(trip), f"{trip}/0")
            await arrived.wait()

        return await _rate(runner, one, callers, seconds)


async def _rate(
    runner: SagaRunner, one: Callable[[], Awaitable[None]], callers: int, seconds: float
) -> tuple[float, float]:
    """Return how many a second, and the seconds of processor for each."""
    count, begun, used = 0, time.perf_counter(), time.process_time()
    end = begun + seconds

    async def caller() -> None:
        nonlocal count
        while time.perf_counter() < end:
            await one()
            count += 1

    await asyncio.gather(*(caller() for _ in range(callers)))
    await runner.settle()
    return count / (time.perf_counter() - begun), (time.process_time() - used) / count
