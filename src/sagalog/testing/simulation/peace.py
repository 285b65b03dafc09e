"""The end of a run: troubles end, and everything that was begun comes to its end, in bounded time."""

from __future__ import annotations

import asyncio

from ...decision.record import SagaRecord
from .clock import EPOCH
from .operator import Operator
from .situation import Situation
from .trouble import Trouble

_ENOUGH = 240.0  # seconds: stalls and slow handlers that are left over, back-off, a lease, a takeover


class Peace:
    """Lets time pass until nothing is left to do, and sees that nothing takes too long."""

    def __init__(self, run: Situation, operator: Operator, trouble: Trouble) -> None:
        self._run = run
        self._operator = operator
        self._trouble = trouble
        self._heads: dict[str, tuple[str, float]] = {}  # the outboxes' first entries, and since when
        self._since = 0.0

    async def wait_for(self, sending: list[asyncio.Task[None]]) -> None:
        """Return when all events are accepted; there is trouble for some time more."""
        run = self._run
        await asyncio.gather(*sending)
        time = asyncio.get_running_loop().time
        until = time() + run.chance.random.choice([0.0, 60.0, 7200.0])
        while self._unfinished() and time() < until:
            await asyncio.sleep(max(1.0, (until - time()) / 8))
            self._trouble.strike()
        run.chance.quiet = True
        self._since = time()

    async def settle(self) -> None:
        """Return when nothing is left to do, or the world's horizon has come."""
        time = asyncio.get_running_loop().time
        horizon = time() + self._run.world.horizon.total_seconds()
        pause = 0.5
        while (unfinished := self._unfinished()) and time() < horizon:
            self._check_in_time()
            wait = min(unfinished.values()) - time()
            pause = min(pause * 1.5, 10.0) if wait <= 0 else 0.5
            await asyncio.sleep(min(max(pause, wait + 0.5), max(0.5, horizon - time())))

    def _unfinished(self) -> dict[str, float]:
        """Return the instances that have something to do, and when (seconds of virtual time)."""
        found: dict[str, float] = {}
        for persistence_id, record in self._run.ledger.readable():
            if record.owes or persistence_id in self._operator.busy:
                found[persistence_id] = 0.0
            elif record.timers and not record.parked:
                found[persistence_id] = _next_timer(record)
        return found

    def _check_in_time(self) -> None:
        run, now = self._run, asyncio.get_running_loop().time()
        enough = _ENOUGH + 2 * run.skew
        for persistence_id, record in run.ledger.readable():
            if persistence_id in self._operator.busy:
                self._heads.pop(persistence_id, None)
                continue
            head = record.outbox[0].id if record.owes_delivery else ""
            since = self._heads.get(persistence_id)
            if since is None or since[0] != head:
                since = self._heads[persistence_id] = (head, now)
            if head and now - since[1] > enough:
                run.blame(f"{persistence_id}/{head} has waited for {now - since[1]:.0f} s, and nobody delivers it")
            for name, timer in record.timers.items() if not record.parked else ():
                due = max(self._since, (timer.due_at - EPOCH).total_seconds())
                if now - due > enough:
                    run.blame(f"timer {name} of {persistence_id} is due since {now - due:.0f} s, and does not fire")

    async def outlive_retention(self) -> None:
        """Let retention end: what is finished is forgotten then, and not before anything is due still."""
        run = self._run
        if self._unfinished():
            return
        await asyncio.sleep(run.settings.retention.total_seconds() + 2 * run.skew + _ENOUGH)
        for persistence_id, record in run.ledger.readable():
            if record.finished:
                run.blame(f"{persistence_id} is kept, although its retention has ended")


def _next_timer(record: SagaRecord) -> float:
    return (min(timer.due_at for timer in record.timers.values()) - EPOCH).total_seconds()
