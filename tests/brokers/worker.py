"""A worker between two places of a broker, to be killed at the n-th passing of a point.

python -m tests.brokers.worker KIND INSIDE OUTSIDE FOLDER POINT N
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from sagalog import RetryPolicy, RunnerSettings, SagaRunner, SqliteJournal
from sagalog.brokers import SinkMessage, SourceMessage, Subscription

from .kinds import sink, source
from .shop import Counted, Ship

POINTS = (
    "before the step",
    "after the step",
    "in the acknowledgement",
    "after the acknowledgement",
    "before the send",
    "after the send",
)
SETTINGS = RunnerSettings(
    lease=timedelta(milliseconds=500),
    due_poll=timedelta(milliseconds=100),
    max_takeovers=1000,  # so short a lease runs out on a busy machine, and nobody has died
    dispatch_retry=RetryPolicy(base=timedelta(milliseconds=10), cap=timedelta(milliseconds=200)),
)


def runner(kind: str, inside: str, outside: str, folder: Path) -> SagaRunner:
    return SagaRunner(
        SqliteJournal(folder / "shop.db"),
        sagas=[Counted],
        sources=[Subscription(source(kind, inside), prefetch=64, most_deliveries=None)],
        sinks={Ship: sink(kind, outside)},
        settings=SETTINGS,
    )


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Trap:
    """Does something when a point is passed for the n-th time."""

    def __init__(self, point: str, left: int, does: Callable[[], None] = kill) -> None:
        self.set(point, left, does)

    def set(self, point: str, left: int, does: Callable[[], None]) -> None:
        self.point, self.left, self.does = point, left, does

    def here(self, point: str) -> None:
        if point == self.point:
            self.left -= 1
            if self.left == 0:
                self.does()


def lay(trap: Trap, made: SagaRunner) -> None:
    """Put the trap where things happen."""
    attached: Any = made._attached
    take = attached.take

    async def taking(*given: Any) -> Any:
        trap.here("before the step")
        receipt = await take(*given)
        trap.here("after the step")
        return receipt

    attached.take = taking
    reading = attached.subscriptions[0].source
    accept = reading.accept

    async def accepting(messages: Sequence[SourceMessage]) -> None:
        await accept(messages[: len(messages) // 2])
        trap.here("in the acknowledgement")
        await accept(messages[len(messages) // 2 :])
        trap.here("after the acknowledgement")

    reading.accept = accepting
    (publication,) = attached._publications.values()
    send = publication.sink.send

    async def sending(message: SinkMessage) -> None:
        trap.here("before the send")
        await send(message)
        trap.here("after the send")

    publication.sink.send = sending


async def main(kind: str, inside: str, outside: str, folder: str, point: str = "", left: str = "0") -> None:
    made = runner(kind, inside, outside, Path(folder))
    lay(Trap(point, int(left)), made)
    async with made:
        (Path(folder) / f"ready-{os.getpid()}").touch()
        await made.serve()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
