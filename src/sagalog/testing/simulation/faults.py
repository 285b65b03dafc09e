"""A worker's view of the journal, which goes wrong: answers are lost, writes land late, the worker dies or stalls."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from ...errors import JournalUnavailableError, OutcomeUnknownError
from ...journal import MAX_SEQUENCE_NR, PersistentRepr
from ...journal.memory import InMemoryJournal

EPOCH = datetime(2030, 1, 1, tzinfo=UTC)
FAULTS = (
    "dies before a write",
    "dies after a write",
    "write refused",
    "answer lost, not stored",
    "answer lost, stored",
    "answer lost, stored late",
    "answer late",
    "worker stalls",
    "read refused",
)
Tell = Callable[[str], None]


class Chance:
    """Every decision of one simulated run, from its seed; `off` says which faults never happen."""

    def __init__(self, seed: int, off: frozenset[str], likely: float) -> None:
        self.random = random.Random(seed)
        self.off = off
        self.likely = likely
        self.quiet = False  # towards the end nothing goes wrong any more
        self.happened: Counter[str] = Counter()

    def strikes(self, *faults: str) -> str | None:
        """Return one of the faults, or (mostly) none. Draws the same whether they are off or not."""
        struck = self.random.random() < self.likely
        fault = self.random.choice(faults)
        if not struck or self.quiet or fault in self.off:
            return None
        self.happened[fault] += 1
        return fault


class WorkerDied(BaseException):
    """Never raised to anybody: what a dead worker waits for does not come."""


class Health:
    """Whether a worker runs, stalls, or is dead; what it does meanwhile waits."""

    def __init__(self, name: str, tell: Tell) -> None:
        self.name = name
        self.dead = asyncio.Event()
        self._awake = asyncio.Event()
        self._awake.set()
        self._tell = tell

    def die(self, when: str) -> None:
        """Nothing that this worker waits for will ever come."""
        if not self.dead.is_set():
            self._tell(f"{self.name} dies {when}")
            self.dead.set()
            self._awake.clear()

    def stall(self, seconds: float) -> None:
        """Like SIGSTOP for so long."""
        if not self.dead.is_set():
            self._tell(f"{self.name} stalls for {seconds:.1f} s")
            self._awake.clear()
            asyncio.get_running_loop().call_later(seconds, self._wake)

    def _wake(self) -> None:
        if not self.dead.is_set():
            self._awake.set()

    async def gate(self) -> None:
        """Return when the worker runs: for ever later, if it is dead."""
        await self._awake.wait()


class FaultyJournal:
    """One worker's connection to the journal that all share."""

    sorted_ids = True

    def __init__(self, inner: InMemoryJournal, chance: Chance, health: Health, tell: Tell) -> None:
        self._inner = inner
        self._chance = chance
        self._health = health
        self._tell = tell

    async def _travel(self) -> None:
        await asyncio.sleep(self._chance.random.random() ** 3 * 0.02)
        await self._health.gate()

    async def write_messages(self, messages: Sequence[PersistentRepr], *, atomic: bool = False) -> None:
        await self._travel()
        fault = self._chance.strikes(*FAULTS[:8])
        what = ", ".join(f"{m.persistence_id}#{m.sequence_nr}" for m in messages)
        if fault == "dies before a write":
            self._health.die(f"before it writes {what}")
            await self._health.gate()
        if fault == "write refused":
            self._tell(f"{self._health.name}: {what} is refused")
            raise JournalUnavailableError("simulated: the journal is away; nothing was stored")
        if fault == "answer lost, not stored":
            self._tell(f"{self._health.name}: {what} is lost, and its answer")
            raise OutcomeUnknownError("simulated: no answer")
        if fault == "answer lost, stored late":
            self._tell(f"{self._health.name}: {what} is on its way, its answer lost")
            late = self._chance.random.random() * 3
            asyncio.get_running_loop().call_later(late, self._land_late, list(messages), atomic, what)
            raise OutcomeUnknownError("simulated: no answer")
        await self._inner.write_messages(messages, atomic=atomic)
        self._tell(f"{self._health.name} stores {what}")
        if fault == "dies after a write":
            self._health.die(f"after it has written {what}")
        if fault == "worker stalls":
            self._health.stall(self._chance.random.random() * 20)
        if fault == "answer late":
            await asyncio.sleep(self._chance.random.random() * 8)
        await self._travel()
        if fault == "answer lost, stored":
            self._tell(f"{self._health.name}: {what} is stored, its answer lost")
            raise OutcomeUnknownError("simulated: no answer")

    def _land_late(self, messages: list[PersistentRepr], atomic: bool, what: str) -> None:
        writing = self._inner.write_messages(messages, atomic=atomic)
        try:
            writing.send(None)  # in memory nothing waits
        except StopIteration:
            self._tell(f"{what} lands late")
        except Exception as error:
            self._tell(f"{what} comes too late: {type(error).__name__}")

    async def _read(self) -> None:
        await self._travel()
        if self._chance.strikes("read refused") is not None and self._chance.random.random() < 0.3:
            raise JournalUnavailableError("simulated: the journal is away")

    async def latest_message(self, persistence_id: str) -> PersistentRepr | None:
        await self._read()
        found = await self._inner.latest_message(persistence_id)
        await self._travel()
        return found

    async def highest_sequence_nr(self, persistence_id: str) -> int:
        await self._read()
        return await self._inner.highest_sequence_nr(persistence_id)

    async def due_ids(self, prefix: str, before: datetime, *, limit: int = 1000) -> list[tuple[str, datetime]]:
        await self._read()
        return await self._inner.due_ids(prefix, before, limit=limit)

    async def claim_due(
        self, prefix: str, before: datetime, until: datetime, *, limit: int = 1000
    ) -> list[tuple[str, datetime]]:
        await self._read()
        found = await self._inner.claim_due(prefix, before, until, limit=limit)
        await self._travel()
        return found

    async def ids_by_prefix(
        self, prefix: str, *, after: str = "", limit: int = 1000, deleted: bool = False
    ) -> list[str]:
        await self._read()
        return await self._inner.ids_by_prefix(prefix, after=after, limit=limit, deleted=deleted)

    async def purge(self, persistence_id: str, sequence_nr: int) -> None:
        await self._travel()
        await self._inner.purge(persistence_id, sequence_nr)

    async def delete_messages_to(self, persistence_id: str, to_sequence_nr: int) -> None:
        await self._travel()
        await self._inner.delete_messages_to(persistence_id, to_sequence_nr)

    def replay_messages(
        self,
        persistence_id: str,
        from_sequence_nr: int = 1,
        to_sequence_nr: int = MAX_SEQUENCE_NR,
        max: int = MAX_SEQUENCE_NR,
    ) -> AsyncIterator[PersistentRepr]:
        return self._inner.replay_messages(persistence_id, from_sequence_nr, to_sequence_nr, max)

    def all_persistence_ids(self) -> AsyncIterator[str]:
        return self._inner.all_persistence_ids()

    def events_by_tag(self, tag: str, offset: int = 0) -> AsyncIterator[tuple[int, PersistentRepr]]:
        return self._inner.events_by_tag(tag, offset)

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...


class LoopClock:
    """The virtual time of the loop, wrong by `ahead`."""

    def __init__(self, ahead: timedelta) -> None:
        self._ahead = ahead

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=asyncio.get_running_loop().time()) + self._ahead

    async def sleep_until(self, moment: datetime) -> None:
        while (left := (moment - self.now()).total_seconds()) > 0:
            await asyncio.sleep(left)


__all__ = ["EPOCH", "FAULTS", "Any", "Chance", "FaultyJournal", "Health", "LoopClock"]
