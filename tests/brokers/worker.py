"""A worker between two places of a broker, to be killed at the n-th passing of a point.

python -m tests.brokers.worker KIND INSIDE OUTSIDE FOLDER POINT N
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from sagalog import RetryPolicy, RunnerSettings, SagaRunner, SqliteJournal
from sagalog.brokers import SinkMessage, SourceMessage, Subscription
from sagalog.runner.attached import Attached

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


class Killer:
    def __init__(self, point: str, left: int) -> None:
        self.point = point
        self.left = left

    def here(self, point: str) -> None:
        if point == self.point:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def trap(made: SagaRunner, killer: Killer) -> None:
    """Put the killer where things happen."""
    attached: Any = made._attached
    take = Attached.take

    async def taking(self: Attached, *given: Any) -> Any:
        killer.here("before the step")
        receipt = await take(self, *given)
        killer.here("after the step")
        return receipt

    Attached.take = taking  # type: ignore[method-assign]
    reading = attached.subscriptions[0].source
    accept = reading.accept

    async def accepting(messages: Sequence[SourceMessage]) -> None:
        await accept(messages[: len(messages) // 2])
        killer.here("in the acknowledgement")
        await accept(messages[len(messages) // 2 :])
        killer.here("after the acknowledgement")

    reading.accept = accepting
    (publication,) = attached._publications.values()
    send = publication.sink.send

    async def sending(message: SinkMessage) -> None:
        killer.here("before the send")
        await send(message)
        killer.here("after the send")

    publication.sink.send = sending


async def main(kind: str, inside: str, outside: str, folder: str, point: str = "", left: str = "0") -> None:
    made = runner(kind, inside, outside, Path(folder))
    trap(made, Killer(point, int(left)))
    async with made:
        (Path(folder) / f"ready-{os.getpid()}").touch()
        await made.serve()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
