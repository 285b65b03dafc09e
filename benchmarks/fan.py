"""Many legs into one join: each leg is an instance of its own, whose command brings an event back to the one that counts.

The time is from the first leg's start until the join has counted all and its last command is out.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sagalog import Action, Complete, Incoming, Saga, SagaRunner, Send, on, starts

from .report import Case, Column, Figures
from .servers import JOURNALS, server, version_of

COLUMNS: list[Column] = [
    ("journal", "journal", "s"),
    ("legs", "legs", ",d"),
    ("seconds", "seconds", ".2f"),
    ("spread", "seconds", "spread"),
    ("legs/s", "legs_per_second", ",.0f"),
    ("saves", "saves", ",.0f"),
]


@dataclass
class LegStarted:
    leg: str


@dataclass
class Work:
    leg: str


@dataclass
class LegDone:
    join: str


@dataclass
class JoinOpened:
    join: str
    legs: int


@dataclass
class Announce:
    join: str


@dataclass
class Leg:
    started: bool = False


@dataclass
class Join:
    legs: int = 0
    done: int = 0


class LegSaga(Saga[Leg]):
    name = "leg"

    @starts(LegStarted, key="leg")
    def started(self, state: Leg, event: LegStarted) -> Iterator[Action]:
        state.started = True
        yield Send(Work(event.leg))
        yield Complete()


class JoinSaga(Saga[Join]):
    name = "join"

    @starts(JoinOpened, key="join")
    def opened(self, state: Join, event: JoinOpened) -> None:
        state.legs = event.legs

    @on(LegDone, key="join")
    def counted(self, state: Join, event: LegDone) -> Iterator[Action]:
        state.done += 1
        if state.done == state.legs:
            yield Send(Announce(event.join))
            yield Complete()


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--journal", choices=JOURNALS, nargs="+", default=["sqlite"])
    parser.add_argument("--legs", type=int, default=10_000)


def cases(options: argparse.Namespace) -> list[Case]:
    return [{"journal": journal, "legs": options.legs} for journal in options.journal]


def measure(case: Case) -> Figures:
    with tempfile.TemporaryDirectory(prefix="sagalog-bench-") as folder, server(case["journal"], Path(folder)) as url:
        return asyncio.run(_measure(url, case["legs"]))


async def _measure(url: str, legs: int) -> Figures:
    joined = asyncio.Event()

    def announce(command: Announce) -> None:
        joined.set()

    async def work(command: Work) -> LegDone:
        return LegDone("only")

    dispatch: dict[type, Callable[..., Any]] = {Work: work, Announce: announce}
    async with SagaRunner(url, sagas=[LegSaga, JoinSaga], dispatch=dispatch) as runner:
        await runner.handle(JoinOpened("only", legs))
        saves = runner.counters.saves
        begun = time.perf_counter()
        await runner.handle_many(Incoming(LegStarted(f"leg-{n}"), f"leg-{n}") for n in range(legs))
        await joined.wait()
        elapsed = time.perf_counter() - begun
        saves = runner.counters.saves - saves
        version = await version_of(url)
    return {"seconds": elapsed, "legs_per_second": legs / elapsed, "saves": saves, "server": version}
