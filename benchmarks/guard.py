"""Find a step that has become dearer: processor time as a ratio to fixed work in the same run, against a baseline.

What is measured and the fixed work (plain Python, msgspec, SQLite) take turns many times, so that a busy or slow
machine slows both. A ratio counts as worse only if the median of the pairs and the best of each side both say so; what
looks worse is measured anew, and the best of the tries counts. Sizes and numbers of records are exact.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import msgspec

from sagalog import Incoming, InMemoryJournal, Journal, Saga, SagaRunner, SqliteJournal

from .hot import CounterSaga, Ticked
from .orders import EVENTS, OrderSaga

BASELINE = Path(__file__).parent / "baseline.json"
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_CALLERS = 64
_ORDERS = 4  # of each caller, a chunk
_DRIVERS = ("sqlite3", "asyncpg", "nats", "click", "rich", "starlette", "opentelemetry", "prometheus_client")


class ShadowSaga(OrderSaga):
    """Takes every event of an order a second time: what --plant adds."""

    name = "shadow"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--worse", type=float, default=0.25, help="fail beyond this part more than the baseline")
    parser.add_argument("--pairs", type=int, default=24, help="of measured and fixed work, a try")
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--store", action="store_true", help="make what is measured now the baseline of this Python")
    parser.add_argument("--plant", action="store_true", help="double the work of each step, to see the guard fail")


def run(options: argparse.Namespace) -> bool:
    """Compare, print, and say whether nothing is worse."""
    stored: dict[str, dict[str, float]] = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    if options.store:
        found = [_measure(options) for _ in range(options.tries)]
        stored[_PYTHON] = {name: round(statistics.median(one[name] for one in found), 4) for name in found[0]}
        BASELINE.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")
        print(f"stored as the baseline of Python {_PYTHON}")
        return True
    baseline = stored.get(_PYTHON)
    if baseline is None:
        print(f"guard: no baseline for Python {_PYTHON} (there are: {', '.join(stored)}); nothing was compared")
        return True
    best = _measure(options)
    for _ in range(1, options.tries):
        if not _worse(best, baseline, options.worse):
            break
        again = _measure(options)
        best = {name: min(best[name], again[name]) for name in best}
    return verdict(best, baseline, options.worse)


def _worse(found: dict[str, float], baseline: dict[str, float], limit: float) -> list[str]:
    return [name for name, value in found.items() if value > baseline.get(name, value) * (1 + limit)]


def verdict(found: dict[str, float], baseline: dict[str, float], limit: float) -> bool:
    """Print what was found beside the baseline; say whether nothing is worse by more than `limit`, a part of it."""
    worse = _worse(found, baseline, limit)
    print(f"{'guard':<42}{'now':>10}{'baseline':>10}{'change':>9}")
    for name, value in found.items():
        known = baseline.get(name)
        change = "new" if known is None else f"{value / known - 1:+.0%}" if known else f"{value:+.0f}"
        print(f"{name:<42}{value:>10.3f}{known or 0:>10.3f}{change:>9}{'  WORSE' if name in worse else ''}")
    if worse:
        print(
            f"more than {limit:.0%} worse than benchmarks/baseline.json: {', '.join(worse)}. Find the cause "
            "(python -m benchmarks cost); if it is wanted, say why and store it: python -m benchmarks guard --store"
        )
    elif any(value < baseline.get(name, value) * (1 - limit) for name, value in found.items()):
        print("much better than the baseline: store it, so that it is kept: python -m benchmarks guard --store")
    return not worse


def _measure(options: argparse.Namespace) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="sagalog-guard-") as folder:
        file = SqliteJournal(Path(folder) / "guard.db")
        sagas: list[type[Saga[Any]]] = [OrderSaga, ShadowSaga] if options.plant else [OrderSaga]
        steps = _CALLERS * _ORDERS * 5
        beside = str(Path(folder) / "fixed.db")
        pairs = options.pairs
        found = {
            "step in memory, ratio": _ratio(lambda: asyncio.run(_orders(InMemoryJournal(), sagas)), pairs) / steps,
            "step on SQLite, ratio": _ratio(lambda: asyncio.run(_orders(file, sagas)), pairs, beside) / steps,
            "event of a hot instance, ratio": _ratio(lambda: asyncio.run(_hot()), pairs) / _HOT,
        }
        found = {name: ratio * 1000 for name, ratio in found.items()}
        asyncio.run(file.close())
    exact = asyncio.run(_exact(sagas))
    return {**found, **exact, **_imported()}


def _ratio(work: Callable[[], object], pairs: int, file: str = ":memory:") -> float:
    """Return the processor time of `work` in units of the fixed work, done on the same kind of file."""
    times: list[tuple[float, float]] = []
    # Threads take turns only where one waits. So the writer's batches are the same however busy the machine is; otherwise
    # a loop that the machine has kept waiting gives up Python's lock, and the writer finds half a batch.
    sys.setswitchinterval(60)
    gc.set_threshold(50_000, 20, 50)
    work()
    fixed_work(file)
    for _ in range(pairs):
        gc.collect()
        begun = time.process_time()
        work()
        between = time.process_time()
        fixed_work(file)
        times.append((between - begun, time.process_time() - between))
    of_pairs = statistics.median(mine / fixed for mine, fixed in times)
    of_best = min(mine for mine, _ in times) / min(fixed for _, fixed in times)
    return min(of_pairs, of_best)


@dataclass
class _Fixed:
    name: str
    number: int
    parts: tuple[str, ...]


_encode, _decode = msgspec.json.Encoder().encode, msgspec.json.Decoder(_Fixed).decode


def fixed_work(file: str) -> None:
    """Do what costs the same in every version of this project. Never change it: every stored ratio builds on it.

    In a file it waits for the disk as often as steps do, and finds as cold a cache when others ran meanwhile.
    """
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("DROP TABLE IF EXISTS kept")
    connection.execute("CREATE TABLE kept (id TEXT PRIMARY KEY, number INTEGER, payload BLOB) WITHOUT ROWID")

    def numbers(count: int) -> Iterator[int]:
        for number in range(count):  # noqa: UP028 (see above)
            yield number

    async def passed(value: _Fixed) -> _Fixed:
        return value

    async def rounds() -> None:
        loop = asyncio.get_running_loop()
        kept: dict[str, _Fixed] = {}
        for start in range(0, 2000, 100):
            rows = []
            for number in numbers(100):
                future: asyncio.Future[int] = loop.create_future()
                loop.call_soon(future.set_result, number)
                name = f"fixed-{start + await future}"
                value = await passed(_Fixed(name, number, (name, f"{number}/{start}")))
                again = _decode(_encode(value))
                kept[again.name] = again
                rows.append((again.name, again.number, _encode(again)))
            connection.execute("BEGIN")
            connection.executemany("INSERT INTO kept VALUES (?, ?, ?)", rows)
            connection.execute("COMMIT")

    asyncio.run(rounds())
    connection.close()


_fresh = count(10**6)  # orders, all of the same length


async def _orders(journal: Journal, sagas: list[type[Saga[Any]]]) -> None:
    async with SagaRunner(journal, sagas=sagas, dispatch=lambda command: None) as runner:
        numbers = islice(_fresh, _CALLERS * _ORDERS)

        async def caller() -> None:
            for _ in range(_ORDERS):
                order = f"order-{next(numbers)}"
                for index, event in enumerate(EVENTS):
                    await runner.handle(event(order), message_id=f"{order}/{index}")

        await asyncio.gather(*(caller() for _ in range(_CALLERS)))


_HOT = 1000


async def _hot() -> None:
    async with InMemoryJournal() as journal, SagaRunner(journal, sagas=[CounterSaga]) as runner:
        await runner.handle_many(Incoming(Ticked("only"), f"tick-{n}") for n in range(_HOT))


async def _exact(sagas: list[type[Saga[Any]]]) -> dict[str, float]:
    """Count the records of one order, and their bytes: the same each time."""
    journal = InMemoryJournal()
    async with SagaRunner(journal, sagas=sagas, dispatch=lambda command: None) as runner:
        for index, event in enumerate(EVENTS):
            await runner.handle(event("order-1"), message_id=f"order-1/{index}")
        await runner.settle()
        saves = runner.counters.saves
    sizes = [len(record.payload) async for _, record in journal.events_by_tag("saga::order")]
    return {"records of an order": float(saves), "bytes of a record": statistics.mean(sizes)}


def _imported() -> dict[str, float]:
    """Compare the import of sagalog with that of what it is made of; no driver or extra may come with it.

    From bytecode, as an installed package is imported: without it, compiling the source would be most of what is found.
    """
    here = {**os.environ, "PYTHONHASHSEED": "0"}
    here.pop("PYTHONDONTWRITEBYTECODE", None)
    code = "import time; t = time.process_time(); import {}; print(time.process_time() - t)"
    times: dict[str, list[float]] = {"sagalog": [], "asyncio, msgspec, inspect, logging": []}
    with tempfile.TemporaryDirectory(prefix="sagalog-guard-") as folder:
        here["PYTHONPYCACHEPREFIX"] = folder
        for _ in range(9):  # the first one compiles, and is not the least
            for modules, found in times.items():
                done = subprocess.run(
                    [sys.executable, "-c", code.format(modules)], check=True, capture_output=True, text=True, env=here
                )
                found.append(float(done.stdout))
    drivers = f"import sys, sagalog; print(sum(name in sys.modules for name in {_DRIVERS!r}))"
    done = subprocess.run([sys.executable, "-c", drivers], check=True, capture_output=True, text=True, env=here)
    ours, fixed = (min(found) for found in times.values())
    return {"import from bytecode, ratio": ours / fixed, "drivers that the import brings": float(done.stdout)}
