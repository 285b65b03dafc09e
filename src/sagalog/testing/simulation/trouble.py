"""What befalls whole workers and the journal, not one call: jumping clocks, deaths at rest, deploys, housekeeping."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import msgspec

from ...decision.entries import FINAL
from ...decision.record import SagaRecord, encode_record
from ...errors import ConflictError
from ...journal import PersistentRepr
from .chance import WORKER_FAULTS
from .clock import EPOCH
from .crew import Crew
from .ledger import at_once
from .situation import Situation
from .worker import Worker

_STOPS_WITHIN = 300.0  # seconds: `stop_timeout`, and whatever may be in its way
_NEWER = b'{"format":99}'


class Trouble:
    """Strikes while events are sent, and while time passes."""

    def __init__(self, run: Situation, crew: Crew) -> None:
        self._run = run
        self._crew = crew

    async def during(self, seconds: float) -> None:
        """Let so many seconds pass, not quite without trouble."""
        cuts = sorted(self._run.chance.upto(seconds) for _ in range(2))
        for part in (cuts[0], cuts[1] - cuts[0]):
            await asyncio.sleep(part)
            self.strike()
        await asyncio.sleep(seconds - cuts[1])

    def strike(self) -> None:
        """Let something happen, or not."""
        run = self._run
        fault = run.chance.strikes(WORKER_FAULTS)
        if fault is None or not self._crew.workers:
            return
        worker = run.chance.random.choice(self._crew.workers)
        if fault == "clock jumps forwards":
            worker.jump(1)
        elif fault == "clock jumps backwards":
            worker.jump(-1)
        elif fault == "dies at rest":
            worker.condition.die("at rest")
        elif fault == "worker stops and is replaced":
            run.spawn(self._stop(worker))
        elif fault == "history cut":
            self._cut()
        else:
            self._deploy_newer()

    async def _stop(self, worker: Worker) -> None:
        run = self._run
        # A stop does not wait for an operator's repair: whoever asked for it is told.
        if worker.condition.stopping or worker.repairing or worker.condition.dead.is_set():
            return
        worker.condition.stopping = True
        run.tell(f"{worker.name} is told to stop")
        stopping = worker.does(worker.runner.stop())
        dead = asyncio.ensure_future(worker.condition.dead.wait())
        await asyncio.sleep(run.chance.upto(1))  # senders notice late
        self._crew.retire(worker)
        await asyncio.wait([stopping, dead], timeout=_STOPS_WITHIN, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            if not worker.condition.dead.is_set():
                run.blame(f"{worker.name} was told to stop, and does not")
            return
        await stopping
        worker.condition.stopped = True
        run.tell(f"{worker.name} has stopped")
        await self._crew.start_worker(client=worker.runner.client)

    def _cut(self) -> None:
        """Delete old records, as somebody who keeps the journal small does."""
        run = self._run
        ids = [persistence_id for persistence_id, _ in run.ledger.readable()]
        if ids:
            chosen = run.chance.random.choice(ids)
            newest = run.ledger.lives[chosen][-1][-1]
            number = min((newest.message.sequence_nr, *newest.pages)) - 1  # what it names must stay
            at_once(run.ledger.delete_messages_to(chosen, number))
            run.tell(f"the history of {chosen} is cut up to #{number}")

    def _deploy_newer(self) -> None:
        """Let a newer version of the code write a record, and go back to the old format some time later."""
        run = self._run
        ids = [
            (persistence_id, record)
            for persistence_id, record in run.ledger.readable()
            if record.status not in FINAL and run.ledger.lives[persistence_id][-1][-1].record is not None
        ]
        if ids:
            persistence_id, record = run.chance.random.choice(ids)
            message = run.ledger.lives[persistence_id][-1][-1].message
            newer = msgspec.structs.replace(message, sequence_nr=message.sequence_nr + 1, payload=_NEWER)
            at_once(run.ledger.write_messages([newer]))
            run.tell(f"a newer version stores {persistence_id}#{newer.sequence_nr}")
            loop = asyncio.get_running_loop()
            loop.call_later(run.chance.upto(30), self._go_back, newer, record)

    def _go_back(self, newer: PersistentRepr, record: SagaRecord) -> None:
        run = self._run
        same = msgspec.structs.replace(record, handled=())
        now = EPOCH + timedelta(seconds=asyncio.get_running_loop().time())
        message = msgspec.structs.replace(
            newer,
            sequence_nr=newer.sequence_nr + 1,
            payload=encode_record(same),
            due_at=now if record.owes else record.next_timer_at,
        )
        try:
            at_once(run.ledger.write_messages([message]))
            run.tell(f"a newer version goes back: {message.persistence_id}#{message.sequence_nr} is as before")
        except ConflictError:
            run.blame(f"{newer.persistence_id}#{newer.sequence_nr}, of a newer version, was written over")
