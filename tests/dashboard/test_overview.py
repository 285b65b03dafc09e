"""The counts of the dashboard: right whatever happens while they are made, and bounded."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from sagalog import PersistentRepr, SagaRecord, Status, open_journal
from sagalog.dashboard import overview as module
from sagalog.dashboard import tally as tally_module
from sagalog.dashboard.overview import Overview
from sagalog.dashboard.shown import ShownJournal
from sagalog.dashboard.tally import Tally
from sagalog.decision.entries import FINAL, Command, Handled, Timer
from sagalog.decision.record import FORMAT, encode_record
from sagalog.definition.codec import Typed
from sagalog.journal import Journal
from sagalog.operating.inspect import instances

NOW = datetime(2030, 1, 1, tzinfo=UTC)
NOTHING = Typed("T", msgspec.Raw(b"{}"))


class Writer:
    """Writes steps of made-up instances, one at a time, as an engine might."""

    def __init__(self, journal: Journal, seed: int, *, exact: bool) -> None:
        self._journal = journal
        self._random = random.Random(seed)
        self._latest: dict[str, tuple[int, SagaRecord | None]] = {}
        self._statuses = list(Status) if exact else [Status.RUNNING]

    async def step(self) -> None:
        chance = self._random
        name = f"saga::{chance.choice(['a', 'b', 'ab'])}::{chance.randrange(12)}"
        version, before = self._latest.get(name, (0, None))
        at = NOW + timedelta(seconds=version)
        began = at
        incarnation = 1
        if before is not None and before.finished:
            incarnation = before.incarnation + 1
        elif before is not None:
            began, incarnation = before.started_at, before.incarnation
        record = SagaRecord(
            FORMAT, chance.choice(self._statuses), msgspec.Raw(b"{}"), began, at, incarnation=incarnation
        )
        if record.status in FINAL or chance.random() < 0.5:
            record.parked = ""
        elif len(self._statuses) > 1:
            record.parked = "because"
        if chance.random() < 0.3:
            record.outbox = (Command(f"{chance.choice([1, version + 1])}/0", NOTHING),)
        record.handled = (Handled(f"m{version}", "Event"),)
        payload = b"not a record" if len(self._statuses) > 1 and chance.random() < 0.05 else encode_record(record)
        finished = record.finished and payload != b"not a record"
        await self._journal.write_messages(
            [PersistentRepr(name, version + 1, payload, "m", "w", finished, (name.rpartition("::")[0],))]
        )
        self._latest[name] = (version + 1, record)


def _figures(tally: Tally) -> object:
    return (
        {key: number for key, number in tally.counts.items() if number},
        tally.live(),
        {status: sorted(ids.entries) for status, ids in tally.watched.items()},
        {name: (entry.command_id, entry.number) for name, entry in tally.undelivered.entries.items()},
    )


async def _truth(journal: Journal) -> object:
    tally = Tally()
    live = 0
    async for view in instances(journal, finished=True):
        tally.add(view)
        live += not view.finished
        if view.record is not None and view.record.outbox:
            oldest = min(view.record.outbox, key=lambda entry: entry.id)
            entry = tally_module.Undelivered(oldest.id, "", NOW, exact=True, number=len(view.record.outbox))
            tally.undelivered.put(f"saga::{view.saga}::{view.correlation_id}", entry)
    figures = _figures(tally)
    assert figures[1] == live  # type: ignore[index]
    return figures


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_is_written_while_it_counts_and_after_the_counts_are_right(
    any_journal: Journal, seed: int, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(module, "_PAGE", 4)
    name, journal = request.node.callspec.params["any_journal"], any_journal
    # What stood before is not kept with history=0, nor is NATS counted while it changes: there, counting afresh helps.
    writer = Writer(journal, seed, exact="history" not in name)
    overview = Overview(ShownJournal(journal), clock=lambda: NOW)
    chance = random.Random(seed)
    for _ in range(30):
        await writer.step()
    for _ in range(40):
        for _ in range(chance.randrange(4)):
            await writer.step()
        await overview.look(journal)
    while overview.counted_at is None:
        await overview.look(journal)
    await overview.look(journal)
    if name == "nats":
        await _count_afresh(overview, journal)
    assert _figures(overview.tally) == await _truth(journal)
    assert overview.follows


async def _count_afresh(overview: Overview, journal: Journal) -> None:
    overview._count_at = 0
    await overview.look(journal)
    while overview.counting is not None:
        await overview.look(journal)


async def test_a_count_that_is_made_afresh_replaces_the_old_one_and_forgets_what_was_purged() -> None:
    async with open_journal("memory://") as journal:
        record = SagaRecord(FORMAT, Status.COMPLETED, msgspec.Raw(b"{}"), NOW, NOW)
        await journal.write_messages([PersistentRepr("saga::a::1", 1, encode_record(record), deleted=True)])
        overview = Overview(ShownJournal(journal))
        while overview.counted_at is None:
            await overview.look(journal)
        assert overview.tally.count("completed") == 1
        await journal.purge([("saga::a::1", 1)])
        await _count_afresh(overview, journal)
        assert overview.tally.count("completed") == 0


async def test_only_so_many_ids_are_kept_and_it_says_that_there_are_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally_module, "MAX_WATCHED", 3)
    async with open_journal("memory://") as journal:
        record = SagaRecord(FORMAT, Status.RUNNING, msgspec.Raw(b"{}"), NOW, NOW, parked="because")
        await journal.write_messages(
            [PersistentRepr(f"saga::a::{number}", 1, encode_record(record)) for number in range(5)]
        )
        overview = Overview(ShownJournal(journal))
        while overview.counted_at is None:
            await overview.look(journal)
        parked = overview.tally.watched["parked"]
        assert (len(parked), parked.cut, overview.tally.count("parked")) == (3, True, 5)


async def test_an_overdue_timer_is_seen_though_nothing_is_written_and_a_tombstone_is_none() -> None:
    async with open_journal("memory://") as journal:
        timers = {"late": Timer("1/0", NOW, NOTHING)}
        record = SagaRecord(FORMAT, Status.RUNNING, msgspec.Raw(b"{}"), NOW, NOW, timers=timers)
        ended = SagaRecord(FORMAT, Status.COMPLETED, msgspec.Raw(b"{}"), NOW, NOW)
        await journal.write_messages(
            [
                PersistentRepr("saga::a::1", 1, encode_record(record), due_at=NOW),
                PersistentRepr("saga::a::2", 1, encode_record(ended), deleted=True, due_at=NOW),
            ]
        )
        now = NOW
        overview = Overview(ShownJournal(journal), clock=lambda: now)
        for _ in range(3):
            await overview.look(journal)
        assert overview.overdue == {}
        now = NOW + timedelta(minutes=1)
        overview._due_next = 0
        await overview.look(journal)
        assert [(name, one.since) for name, one in overview.overdue.items()] == [("saga::a::1", NOW)]


async def test_rates_lives_and_transitions_come_from_what_is_followed() -> None:
    async with open_journal("memory://") as journal:
        overview = Overview(ShownJournal(journal))
        while overview.counted_at is None:
            await overview.look(journal)
        first = SagaRecord(FORMAT, Status.RUNNING, msgspec.Raw(b"{}"), NOW, NOW, handled=(Handled("m", "Began"),))
        first.outbox = (Command("1/0", Typed("Do", msgspec.Raw(b"{}"))),)
        first.timers = {"bell": Timer("1/1", NOW, Typed("Rang", msgspec.Raw(b"{}")))}
        late = NOW + timedelta(seconds=3)
        last = SagaRecord(FORMAT, Status.COMPLETED, msgspec.Raw(b"{}"), NOW, late)
        last.handled = (Handled("saga::a::1/1/1", "Rang"),)
        await journal.write_messages(
            [
                PersistentRepr("saga::a::1", 1, encode_record(first)),
                PersistentRepr("saga::a::1", 2, encode_record(last), deleted=True),
            ]
        )
        await overview.look(journal)
        flow = overview.flow
        assert sum(flow.series("steps")) == 2
        assert (sum(flow.series("events")), sum(flow.series("commands"))) == (2, 1)
        assert list(flow.lives) == [late - NOW]
        assert list(flow.timer_lags) == [timedelta(seconds=3)]
        found = Counter({(one.event, one.kind, one.target): number for one, number in flow.transitions.items()})
        assert found == {
            ("Began", "command", "Do"): 1,
            ("Began", "timer", "Rang"): 1,
            ("Began", "status", "running"): 1,
            ("Rang", "status", "completed"): 1,
        }
