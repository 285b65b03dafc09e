"""One simulated run: workers on one journal, a world that sends events to any of them, and everything that goes wrong.

seed ─► VirtualLoop: world ─► workers (the real SagaRunner) ─► FaultyJournal ─► Ledger ─► verdict

While events are sent, and for some time after, anything may go wrong. Then there is peace, and everything that was
begun has to come to its end.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from contextvars import copy_context
from datetime import datetime
from typing import Any

from ...decision.ids import parts_of
from ...decision.record import SagaRecord
from ...definition.saga import Saga
from ...errors import SagalogError
from .asking import Askers
from .branches import branches_of
from .chance import Without
from .clock import EPOCH
from .crew import Crew
from .ledger import Landed, Ledger
from .loop import VirtualLoop
from .operator import Operator
from .outside import Outside
from .pausing import Pausing
from .peace import Peace
from .sending import Senders
from .situation import Situation
from .trouble import Trouble
from .verdict import judge
from .world import World

_WORKERS = 2
_ATTEMPTS = re.compile("not accepted in ([0-9]+) attempts")


class SimulatedRun(Situation):
    """Everything about one seed."""

    def __init__(self, sagas: list[Saga[Any]], world: World, seed: int, without: Without = Without()) -> None:  # noqa: B008
        super().__init__(sagas, world, seed, without)
        self.branches: dict[str, dict[str, int]] = {}
        self.events: int = 0
        self.days: float = 0.0
        self.crew: Crew = Crew(self)

    def execute(self) -> AssertionError | SagalogError | None:
        """Run it; return what is wrong, or None."""
        random.seed(self.chance.random.random())  # what the runner itself draws: pauses
        logger = logging.getLogger("sagalog")
        level = logger.level
        logger.setLevel(logging.CRITICAL + 1)
        loop = VirtualLoop()
        try:
            asyncio.set_event_loop(loop)
            loop.run_until_complete(self._main())
            return None
        except (AssertionError, SagalogError) as error:
            return error
        finally:
            told = len(self.story)
            loop.ending = True
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            loop.close()
            asyncio.set_event_loop(None)
            logger.setLevel(level)  # not by its attribute: loggers remember what is enabled
            del self.story[told:]

    async def _main(self) -> None:
        self.over: asyncio.Event = asyncio.Event()
        self.outside: Outside = Outside(self.tick)
        ours = copy_context()  # what follows from a write is not done by the worker that wrote, which may be dead
        self.ledger: Ledger = Ledger(
            self.tick,
            lambda one: ours.run(self._landed, one),
            lambda at: ours.run(self._due, at),
            lambda: ours.run(self._due, EPOCH),
        )
        self._operator = Operator(self, self.crew)
        self._askers = Askers(self, self.crew)
        work = asyncio.ensure_future(self._live())
        over = asyncio.ensure_future(self.over.wait())
        await asyncio.wait([work, over], return_when=asyncio.FIRST_COMPLETED)
        if self.wrong is not None:
            raise self.wrong
        await work

    async def _live(self) -> None:
        for _ in range(_WORKERS):
            await self.crew.start_worker()
        for _ in range(self.world.clients):
            await self.crew.start_worker(client=True)
        trouble = Trouble(self, self.crew)
        senders = Senders(self, self.crew, self._askers)
        pausing = Pausing(self, self.crew)
        pausing.begin()
        sending: list[asyncio.Task[None]] = []
        for number, event in enumerate(self.world.events(self.chance.random)):
            if isinstance(event, (int, float)):
                await trouble.during(event)
            elif number not in self.without.events:
                self.events = number + 1
                sending.append(self.spawn(senders.send(event, f"m{number}")))
                await asyncio.sleep(self.chance.upto(0.05))
                trouble.strike()
        peace = Peace(self, self._operator, trouble)
        await peace.wait_for(sending)
        await pausing.end()
        await peace.settle()
        self.days = asyncio.get_running_loop().time() / 86_400
        await peace.outlive_retention()
        for worker in self.crew.workers:
            worker.count()
        self.branches = branches_of(self.sagas, self.ledger)
        judge(self, self._askers)

    def _landed(self, landed: Landed) -> None:
        persistence_id = landed.message.persistence_id
        if landed.wrong:
            self.blame(f"{persistence_id}#{landed.message.sequence_nr} cannot be read whole: {landed.wrong}")
        if landed.record is not None:
            ended = landed.message.deleted
            told = set() if ended else set(landed.record.terms(parts_of(persistence_id)[0]))
            if told != self.ledger.found_by(persistence_id):
                self.blame(
                    f"{persistence_id}#{landed.message.sequence_nr} is found by other terms than its record says"
                )
        if landed.record is not None and landed.record.parked:
            self.tell(f"{persistence_id} is parked: {landed.record.parked}")
            self._check_attempts(persistence_id, landed.record)
        if self._operator.needs_repair(persistence_id):
            self._operator.notice(persistence_id)

    def _check_attempts(self, persistence_id: str, record: SagaRecord) -> None:
        """What parks for so many attempts was tried so often: waiting counts none.

        What parents and children tell each other reaches no handler outside, so nobody has counted that.
        """
        if any(one.id == record.stuck and one.family for one in record.outbox):
            return
        counted = _ATTEMPTS.search(record.parked)
        tried = self.outside.tried[f"{persistence_id}/{record.stuck}"]
        if counted is not None and record.stuck and tried < int(counted[1]):
            self.blame(f"{persistence_id} is parked after {counted[1]} attempts, and only {tried} were made")

    def _due(self, moment: datetime) -> None:
        for worker in self.crew.workers:
            worker.poll_at((moment - EPOCH).total_seconds())
