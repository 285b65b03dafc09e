"""A worker's connection to the journal, which goes wrong: answers are lost, writes land late, the worker dies or stalls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Self

from ...decision.controls import decode_controls
from ...decision.ids import CONTROLS
from ...errors import ConflictError, JournalUnavailableError, OutcomeUnknownError, SagalogError
from ...journal import MAX_SEQUENCE_NR, PersistentRepr
from ...journal.protocol import MovedDue, one_by_one
from .chance import CLAIM_FAULTS, PURGE_FAULTS, READ_FAULTS, WRITE_FAULTS, Chance, Tell
from .ledger import Ledger, at_once

_OF_MANY = 0.03  # the share of faults of reads that come again and again while somebody waits
_AWAY = "simulated: the journal is away; nothing was stored"


class Condition:
    """Whether a worker runs, stalls, is dead, or was stopped; what it does meanwhile waits at the gate."""

    def __init__(self, name: str, tell: Tell, blame: Tell) -> None:
        self.name = name
        self.blame = blame
        self.slow: float = 1.0
        self.dead: asyncio.Event = asyncio.Event()
        self.stopping = False
        self.stopped = False
        self.paused: frozenset[str] = frozenset()  # command types, as its worker has seen last
        self._awake = asyncio.Event()
        self._awake.set()
        self._tell = tell

    def die(self, when: str) -> None:
        """Nothing that this worker waits for will ever come."""
        if not self.dead.is_set() and not self.stopped:
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

    def __init__(
        self, inner: Ledger, chance: Chance, condition: Condition, tell: Tell, poll_again: Callable[[], None]
    ) -> None:
        self._poll_again = poll_again
        self._inner = inner
        self._chance = chance
        self._condition = condition
        self._tell = tell
        self.page_bytes = (1, 200, 4096)[chance.seed % 3]  # drawn from nothing, so that all else is as it was

    async def _travel(self) -> None:
        if self._condition.stopped:
            self._condition.blame(f"{self._condition.name} uses the journal after it has stopped")
        await asyncio.sleep(self._chance.random.random() ** 3 * 0.02 * self._condition.slow)
        await self._condition.gate()

    async def _death(self, when: str) -> None:
        self._condition.die(when)
        await self._condition.gate()

    async def write_messages(self, messages: Sequence[PersistentRepr], *, atomic: bool = False) -> None:
        chance, condition = self._chance, self._condition
        await self._travel()
        fault = chance.strikes(WRITE_FAULTS)
        what = ", ".join(f"{m.persistence_id}#{m.sequence_nr}" for m in messages)
        if fault == "stalls before a write":
            condition.stall(chance.upto(20))
            await condition.gate()
        if fault == "dies before a write":
            await self._death(f"before it writes {what}")
        if fault == "write refused":
            self._tell(f"{condition.name}: {what} is refused")
            raise JournalUnavailableError(_AWAY)
        if fault == "answer lost, not stored":
            self._tell(f"{condition.name}: {what} is lost, and its answer")
            raise OutcomeUnknownError("simulated: no answer")
        if fault in ("answer lost, stored late", "dies during a write"):
            asyncio.get_running_loop().call_later(chance.upto(3), self._land_late, list(messages), what)
            if fault == "dies during a write":
                await self._death(f"while {what} is on its way")
            self._tell(f"{condition.name}: {what} is on its way, its answer lost")
            raise OutcomeUnknownError("simulated: no answer")
        await self._inner.write_messages(messages, atomic=atomic)
        self._tell(f"{condition.name} stores {what}")
        if fault == "write arrives twice":
            asyncio.get_running_loop().call_later(chance.upto(3), self._land_late, list(messages), what)
        if fault == "dies after a write":
            condition.die(f"after it has written {what}")
        if fault == "stalls after a write":
            condition.stall(chance.upto(20))
        if fault == "answer late":
            await asyncio.sleep(chance.upto(8))
        await self._travel()
        if fault == "answer lost, stored":
            self._tell(f"{condition.name}: {what} is stored, its answer lost")
            raise OutcomeUnknownError("simulated: no answer")

    def _land_late(self, messages: list[PersistentRepr], what: str) -> None:
        try:
            at_once(self._inner.write_messages(messages))
            self._tell(f"{what} lands late")
        except ConflictError:
            self._tell(f"{what} comes too late")

    async def _read(self, share: float = 0.3) -> None:
        await self._travel()
        fault = self._chance.strikes(READ_FAULTS, share=share)
        if fault == "read refused":
            raise JournalUnavailableError(_AWAY)
        if fault == "read late":
            await asyncio.sleep(self._chance.upto(8))
        if fault == "dies during a read":
            await self._death("while it reads")

    async def latest_message(self, persistence_id: str) -> PersistentRepr | None:
        await self._read()
        found = await self._inner.latest_message(persistence_id)
        await self._travel()
        return found

    async def highest_sequence_nr(self, persistence_id: str, from_sequence_nr: int = 0) -> int:
        await self._read()
        return await self._inner.highest_sequence_nr(persistence_id)

    async def due_ids(self, prefix: str, before: datetime, *, limit: int = 1000) -> list[tuple[str, datetime]]:
        try:
            await self._read()
        except JournalUnavailableError:
            self._poll_again()
            raise
        return await self._inner.due_ids(prefix, before, limit=limit)

    async def claim_due(
        self, prefix: str, before: datetime, until: datetime, *, limit: int = 1000
    ) -> list[tuple[str, datetime]]:
        await self._travel()
        fault = self._chance.strikes(CLAIM_FAULTS, share=0.5)
        if fault in ("claim refused", "claimed, answer lost"):
            self._poll_again()
        if fault == "claim refused":
            raise JournalUnavailableError(_AWAY)
        found = await self._inner.claim_due(prefix, before, until, limit=limit)
        if fault == "claimed, answer lost":
            raise OutcomeUnknownError("simulated: no answer")
        if fault == "dies after a claim":
            await self._death("after it has claimed what is due")
        await self._travel()
        return found

    async def ids_by_prefix(
        self, prefix: str, *, after: str = "", limit: int = 1000, deleted: bool = False
    ) -> list[str]:
        await self._read()
        return await self._inner.ids_by_prefix(prefix, after=after, limit=limit, deleted=deleted)

    async def purge(self, tombstones: Sequence[tuple[str, int]]) -> None:
        await self._travel()
        fault = self._chance.strikes(PURGE_FAULTS, in_peace=True)  # most instances outlive the troubles
        if fault == "purge refused":
            raise JournalUnavailableError(_AWAY)
        await self._inner.purge(tombstones)
        for persistence_id, sequence_nr in tombstones:
            self._tell(f"{self._condition.name} purges {persistence_id}, if it is #{sequence_nr} still")
        if fault == "purged, answer lost":
            raise OutcomeUnknownError("simulated: no answer")
        if fault == "dies during a purge":
            await self._death("while it purges")

    async def latest_by_terms(
        self, terms: Sequence[str], *, after: str = "", limit: int = 1000
    ) -> tuple[list[PersistentRepr], str]:
        await self._read()
        return await self._inner.latest_by_terms(terms, after=after, limit=limit)

    async def newest_offset(self) -> int:
        await self._read(_OF_MANY)
        return await self._inner.newest_offset()

    async def records_after(self, offset: int, *, limit: int = 1000) -> tuple[list[PersistentRepr], int]:
        await self._read(_OF_MANY)
        found = await self._inner.records_after(offset, limit=limit)
        await self._travel()
        return found

    async def write_batch(self, records: Sequence[PersistentRepr]) -> list[SagalogError | None]:
        """Store each by itself, at the same time: some land, some are lost, and some nobody knows about."""
        return await one_by_one(self, records)

    async def latest_messages(self, persistence_ids: Sequence[str]) -> list[PersistentRepr | None]:
        if CONTROLS in persistence_ids:  # looked at with every scan, which draws enough of chance already
            (said,) = await self._inner.latest_messages(persistence_ids)
            self._condition.paused = frozenset() if said is None else frozenset(decode_controls(said.payload).paused)
            return [said]
        await self._read()
        found = await self._inner.latest_messages(persistence_ids)
        await self._travel()
        return list(found)

    async def move_due(self, moves: Sequence[MovedDue]) -> list[bool]:
        await self._travel()
        return await self._inner.move_due(moves)

    async def delete_messages_to(self, persistence_id: str, to_sequence_nr: int) -> None:
        await self._travel()
        await self._inner.delete_messages_to(persistence_id, to_sequence_nr)

    async def replay_messages(
        self,
        persistence_id: str,
        from_sequence_nr: int = 1,
        to_sequence_nr: int = MAX_SEQUENCE_NR,
        max: int = MAX_SEQUENCE_NR,
    ) -> AsyncIterator[PersistentRepr]:
        await self._read()
        async for message in self._inner.replay_messages(persistence_id, from_sequence_nr, to_sequence_nr, max):
            yield message

    def all_persistence_ids(self) -> AsyncIterator[str]:
        return self._inner.all_persistence_ids()

    def events_by_tag(self, tag: str, offset: int = 0) -> AsyncIterator[tuple[int, PersistentRepr]]:
        return self._inner.events_by_tag(tag, offset)

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...
