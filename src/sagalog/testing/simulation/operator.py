"""The operator: looks after parked instances, as people do, some time later."""

from __future__ import annotations

import asyncio

from ...decision.entries import Status
from ...decision.ids import parts_of
from ...errors import SagalogError
from .crew import Crew
from .situation import Situation

_PATIENCE = 30.0  # seconds
_MAX_IN_PEACE = 3  # repairs of one instance when nothing goes wrong any more: then it is its saga that fails


class Operator:
    """Repairs each instance that is parked or could not compensate, in the ways that the world names."""

    def __init__(self, run: Situation, crew: Crew) -> None:
        self._run = run
        self._crew = crew
        self.busy: set[str] = set()  # persistence ids
        self._tasks: set[asyncio.Task[None]] = set()

    def notice(self, persistence_id: str) -> None:
        """A record says that its instance needs a repair."""
        if persistence_id not in self.busy and self._run.world.repairs:
            self.busy.add(persistence_id)
            task = asyncio.ensure_future(self._look_after(persistence_id))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def needs_repair(self, persistence_id: str) -> bool:
        """Say whether an instance waits for an operator."""
        newest = self._run.ledger.newest(persistence_id)
        record = None if newest is None else newest.record
        return record is not None and bool(record.parked or record.status is Status.COMPENSATION_FAILED)

    async def _look_after(self, persistence_id: str) -> None:
        run, in_peace, pause = self._run, 0, 30.0
        saga, correlation_id = parts_of(persistence_id)
        while self.needs_repair(persistence_id) and in_peace < _MAX_IN_PEACE:
            await asyncio.sleep(run.chance.upto(pause))
            pause = min(pause * 2, 3600.0)  # seconds
            if not self._crew.workers:
                continue
            in_peace += run.chance.quiet
            repair = run.chance.random.choice(run.world.repairs)
            worker = run.chance.random.choice(self._crew.workers)
            worker.repairing += 1
            repairing = getattr(worker.runner, repair)(saga, correlation_id, note="simulated")
            try:
                done = await asyncio.wait_for(worker.does(repairing), _PATIENCE)
            except (SagalogError, TimeoutError) as error:
                run.tell(f"the operator's {repair} of {persistence_id} fails: {type(error).__name__}")
                continue
            finally:
                worker.repairing -= 1
            run.outside.repairs[repair] += 1
            status = "parked" if done.parked else done.status.value
            run.tell(f"the operator repairs {persistence_id} by {repair}: it is {status}")
        self.busy.discard(persistence_id)
