"""The loan log on four workers, the events of each case on different ones: the figures are those of one worker."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import random
import sys
from asyncio.subprocess import PIPE, Process
from collections import defaultdict, deque
from collections.abc import Sequence
from pathlib import Path

import pytest

from .test_loans import FULL, ROOT, SMALL, expected

WORKERS = 4
IN_FLIGHT = 400


async def start(url: str) -> Process:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.examples.loan_worker", url), cwd=ROOT, stdin=PIPE, stdout=PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    return process


async def run_shared(url: str, log: Path) -> str:
    """Send each event to any worker as soon as the one before it of the same case is accepted."""
    chance = random.Random(7)
    with gzip.open(log, "rt") as opened:
        lines = opened.readlines()
    workers = [await start(url) for _ in range(WORKERS)]
    waiting: dict[str, deque[int]] = defaultdict(deque)  # by case: the numbers of its lines, the first is under way
    case_of = [json.loads(line)["case"] for line in lines]
    free = asyncio.Semaphore(IN_FLIGHT)

    def send(number: int) -> None:
        worker = chance.choice(workers)
        assert worker.stdin is not None
        worker.stdin.write(f"{number} {lines[number].strip()}\n".encode())

    async def listen(worker: Process) -> None:
        assert worker.stdout is not None
        while answer := await worker.stdout.readline():
            if not answer.strip().isdigit():
                return
            free.release()
            queue = waiting[case_of[int(answer)]]
            queue.popleft()
            if queue:
                send(queue[0])

    listening = [asyncio.create_task(listen(worker)) for worker in workers]
    for number, case in enumerate(case_of):
        await free.acquire()
        assert all(worker.returncode is None for worker in workers), "a worker ended"
        waiting[case].append(number)
        if len(waiting[case]) == 1:
            send(number)
    for _ in range(IN_FLIGHT):
        await free.acquire()
    for task in listening:
        task.cancel()
    await asyncio.gather(*listening, return_exceptions=True)
    return await reported(workers, lines)


async def reported(workers: Sequence[Process], lines: Sequence[str | bytes]) -> str:
    """Return what the first worker reports at the end of the log, once the others have stopped."""
    for worker in workers[1:]:
        assert worker.stdin is not None
        worker.stdin.close()
    assert [await worker.wait() for worker in workers[1:]] == [0] * (len(workers) - 1)
    said, _ = await workers[0].communicate(f"end {max(json.loads(line)['at'] for line in lines)}\n".encode())
    assert workers[0].returncode == 0
    return said.decode().strip()


@pytest.mark.parametrize("engine", ["sqlite", "postgres", "nats"])
async def test_four_workers_print_what_one_prints(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    log = FULL if os.environ.get("SAGALOG_TEST_LOANS") == "all" else SMALL
    if engine == "sqlite":
        url = f"sqlite:///{tmp_path}/loans.db"
    else:
        url = request.getfixturevalue({"postgres": "postgres_schema", "nats": "nats_stream"}[engine])
    assert await run_shared(url, log) == expected(log)
