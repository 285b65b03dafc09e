"""The journal that all workers share, and beside it every record that ever landed there, which nobody can cut or purge."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any

import msgspec

from ...decision.ids import OWN
from ...decision.pages import left_of, whole
from ...decision.record import SagaRecord, decode_record
from ...errors import CodecError
from ...journal import PersistentRepr
from ...journal.memory import InMemoryJournal
from ...journal.pages import named_by


class Landed(msgspec.Struct):
    """One record as it was stored. `tick` orders it among all that happened; `record` is None for a newer version's."""

    tick: int
    message: PersistentRepr
    record: SagaRecord | None
    seconds: float = 0.0  # of virtual time
    stored: SagaRecord | None = None  # as it is stored; `record` has its messages in earlier records, too
    pages: tuple[int, ...] = ()  # the numbers of those
    wrong: str = ""  # with them


class Ledger(InMemoryJournal):
    """Keeps, for each persistence id, its lives: the records from number 1 on, up to a purge."""

    def __init__(
        self,
        tick: Callable[[], int],
        landed: Callable[[Landed], None],
        due: Callable[[datetime], None],
        own: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self.lives: dict[str, list[list[Landed]]] = defaultdict(list)
        self.purged: set[str] = set()  # ids of which nothing is left
        self._tick = tick
        self._landed = landed
        self._tell_due = due
        self._tell_own = own  # something was written that is no instance

    async def write_messages(self, messages: Sequence[PersistentRepr], *, atomic: bool = False) -> None:
        (message,) = messages  # the runner writes one record a step
        await super().write_messages(messages, atomic=atomic)
        if message.persistence_id.startswith(OWN):
            self._tell_own()
            return
        lives = self.lives[message.persistence_id]
        if message.sequence_nr == 1:
            lives.append([])
        landed = Landed(self._tick(), message, None, asyncio.get_running_loop().time())
        _read(landed, lives[-1])
        lives[-1].append(landed)
        self.purged.discard(message.persistence_id)
        if message.due_at is not None:
            self._tell_due(message.due_at)
        self._landed(lives[-1][-1])

    def found_by(self, persistence_id: str) -> set[str]:
        """Return the terms that an id is found by."""
        return set(self._terms.get(persistence_id, ()))

    async def claim_due(
        self, prefix: str, before: datetime, until: datetime, *, limit: int = 1000
    ) -> list[tuple[str, datetime]]:
        found = await super().claim_due(prefix, before, until, limit=limit)
        if found:
            self._tell_due(until)
        return found

    async def purge(self, tombstones: Sequence[tuple[str, int]]) -> None:
        await super().purge(tombstones)
        self.purged.update(gone for gone, _ in tombstones if gone not in self._records)

    def newest(self, persistence_id: str) -> Landed | None:
        """Return the newest record that this code can read, unless it is purged."""
        if persistence_id in self.purged or persistence_id not in self.lives:
            return None
        return next((one for one in reversed(self.lives[persistence_id][-1]) if one.record is not None), None)

    def readable(self) -> list[tuple[str, SagaRecord]]:
        """Return the newest record of each id that is not purged."""
        found = []
        for persistence_id in sorted(self.lives):
            newest = self.newest(persistence_id)
            if newest is not None and newest.record is not None:
                found.append((persistence_id, newest.record))
        return found


def _read(landed: Landed, before: list[Landed]) -> None:
    """Decode what has landed, with its messages in the records before."""
    try:
        landed.record = landed.stored = record = decode_record(landed.message.payload)
    except CodecError:
        return
    landed.pages = tuple(named_by(record))
    if landed.pages:
        named = {one.message.sequence_nr: one.stored for one in before if one.stored is not None}
        try:
            landed.record = whole(record, named)
        except CodecError as error:
            landed.record, landed.wrong = left_of(record, named), str(error)


def at_once(work: Coroutine[Any, Any, None]) -> None:
    """Run a call to the journal in memory, which waits for nothing."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("the journal in memory waited for something")
