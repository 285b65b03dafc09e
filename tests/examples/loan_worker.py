"""One of several workers on the loan log: lines of the log on standard input, their numbers on standard output.

Its last line may be `end <moment>`: then this one lets the timers up to there fire, and prints the report.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import datetime

from examples.loans import read, report, runner


async def main(url: str) -> None:
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    async def one(number: str, line: str) -> None:
        incoming = read(json.loads(line))
        await working.handle(incoming.event, message_id=incoming.message_id, at=incoming.at)
        print(number, flush=True)

    async with runner.using(journal=url) as working:
        print("ready", flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            number, _, rest = line.partition(" ")
            if number == "end":
                await asyncio.gather(*tasks)
                working.clock.advance_to(datetime.fromisoformat(rest.strip()))  # type: ignore[attr-defined]
                await working.settle()
                print(await report(working), flush=True)
                return
            task = loop.create_task(one(number, rest))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)


asyncio.run(main(sys.argv[1]))
