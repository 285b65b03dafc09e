"""Where all instances stand: counted once in the background, page by page, and kept up to date from what is new.

    count (a page) ─► follow (what was written meanwhile) ─► count (the next page) ... ─► follow, look at what is due

No request waits for this, and nothing here grows with the number of instances. What cannot be seen in new records (a
purged tombstone) is put right by counting afresh now and then, for a small part of the time. A journal that cannot be
followed is only ever counted afresh.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from ..decision.circuits import OpenCircuit
from ..decision.controls import Controls
from ..decision.ids import FAMILY, instance_of, sent_in
from ..errors import JournalError, SagalogError
from ..journal import Journal, PersistentRepr
from ..journal.circuits import open_circuits
from ..journal.controls import read_controls
from ..journal.protocol import Followable, ListsLatest, latest_page
from ..logs import about, log, trace_of
from ..operating.inspect import OVERDUE_AFTER, SagaView, view_of
from ..waiting import Attempts, Waiting
from .flow import Flow
from .shown import ShownJournal
from .tally import MAX_WATCHED, Tally, Undelivered, name_of

MAX_OVERDUE = 1_000
_PAGE = 500
_MAX_FOLLOWED = 5_000  # records of one round
_RECOUNT_SECONDS = 900.0
_GUESSED_SECONDS = 60.0
_COUNTING_SHARE = 20  # counting afresh takes at most one part in so many of the time
_DUE_SECONDS = 2.0
_PAUSE_SECONDS = 0.5
_MAX_PAUSE = 5.0


class Overdue(msgspec.Struct, frozen=True):
    """An instance whose timer is overdue: its name, and since when."""

    name: str
    since: datetime


class _Count:
    """A count that is under way: up to which id it has come, and what it found in the last page."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.after = ""
        self.deleted = False
        self.counted = 0
        self.begun = time.monotonic()
        self.page: dict[str, int] = {}  # the versions that the last page had

    def covers(self, persistence_id: str, version: int) -> bool:
        """Say whether this record is newer than what was counted of its id; False where the id comes yet."""
        return persistence_id <= self.after and version > self.page.get(persistence_id, 0)


class Overview:
    """The counts, kept up to date by `run` for as long as it runs. Reading it never waits."""

    def __init__(self, source: ShownJournal, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._source = source
        self._clock = clock
        self.tally: Tally = Tally()
        self.flow: Flow = Flow()
        self.overdue: dict[str, Overdue] = {}
        self.overdue_cut: bool = False
        self.controls: Controls = Controls()  # which command types are paused
        self.circuits: list[OpenCircuit] = []
        self.counted_at: datetime | None = None  # None: the first count is under way, `tally` is what it found so far
        self.down: str = ""  # why the journal does not answer
        self.behind: bool = False  # there is more that is new than one round reads
        self.unreachable: bool = False  # it is the journal itself that does not answer
        self.follows: bool = True  # rates are known
        self.exact: bool = True  # counts are kept up to date by following, and not only counted afresh
        self._due_seen: dict[tuple[str, datetime], datetime | None] = {}
        self._count: _Count | None = None
        self._count_at = self._due_next = 0.0
        self._offset: int | None = None

    @property
    def counting(self) -> int | None:
        """How many instances the count that is under way has seen; None while there is none."""
        return self._count.counted if self._count is not None else None

    async def run(self) -> None:
        """Keep the counts up to date until cancelled. A journal that is down is tried again."""
        attempts = Attempts(Waiting(first=2 * _PAUSE_SECONDS, most=_MAX_PAUSE))
        while True:
            pause: float | None = _PAUSE_SECONDS
            try:
                await self.look(await self._source.journal())
                self.down, self.unreachable = "", False
                attempts.reset()
            except SagalogError as error:
                if not self.down:
                    log.warning("the dashboard cannot read its journal: %s", error, extra=about())
                self.unreachable = isinstance(error, JournalError)
                self.down = str(error) if self.unreachable else f"{type(error).__name__}: {error}"
                pause = attempts.failed()
            except Exception as error:  # a defect: said on every page and in the log, while the other pages go on
                log.error("the dashboard's counting broke", exc_info=trace_of(error), extra=about())
                self.down, pause = f"counting broke ({type(error).__name__}); the log says more", _MAX_PAUSE
            busy = self._count is not None or self.behind
            await asyncio.sleep(0 if busy and not self.down else pause or _MAX_PAUSE)

    async def look(self, journal: Journal) -> None:
        """Do one round: a page of the count, if one is under way or due, then what is new, then what is overdue."""
        # Exact only where one knows what has been counted: ids in order, live or not in one pass, new ones told.
        self.follows = isinstance(journal, Followable)
        exact = self.follows and isinstance(journal, ListsLatest) and bool(getattr(journal, "sorted_ids", False))
        self.exact = exact
        if self.follows and self._offset is None:
            assert isinstance(journal, Followable)
            self._offset = await journal.newest_offset()
        if self._count is None and time.monotonic() >= self._count_at:
            self._count = _Count()
        if self._count is not None:
            await self._count_page(journal, self._count, exact=exact)
        if isinstance(journal, Followable):
            await self._follow(journal, exact=exact)
        if time.monotonic() >= self._due_next:
            begun = time.monotonic()
            await self._look_at_due(journal)
            await self.look_at_commands(journal)
            self._due_next = time.monotonic() + max(_DUE_SECONDS, 20 * (time.monotonic() - begun))

    async def _count_page(self, journal: Journal, count: _Count, *, exact: bool) -> None:
        if exact:
            assert isinstance(journal, ListsLatest)
            page = await journal.latest_by_prefix(FAMILY, after=count.after, limit=_PAGE, deleted=None)
        else:
            page = await latest_page(journal, FAMILY, after=count.after, limit=_PAGE, deleted=count.deleted)
        count.page = {message.persistence_id: message.sequence_nr for message in page}
        for message in page:
            if instance_of(message.persistence_id) is not None:
                view = view_of(message)
                count.tally.add(view)
                self.flow.observe(view, view)
                await self._note_outbox(journal, count.tally, view)
                count.counted += 1
        if page:
            count.after = page[-1].persistence_id
        elif not exact and not count.deleted:
            count.after, count.deleted = "", True
        else:
            self._finish(count, exact=exact)
        if self.counted_at is None:
            self.tally = count.tally

    def _finish(self, count: _Count, *, exact: bool) -> None:
        took = time.monotonic() - count.begun
        rest = max(took * _COUNTING_SHARE, _RECOUNT_SECONDS if exact else _MAX_PAUSE)
        self.tally = count.tally
        self.counted_at, self._count = self._clock(), None
        self._count_at = time.monotonic() + rest

    async def _follow(self, journal: Journal, *, exact: bool) -> None:
        assert isinstance(journal, Followable)
        assert self._offset is not None
        # Up to here at least: what the page just counted may hold is followed before the next one is read.
        until = await journal.newest_offset()
        done = 0
        known: dict[str, SagaView] = {}
        while self._offset < until:
            messages, offset = await journal.records_after(self._offset, limit=_PAGE)
            if offset == self._offset:
                break
            ours = [one for one in messages if one.persistence_id.startswith(FAMILY)]
            if len(known) > _MAX_FOLLOWED:
                known.clear()
            befores = await _befores(journal, ours, known)
            for message, before in zip(ours, befores, strict=True):
                after = view_of(message)
                self.flow.note(before, after)
                if exact:
                    await self._move(journal, before, after)
            self._offset = offset
            done += len(messages)
            if done >= _MAX_FOLLOWED and self._count is None:
                break
        self.behind = self._offset < until and done >= _MAX_FOLLOWED

    async def _move(self, journal: Journal, before: SagaView | None, after: SagaView) -> None:
        name = name_of(after)
        if before is None and after.version > 1:  # not kept: what it was is guessed, so count afresh before long
            self._count_at = min(self._count_at, time.monotonic() + _GUESSED_SECONDS)
        tallies = []
        if self.counted_at is not None:
            tallies.append(self.tally)
        if self._count is not None and self._count.covers(name, after.version):
            tallies.append(self._count.tally)
        for tally in tallies:
            tally.move(before, after)
            await self._note_outbox(journal, tally, after)

    async def _note_outbox(self, journal: Journal, tally: Tally, view: SagaView) -> None:
        name, record = name_of(view), view.record
        if record is None or not record.outbox:
            tally.undelivered.drop(name)
            return
        oldest = min(record.outbox, key=lambda entry: sent_in(entry.id))
        known = tally.undelivered.entries.get(name)
        number = len(record.outbox)
        if known is not None and known.command_id == oldest.id:
            tally.undelivered.put(name, msgspec.structs.replace(known, number=number))
            return
        step = sent_in(oldest.id)[0]
        since, exact = record.updated_at, step == view.version
        if not exact and len(tally.undelivered) < MAX_WATCHED:
            async for message in journal.replay_messages(name, step, step):
                sent = view_of(message).record
                if sent is not None:
                    since, exact = sent.updated_at, True
        tally.undelivered.put(name, Undelivered(oldest.id, oldest.command.type, since, exact, number))

    async def look_at_commands(self, journal: Journal) -> None:
        """See which command types are paused, and which receivers are away."""
        self.controls, _ = await read_controls(journal)
        self.circuits = await open_circuits(journal, self._clock())

    async def _look_at_due(self, journal: Journal) -> None:
        before = self._clock() - OVERDUE_AFTER
        due = await journal.due_ids(FAMILY, before, limit=MAX_OVERDUE)
        fresh = [entry for entry in due if entry not in self._due_seen]
        records = await asyncio.gather(*(journal.latest_message(name) for name, _ in fresh))
        seen = {entry: self._due_seen[entry] for entry in due if entry in self._due_seen}
        for entry, message in zip(fresh, records, strict=True):
            record = view_of(message).record if message is not None else None
            seen[entry] = record.next_timer_at if record is not None else None
        self._due_seen = seen
        late = {name: at for (name, _), at in seen.items() if at is not None and at <= before}
        self.overdue = {name: Overdue(name, at) for name, at in late.items()}
        self.overdue_cut = len(due) >= MAX_OVERDUE


async def _befores(
    journal: Journal, messages: list[PersistentRepr], known: dict[str, SagaView]
) -> list[SagaView | None]:
    """Return what stood before each record; None for a first one, and where it is not kept. `known` goes on."""
    wanted: dict[str, int] = {}
    for message in messages:
        if message.persistence_id not in known and message.sequence_nr > 1:
            wanted.setdefault(message.persistence_id, message.sequence_nr - 1)

    async def one(name: str, number: int) -> None:
        async for found in journal.replay_messages(name, number, number):
            known[name] = view_of(found)

    await asyncio.gather(*(one(name, number) for name, number in wanted.items()))
    befores: list[SagaView | None] = []
    for message in messages:
        befores.append(known.get(message.persistence_id) if message.sequence_nr > 1 else None)
        known[message.persistence_id] = view_of(message)
    return befores
