"""The operator pauses command types and resumes them, at any time; in the end nothing is paused any more."""

from __future__ import annotations

import asyncio

from ...decision.controls import decode_controls
from ...decision.ids import CONTROLS
from ...definition.schema import schema_of
from ...errors import SagalogError
from .crew import Crew
from .situation import Situation

_PATIENCE = 30.0  # seconds
_LONGEST = 120.0  # seconds of a pause


class Pausing:
    """Pauses what the world's `pauses` name, from any worker."""

    def __init__(self, run: Situation, crew: Crew) -> None:
        self._run = run
        self._crew = crew
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start, if the world has anything to pause."""
        if self._run.world.pauses:
            self._task = self._run.spawn(self._go_on())

    async def _go_on(self) -> None:
        run = self._run
        while not run.chance.quiet:
            await asyncio.sleep(run.chance.upto(_LONGEST) * run.chance.upto(1))
            chosen = run.chance.random.choice(run.world.pauses)
            command = chosen if isinstance(chosen, str) else schema_of(chosen).name
            await self._say("pause", command)
            await asyncio.sleep(run.chance.upto(_LONGEST))
            await self._say("resume", command)

    async def _say(self, what: str, command: str) -> None:
        run = self._run
        if not self._crew.workers:
            return
        worker = run.chance.random.choice(self._crew.workers)
        worker.repairing += 1
        try:
            await asyncio.wait_for(worker.does(getattr(worker.runner, what)(command)), _PATIENCE)
        except (SagalogError, TimeoutError) as error:
            run.tell(f"the operator's {what} of {command} fails: {type(error).__name__}")
        else:
            run.tell(f"the operator says at {worker.name}: {what} {command}")
        finally:
            worker.repairing -= 1

    async def end(self) -> None:
        """Return when nothing is paused."""
        if self._task is None:
            return
        await asyncio.wait([self._task])
        while paused := await self._paused():
            for command in paused:
                await self._say("resume", command)
            await asyncio.sleep(1)

    async def _paused(self) -> list[str]:
        said = await self._run.ledger.latest_message(CONTROLS)
        return [] if said is None else list(decode_controls(said.payload).paused)
