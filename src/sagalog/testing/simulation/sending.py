"""The senders of events: each sends until it is accepted, as a broker does."""

from __future__ import annotations

import asyncio
from typing import Any

from ...errors import (
    InstanceFullError,
    JournalUnavailableError,
    KeyTakenError,
    NoInstanceError,
    NotAllReachedError,
    OutcomeUnknownError,
    RunnerStoppedError,
    SagaParkedError,
    TooManyKeptError,
    UnexpectedEventError,
)
from .asking import Askers
from .chance import SENDING_FAULTS
from .crew import Crew
from .outside import KNOWN
from .situation import Situation

_PATIENCE = 20.0  # seconds, of a sender, before it sends again
_TRIES = 5  # of a sender that is told that there is no instance


class Senders:
    """Send each event to any worker, and again where no answer comes. What is accepted, they may ask about."""

    def __init__(self, situation: Situation, crew: Crew, askers: Askers) -> None:
        self._situation = situation
        self._crew = crew
        self._askers = askers

    async def send(self, event: Any, message_id: str) -> None:
        """Send an event until it is accepted, as a broker does: to any worker, and again where no answer comes."""
        fault = self._situation.chance.strikes(SENDING_FAULTS)
        if fault == "delivery late":
            await asyncio.sleep(self._situation.chance.upto(30))
        patience = self._situation.chance.upto(0.1) if fault == "sender does not wait" else _PATIENCE
        copies = 2 if fault == "delivered twice" else 1
        await asyncio.gather(*(self._deliver(event, message_id, patience) for _ in range(copies)))
        if fault == "delivered again, later":
            await asyncio.sleep(self._situation.chance.upto(100))
            await self._deliver(event, message_id, _PATIENCE)

    async def _deliver(self, event: Any, message_id: str, patience: float) -> None:
        lost, pause = 0, 0.5
        while lost < _TRIES:
            if not self._crew.workers:
                await asyncio.sleep(0.5)
                continue
            worker = self._situation.chance.random.choice(self._crew.workers)
            sent = self._situation.outside.attempt(message_id, event, worker.name)
            try:
                receipt = await asyncio.wait_for(
                    worker.does(worker.runner.handle(event, message_id=message_id)), patience
                )
            except (
                InstanceFullError,
                JournalUnavailableError,
                KeyTakenError,
                NoInstanceError,
                OutcomeUnknownError,
                RunnerStoppedError,
                SagaParkedError,
                TimeoutError,
                TooManyKeptError,
                UnexpectedEventError,
            ) as error:
                why = error.why if isinstance(error, NotAllReachedError) else error
                lost += isinstance(why, (KeyTakenError, NoInstanceError, TooManyKeptError, UnexpectedEventError))
                patience = _PATIENCE
                self._situation.tell(
                    f"{message_id} {type(event).__name__} is not accepted by {worker.name}: {type(error).__name__}"
                )
                pause = min(pause * 2, 10.0)
                await asyncio.sleep(self._situation.chance.upto(pause))
                continue
            said = ", ".join(outcome.value for outcome in receipt.outcomes.values())
            self._situation.tell(f"{message_id} {event!r} is accepted by {worker.name}: {said}")
            self._situation.outside.told(sent, receipt)
            if known := [
                name for name, outcome in receipt.outcomes.items() if outcome in KNOWN and name not in receipt.instances
            ]:
                self._askers.may_ask(known, event, message_id)
            return
