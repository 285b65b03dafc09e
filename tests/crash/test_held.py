"""kill -9 again and again while a parked instance holds events: each that was accepted is handled once, in order."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from pathlib import Path

from sagalog import RetryPolicy, RunnerSettings, SagaRunner, open_journal
from sagalog.decision.record import decode_record

from ..orders import Failing, Noted, OrderSaga, OrderState, Placed, World

KILLS = 3 * int(os.environ.get("SAGALOG_CRASH_KILLS", "1"))
TEXT = "x" * 200
CHILD = f"""
import asyncio, itertools, sys
from tests.orders import Noted, OrderSaga
from sagalog import SagaRunner

url, first = sys.argv[1:]

async def main():
    async with SagaRunner(url, sagas=[OrderSaga], dispatch=lambda command: None) as runner:
        for number in itertools.count(int(first)):
            receipt = await runner.handle(Noted("a", f"{{number}} {TEXT}"), message_id=f"note-{{number}}")
            assert receipt.held or receipt.duplicate, receipt
            print(number, flush=True)

asyncio.run(main())
"""


async def test_what_is_held_survives_the_death_of_each_worker_that_holds_it(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    url = f"sqlite:///{tmp_path / 'orders.db'}"
    await _park(url)
    told = -1  # the ledger: the last event that a worker was told to be accepted, outside of the journal
    for _ in range(KILLS):
        told = await _hold_until_killed(url, told + 1, chance.randrange(60, 120))
    async with open_journal(url) as journal:
        newest = await journal.latest_message("saga::order::a")
        assert newest is not None
        assert decode_record(newest.payload).held_in, "so few were held that nothing of this was tried"
    OrderSaga.fail_times = 0
    async with SagaRunner(url, sagas=[OrderSaga], dispatch=World()) as runner:
        for number in range(told + 1):
            assert (await runner.handle(Noted("a", "again"), message_id=f"note-{number}")).duplicate
        await runner.retry("order", "a")
        await runner.settle()
        state: OrderState = await runner.state(OrderSaga, "a")
    handled = [int(line.partition(" ")[0]) for line in state.log if TEXT in line]
    assert handled == list(range(len(handled))), "in their order, each once"
    assert told < len(handled) <= told + 2, "all that were accepted, and the one that was on its way at most"


async def _park(url: str) -> None:
    OrderSaga.fail_times, OrderSaga.calls = 9, []
    settings = RunnerSettings(handler_retry=RetryPolicy(attempts=1))
    async with SagaRunner(url, sagas=[OrderSaga], dispatch=World(), settings=settings) as runner:
        await runner.handle(Placed("a"), message_id="placed")
        assert (await runner.handle(Failing("a"), message_id="failing")).held


async def _hold_until_killed(url: str, first: int, count: int) -> int:
    """Let a worker hold events, and kill it when it has told of so many; return the last one that it told of."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CHILD, url, str(first)),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdout is not None
    for _ in range(count):
        assert await child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    rest = await child.stdout.read()
    await child.wait()
    lines = rest.split(b"\n")[:-1]  # what it has told of meanwhile
    return first + count - 1 + len(lines)
