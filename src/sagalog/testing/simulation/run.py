"""One simulated run: workers on one journal, a world that sends events to any of them, and everything that goes wrong.

seed ─► VirtualLoop: world ─► workers (the real SagaRunner) ─► FaultyJournal ─► Ledger ─► verdict

While events are sent, and for some time after, anything may go wrong. Then there is peace, and everything that was
begun has to come to its end.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections import Counter
from collections.abc import Coroutine
from contextvars import copy_context
from datetime import datetime, timedelta
from typing import Any

from ...definition.saga import Saga
from ...errors import (
    JournalUnavailableError,
    NoInstanceError,
    OutcomeUnknownError,
    RunnerStoppedError,
    SagalogError,
    SagaParkedError,
    TooManyKeptError,
    UnexpectedEventError,
)
from ...runner import NoInstance, RetryPolicy, RunnerSettings
from .asking import Askers
from .branches import branches_of
from .chance import SENDING_FAULTS, Chance, Without
from .clock import EPOCH
from .ledger import Landed, Ledger
from .loop import VirtualLoop
from .operator import Operator
from .outside import KNOWN, Outside
from .peace import Peace
from .trouble import Trouble
from .verdict import judge
from .worker import Worker
from .world import World

_WORKERS = 2
_PATIENCE = 20.0  # seconds, of a sender, before it sends again
_TRIES = 5  # of a sender that is told that there is no instance


class Run:
    """Everything about one seed. `story` is what happened, a line each."""

    def __init__(self, sagas: list[Saga[Any]], world: World, seed: int, without: Without = Without()) -> None:  # noqa: B008
        self.sagas = sagas
        self.world = world
        self.without = without
        self.chance = Chance(seed, without)
        self.settings = _settings(world, self.chance.random)
        self.story: list[str] = []
        self.counters: Counter[str] = Counter()
        self.branches: dict[str, dict[str, int]] = {}
        self.events = 0
        self.days = 0.0
        self.skew = 0.0  # seconds that a clock was wrong, at most
        self.away_until = 0.0  # of the command handlers
        self.raising: dict[tuple[str, type], float] = {}  # event handlers that fail, and until when
        self.workers: list[Worker] = []  # that senders turn to
        self._all_workers: list[Worker] = []  # what dead ones wait for must not be collected as garbage meanwhile
        self._ticks = itertools.count(1)
        self._names = itertools.count(1)
        self._wrong: BaseException | None = None

    def tick(self) -> int:
        """Return the next number: it orders what happens."""
        return next(self._ticks)

    def tell(self, what: str) -> None:
        """Add a line to the story."""
        self.story.append(f"{asyncio.get_running_loop().time():>12.3f}  {what}")

    def blame(self, what: str) -> None:
        """Something is wrong: the run ends."""
        self.give_up(AssertionError(what))

    def give_up(self, error: BaseException) -> None:
        """End the run with that error, unless there was one before."""
        self._wrong = self._wrong or error
        self._over.set()

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
        self._over = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.outside = Outside(self.tick)
        ours = copy_context()  # what follows from a write is not done by the worker that wrote, which may be dead
        self.ledger = Ledger(self.tick, lambda one: ours.run(self._landed, one), lambda at: ours.run(self._due, at))
        self.operator = Operator(self)
        self.askers = Askers(self)
        work = asyncio.ensure_future(self._live())
        over = asyncio.ensure_future(self._over.wait())
        await asyncio.wait([work, over], return_when=asyncio.FIRST_COMPLETED)
        if self._wrong is not None:
            raise self._wrong
        await work

    async def _live(self) -> None:
        for _ in range(_WORKERS):
            await self.start_worker()
        trouble = Trouble(self)
        sending: list[asyncio.Task[None]] = []
        for number, event in enumerate(self.world.events(self.chance.random)):
            if isinstance(event, (int, float)):
                await trouble.during(event)
            elif number not in self.without.events:
                self.events = number + 1
                sending.append(self.spawn(self._send(event, f"m{number}")))
                await asyncio.sleep(self.chance.upto(0.05))
                trouble.strike()
        peace = Peace(self, trouble)
        await peace.wait_for(sending)
        await peace.settle()
        self.days = asyncio.get_running_loop().time() / 86_400
        await peace.outlive_retention()
        for worker in self.workers:
            worker.count()
        self.branches = branches_of(self.sagas, self.ledger)
        judge(self)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something beside; what it raises ends the run."""

        async def guarded() -> None:
            try:
                await work
            except Exception as error:
                self.give_up(error)

        task = asyncio.ensure_future(guarded())
        self._tasks.append(task)
        return task

    async def start_worker(self) -> None:
        """Start another worker; if it dies, one more takes its place."""
        worker = Worker(self, f"worker {next(self._names)}")
        await worker.does(worker.runner.start())
        self.workers.append(worker)
        self._all_workers.append(worker)
        self.spawn(self._replace(worker))

    async def _replace(self, worker: Worker) -> None:
        await worker.condition.dead.wait()
        self.retire(worker)
        await asyncio.sleep(self.chance.upto(5))
        await self.start_worker()

    def retire(self, worker: Worker) -> None:
        """Senders do not turn to this worker any more."""
        if worker in self.workers:
            self.workers.remove(worker)
            worker.count()

    def _landed(self, landed: Landed) -> None:
        persistence_id = landed.message.persistence_id
        if landed.record is not None and landed.record.parked:
            self.tell(f"{persistence_id} is parked: {landed.record.parked}")
        if self.operator.needs_repair(persistence_id):
            self.operator.notice(persistence_id)

    def _due(self, moment: datetime) -> None:
        for worker in self.workers:
            worker.poll_at((moment - EPOCH).total_seconds())

    async def _send(self, event: Any, message_id: str) -> None:
        """Send an event until it is accepted, as a broker does: to any worker, and again where no answer comes."""
        fault = self.chance.strikes(SENDING_FAULTS)
        if fault == "delivery late":
            await asyncio.sleep(self.chance.upto(30))
        patience = self.chance.upto(0.1) if fault == "sender does not wait" else _PATIENCE
        copies = 2 if fault == "delivered twice" else 1
        await asyncio.gather(*(self._deliver(event, message_id, patience) for _ in range(copies)))
        if fault == "delivered again, later":
            await asyncio.sleep(self.chance.upto(100))
            await self._deliver(event, message_id, _PATIENCE)

    async def _deliver(self, event: Any, message_id: str, patience: float) -> None:
        lost, pause = 0, 0.5
        while lost < _TRIES:
            if not self.workers:
                await asyncio.sleep(0.5)
                continue
            worker = self.chance.random.choice(self.workers)
            sent = self.outside.attempt(message_id, event, worker.name)
            try:
                receipt = await asyncio.wait_for(
                    worker.does(worker.runner.handle(event, message_id=message_id)), patience
                )
            except (
                JournalUnavailableError,
                NoInstanceError,
                OutcomeUnknownError,
                RunnerStoppedError,
                SagaParkedError,
                TimeoutError,
                TooManyKeptError,
                UnexpectedEventError,
            ) as error:
                lost += isinstance(error, (NoInstanceError, TooManyKeptError, UnexpectedEventError))
                patience = _PATIENCE
                self.tell(
                    f"{message_id} {type(event).__name__} is not accepted by {worker.name}: {type(error).__name__}"
                )
                pause = min(pause * 2, 10.0)
                await asyncio.sleep(self.chance.upto(pause))
                continue
            said = ", ".join(outcome.value for outcome in receipt.outcomes.values())
            self.tell(f"{message_id} {event!r} is accepted by {worker.name}: {said}")
            self.outside.told(sent, receipt)
            if known := [name for name, outcome in receipt.outcomes.items() if outcome in KNOWN]:
                self.askers.may_ask(known, event, message_id)
            return


def _settings(world: World, draw: random.Random) -> RunnerSettings:
    waits = NoInstance(world.no_instance) is NoInstance.WAIT
    return RunnerSettings(
        # Polls that find nothing are left out (see LoopClock); but events that wait for a starting one need them.
        due_poll_seconds=5.0 if waits else 86_400.0,
        outcome_poll_seconds=5.0,
        handler_retry=RetryPolicy(attempts=5, base_seconds=0.1, cap_seconds=5.0),
        dispatch_retry=RetryPolicy(attempts=draw.choice([None, 8]), base_seconds=0.1, cap_seconds=5.0),
        retention=draw.choice([timedelta(days=7), timedelta(hours=1)]),
        cache_size=draw.choice([20_000, 1]),
        max_batch=draw.choice([256, 256, 1]),
        no_instance=world.no_instance,
    )
