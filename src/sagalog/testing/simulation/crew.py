"""The workers of a run: whoever dies is replaced some time later."""

from __future__ import annotations

import asyncio
import itertools

from .situation import Situation
from .worker import Worker


class Crew:
    """`workers` are those that senders turn to."""

    def __init__(self, situation: Situation) -> None:
        self._situation = situation
        self.workers: list[Worker] = []
        self._all_workers: list[Worker] = []  # what dead ones wait for must not be collected as garbage meanwhile
        self._names = itertools.count(1)

    async def start_worker(self, *, client: bool = False) -> None:
        """Start another worker, or client; if it dies, one more takes its place."""
        name = f"{'client' if client else 'worker'} {next(self._names)}"
        worker = Worker(self._situation, name, client=client)
        await worker.does(worker.runner.start())
        self.workers.append(worker)
        self._all_workers.append(worker)
        self._situation.spawn(self._replace(worker))

    async def _replace(self, worker: Worker) -> None:
        await worker.condition.dead.wait()
        self.retire(worker)
        await asyncio.sleep(self._situation.chance.upto(5))
        await self.start_worker(client=worker.runner.client)

    def retire(self, worker: Worker) -> None:
        """Senders do not turn to this worker any more."""
        if worker in self.workers:
            self.workers.remove(worker)
            worker.count()
