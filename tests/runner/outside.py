"""What an operator does from outside a worker, and instances in need of it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial
from typing import Any

from sagalog import ManualClock, RetryPolicy
from sagalog.operating.apply import apply as apply_repair

from ..orders import Failing, OrderSaga, Placed
from .conftest import Bench

# Its clock is the bench's: an operator's and a worker's agree, as those of a server do.
apply = partial(apply_repair, now=ManualClock().now())


async def park(bench: Bench, runner: Any, *later: Any, fails: int = 3) -> None:
    """Park order a with the event `bad`, and let `later` be held behind it."""
    OrderSaga.fail_times = fails
    await runner.handle(Placed("a"))
    await runner.settle()
    assert (await runner.handle(Failing("a"), message_id="bad")).held
    for number, event in enumerate(later):
        assert (await runner.handle(event, message_id=f"h{number}")).held


def journal(bench: Bench) -> Any:
    assert bench.journal is not None
    return bench.journal


async def stick(bench: Bench, command: type, *events: Any) -> Any:
    """Let `command` fail until it parks order a; return the runner, started."""
    bench.world.fail = {command: 2}
    runner = bench.runner(
        dispatch_retry=RetryPolicy(attempts=2, base=timedelta(milliseconds=1), cap=timedelta(milliseconds=1))
    )
    await runner.start()
    for event in events:
        await runner.handle(event)
    while runner.counters.parked == 0:
        await asyncio.sleep(0.001)
    await runner.settle()
    assert (await bench.record("a")).stuck
    return runner
