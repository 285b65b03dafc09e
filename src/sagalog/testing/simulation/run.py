"""One simulated run: workers on one journal, a world that sends events to any of them, and everything that goes wrong.

seed ─► VirtualLoop: world ─► workers (the real SagaRunner) ─► FaultyJournal ─► verdict
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from datetime import timedelta
from typing import Any

from ...errors import CommandRefused, JournalUnavailableError, OutcomeUnknownError, RunnerStoppedError
from ...journal.memory import InMemoryJournal
from ...runner import CommandContext, RetryPolicy, RunnerSettings, SagaRunner
from ...saga import Saga
from .faults import EPOCH, Chance, FaultyJournal, Health, LoopClock
from .loop import VirtualLoop
from .verdict import Delivered, Verdict
from .world import World

_WORKERS = 2
HANDLER_FAULTS = ("handler fails", "handler fails after it did it", "dies in a command handler", "handler slow")
_PATIENCE = 20.0  # seconds, of a sender, before it sends again
SETTINGS = RunnerSettings(
    due_poll_seconds=30.0,
    handler_retry=RetryPolicy(attempts=5, base_seconds=0.1, cap_seconds=5.0),
    dispatch_retry=RetryPolicy(base_seconds=0.1, cap_seconds=5.0),
    retention=timedelta(days=3650),
)


class Run:
    """Everything about one seed. `story` is what happened, a line each."""

    def __init__(
        self, sagas: list[Saga[Any]], world: World, seed: int, off: frozenset[str], skip: frozenset[int]
    ) -> None:
        self.sagas = sagas
        self.world = world
        self.skip = skip  # events that do not happen, by number
        self.chance = Chance(seed, off, likely=random.Random(seed).choice([0.02, 0.1, 0.3]))
        self.story: list[str] = []
        self.counters: Counter[str] = Counter()
        self.events = 0
        self.days = 0.0

    def tell(self, what: str) -> None:
        """Add a line to the story."""
        self.story.append(f"{asyncio.get_running_loop().time():>12.3f}  {what}")

    def execute(self) -> AssertionError | None:
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
        except AssertionError as error:
            return error
        finally:
            self.days = loop.time() / 86_400
            loop.ending = True
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            loop.close()
            asyncio.set_event_loop(None)
            logger.setLevel(level)  # not by its attribute: loggers remember what is enabled

    async def _main(self) -> None:
        self.journal = InMemoryJournal()
        self.verdict = Verdict(self.sagas, self.journal)
        self.workers: list[_Worker] = []
        self._dead: list[_Worker] = []
        self._number = 0
        for _ in range(_WORKERS):
            await self._start_worker()
        sending: list[asyncio.Task[None]] = []
        for number, event in enumerate(self.world.events(self.chance.random)):
            if isinstance(event, (int, float)):
                await asyncio.sleep(event)
            elif number not in self.skip:
                self.events = number + 1
                sending.append(asyncio.ensure_future(self._send(event, f"m{number}")))
                await asyncio.sleep(self.chance.random.random() * 0.05)
        await asyncio.gather(*sending)
        self.chance.quiet = True
        await self._settle()
        await self.verdict.judge(self.world)
        for worker in self.workers:
            self.counters.update({name: getattr(worker.runner.counters, name) for name in _COUNTED})

    async def _settle(self) -> None:
        """Let time pass until nothing is left to do; workers that died have been replaced by then.

        A day behind the last timer, whatever is left will stay.
        """
        clock, pause = LoopClock(timedelta()), 1.0
        while unfinished := await self.verdict.unfinished():
            if clock.now() > max(EPOCH, *unfinished.values()) + timedelta(days=1):
                raise AssertionError(f"never finished: {', '.join(sorted(unfinished))}")
            await asyncio.sleep(pause)
            pause = min(pause * 2, 3600.0)

    async def _start_worker(self) -> None:
        self._number += 1
        worker = _Worker(self, f"worker {self._number}")
        await worker.runner.start()
        self.workers.append(worker)
        worker.watch = asyncio.ensure_future(self._replace(worker))

    async def _replace(self, worker: _Worker) -> None:
        await worker.health.dead.wait()
        self.workers.remove(worker)
        self._dead.append(worker)  # its tasks wait for ever, and must not be collected as garbage meanwhile
        self.counters.update({name: getattr(worker.runner.counters, name) for name in _COUNTED})
        await asyncio.sleep(self.chance.random.random() * 5)
        await self._start_worker()

    async def _send(self, event: Any, message_id: str) -> None:
        """Send an event until it is accepted, as a broker does: to any worker, and again where no answer comes."""
        draw = self.chance.random
        if self.chance.strikes("delivery late") is not None:
            await asyncio.sleep(draw.random() * 30)
        copies = 2 if self.chance.strikes("delivered twice") is not None else 1
        await asyncio.gather(*(self._deliver(event, message_id) for _ in range(copies)))
        if self.chance.strikes("delivered again, later") is not None:
            await asyncio.sleep(draw.random() * 100)
            await self._deliver(event, message_id)

    async def _deliver(self, event: Any, message_id: str) -> None:
        while True:
            if not self.workers:
                await asyncio.sleep(0.5)
                continue
            worker = self.chance.random.choice(self.workers)
            try:
                receipt = await asyncio.wait_for(worker.runner.handle(event, message_id=message_id), _PATIENCE)
            except (JournalUnavailableError, OutcomeUnknownError, RunnerStoppedError, TimeoutError) as error:
                self.tell(
                    f"{message_id} {type(event).__name__} is not accepted by {worker.name}: {type(error).__name__}"
                )
                await asyncio.sleep(self.chance.random.random())
                continue
            said = ", ".join(outcome.value for outcome in receipt.outcomes.values())
            self.tell(f"{message_id} {event!r} is accepted by {worker.name}: {said}")
            self.verdict.accepted(message_id, event, receipt)
            return


_COUNTED = ("handled", "duplicates", "held", "conflicts", "commands", "refused", "takeovers", "timers", "parked")


class _Worker:
    """A real runner, whose journal and command handlers go wrong."""

    def __init__(self, run: Run, name: str) -> None:
        self.run = run
        self.name = name
        self.watch: asyncio.Task[None] | None = None
        self.health = Health(name, run.tell)
        journal = FaultyJournal(run.journal, run.chance, self.health, run.tell)
        skewed = run.chance.strikes("clock wrong") is not None
        clock = LoopClock(timedelta(seconds=run.chance.random.uniform(-2, 2) if skewed else 0))
        self.runner = SagaRunner(journal, sagas=run.sagas, dispatch=self._answer, clock=clock, settings=SETTINGS)

    async def _answer(self, command: Any, context: CommandContext) -> Any:
        run, chance = self.run, self.run.chance
        await self.health.gate()
        await asyncio.sleep(chance.random.random() * 0.02)
        await self.health.gate()
        fault = chance.strikes(*HANDLER_FAULTS)
        if fault == "handler fails":
            raise ConnectionError("simulated")
        if fault == "handler slow":
            await asyncio.sleep(chance.random.random() * 20)
        answer: Any = None
        refused: CommandRefused | None = None
        known = run.verdict.answers.get(context.id)
        if known is None:  # the receiver knows ids that it has seen
            try:
                answer = run.world.answer(command, chance.random)
            except CommandRefused as error:
                refused = error
            run.verdict.answers[context.id] = (answer, refused)
        else:
            answer, refused = known
        run.tell(
            f"{context.id} {command!r} reaches its handler{' and is refused' if refused else ''}, from {self.name}"
        )
        await run.verdict.delivered(Delivered(context.id, command, context.undo, refused is not None))
        if fault == "handler fails after it did it":
            raise ConnectionError("simulated")
        if fault == "dies in a command handler":
            self.health.die(f"while {context.id} is carried out")
            await self.health.gate()
        if refused is not None:
            raise refused
        return answer
