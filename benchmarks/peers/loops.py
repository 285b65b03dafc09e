"""The closed loop that all run, Sagalog and its peers: so many callers, each with one five-step order at a time."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator

STEPS = 5
AT_ONCE = 64  # threads within a library: with more of them pools time out, and everything is slower


def in_threads(order: Callable[[str], object], callers: int, seconds: float) -> None:
    """Run `order(id)` in threads, and print the figures. Beyond 64 callers, the others wait for their turn."""
    latencies: list[float] = []
    errors: list[BaseException] = []
    numbers = _numbers()
    taking = threading.Lock()
    places = threading.Semaphore(AT_ONCE)
    begun = time.perf_counter()
    end = begun + seconds

    def caller() -> None:
        try:
            while time.perf_counter() < end and not errors:
                started = time.perf_counter()
                with places:
                    if time.perf_counter() >= end:
                        break
                    with taking:
                        number = next(numbers)
                    order(f"order-{number}")
                latencies.append(time.perf_counter() - started)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=caller, daemon=True) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    _tell(latencies, time.perf_counter() - begun)


async def in_tasks(order: Callable[[str], Awaitable[object]], callers: int, seconds: float) -> None:
    """Run `order(id)` in tasks, and print the figures."""
    latencies: list[float] = []
    numbers = _numbers()
    begun = time.perf_counter()
    end = begun + seconds

    async def caller() -> None:
        while time.perf_counter() < end:
            started = time.perf_counter()
            await order(f"order-{next(numbers)}")
            latencies.append(time.perf_counter() - started)

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
    _tell(latencies, time.perf_counter() - begun)


def _numbers() -> Iterator[int]:
    return iter(range(10**9))


def _tell(latencies: list[float], elapsed: float) -> None:
    latencies.sort()
    figures = {
        "steps_per_second": len(latencies) * STEPS / elapsed,
        "order_p50_ms": latencies[len(latencies) // 2] * 1000,
        "order_p99_ms": latencies[int(len(latencies) * 0.99)] * 1000,
    }
    print(json.dumps(figures))
