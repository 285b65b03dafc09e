"""A unique key takes two writes, its reservation and the step: whoever dies or is slow between them, it is held once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from sagalog import (
    JournalSagaStateStore,
    JournalUnavailableError,
    KeyTakenError,
    OutcomeUnknownError,
    SqliteJournal,
)
from sagalog.journal import reservations
from sagalog.operating.unheld import unheld
from sagalog.waiting import Waiting

from ..keyed import Booked, Later, Leave, Shut, Take
from .conftest import Bench
from .desks import RESERVATION, STEP, Watched, impatient, never, record, runner, seats  # noqa: F401  (a fixture)


@pytest.mark.parametrize("life", ["first", "later"])
@pytest.mark.parametrize(
    ("when", "what"), [("before", RESERVATION), ("after", RESERVATION), ("before", STEP), ("after", STEP)]
)
async def test_a_worker_that_dies_between_the_two_writes_keeps_nobody_from_the_key(
    quick: Bench, when: str, what: str, life: str
) -> None:
    journal = Watched(quick.journal)
    dying = runner(quick, journal)
    async with runner(quick) as other:
        await dying.start()
        if life == "later":
            await dying.handle(Booked("A"))
            journal.written.clear()
        setattr(journal, when, lambda persistence_id: never() if persistence_id == what else None)
        wanted = Take("A", "1") if life == "later" else Booked("A", ["1"])
        hanging = asyncio.ensure_future(dying.handle(wanted, message_id="m"))
        reached = [RESERVATION, STEP][: (RESERVATION, STEP).index(what) + (when == "after")]
        while journal.written != reached:
            await asyncio.sleep(0.001)
        if when == "after" and what == STEP:
            with pytest.raises(KeyTakenError):
                await other.handle(Booked("B", ["1"]))
            assert (await other.handle(wanted, message_id="m")).duplicate
        else:
            assert (await other.handle(Booked("B", ["1"]))).handled
            with pytest.raises(KeyTakenError):  # sent again, as its sender does that had no answer
                await other.handle(wanted, message_id="m")
        journal.before = journal.after = lambda persistence_id: None
        hanging.cancel()
        await asyncio.gather(hanging, return_exceptions=True)


async def test_a_step_that_was_on_its_way_when_its_key_was_taken_over_is_lost_and_decided_again(quick: Bench) -> None:
    """The worker is not dead: it was away between its two writes."""
    journal = Watched(quick.journal)
    gate, away = asyncio.Event(), asyncio.Event()

    async def wait(persistence_id: str) -> None:
        if persistence_id == STEP and not gate.is_set():
            away.set()
            await gate.wait()

    async with runner(quick, journal) as slow, runner(quick) as other:
        await slow.handle(Booked("A"))
        journal.before = wait
        taking = asyncio.ensure_future(slow.handle(Take("A", "1")))
        await away.wait()
        assert (await other.handle(Booked("B", ["1"]))).handled
        gate.set()
        with pytest.raises(KeyTakenError):
            await taking
        assert await seats(quick, "A", "B") == {"A": (), "B": ("1",)}
        assert (await slow.handle(Take("A", "2"))).handled


async def test_a_step_that_lands_while_it_is_waited_for_keeps_its_key(
    quick: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reservations, "_PATIENCE", Waiting(first=0.002, most=0.02, seconds=30))
    journal = Watched(quick.journal)
    gate, away = asyncio.Event(), asyncio.Event()

    async def wait(persistence_id: str) -> None:
        if persistence_id == STEP:
            away.set()
            await gate.wait()

    async with runner(quick, journal) as slow, runner(quick) as other:
        journal.before = wait
        taking = asyncio.ensure_future(slow.handle(Booked("A", ["1"])))
        await away.wait()
        wants = asyncio.ensure_future(other.handle(Booked("B", ["1"])))
        await asyncio.sleep(0.01)
        assert not wants.done()
        gate.set()
        assert (await taking).handled
        with pytest.raises(KeyTakenError):
            await wants


async def test_a_reservation_without_an_answer_is_looked_up(quick: Bench) -> None:
    journal = Watched(quick.journal)
    lost = [OutcomeUnknownError("no answer")]
    journal.after = lambda persistence_id: lost.pop() if persistence_id == RESERVATION and lost else None
    async with runner(quick, journal) as one:
        assert (await one.handle(Booked("A", ["1"]))).handled
        assert await seats(quick, "A") == {"A": ("1",)}
        assert not lost


async def test_a_journal_that_is_away_while_a_key_is_reserved_is_told_and_nothing_is_parked(quick: Bench) -> None:
    journal = Watched(quick.journal)
    journal.before = lambda persistence_id: JournalUnavailableError("away") if persistence_id == RESERVATION else None
    async with runner(quick, journal) as one:
        with pytest.raises(JournalUnavailableError, match="while a unique key was being reserved; the step"):
            await one.handle(Booked("A", ["1"]))
        await one.handle(Booked("B"))
        await one.handle(Later("B", "1"))
        quick.advance(minutes=2)
        await one.settle()
        assert (await record(quick, "B")).parked == ""
        journal.before = lambda persistence_id: None
        quick.advance(minutes=2)
        await one.settle()
        assert await seats(quick, "B") == {"B": ("1",)}


async def test_reservations_are_no_instances_and_are_swept_when_nobody_holds_them(quick: Bench) -> None:
    journal: Any = quick.journal
    async with runner(quick, retention=timedelta(days=1), due_poll=timedelta(milliseconds=10)) as one:
        for name in "ABC":
            await one.handle(Booked(name, [f"{name}1", f"{name}2"]))
        await one.handle(Leave("A", "A1"))
        await one.handle(Shut("B"))
        await one.settle()
        assert [key async for key in JournalSagaStateStore(journal, "desk").keys()] == ["A", "C"]
        assert len(await journal.ids_by_prefix("key::desk::")) == 6
        quick.advance(days=1, minutes=1)
        while len(await journal.ids_by_prefix("key::desk::")) > 3 or await journal.ids_by_prefix("key::", deleted=True):
            await asyncio.sleep(0.005)
        assert sorted(await journal.ids_by_prefix("key::desk::")) == [
            f"key::desk::seat={text}" for text in ("A2", "C1", "C2")
        ]
        assert await journal.ids_by_prefix("key::", deleted=True) == []
        assert await journal.highest_sequence_nr("key::desk::seat=B1") == 0
        with pytest.raises(KeyTakenError):
            await one.handle(Booked("D", ["C1"]))
        assert (await one.handle(Booked("D", ["B1"]))).handled


async def test_a_purge_by_hand_finds_what_nobody_holds_and_fences_what_may_be_on_its_way(shared: Bench) -> None:
    journal: Any = shared.journal
    now = shared.clock.now()

    async def found(hours: float) -> list[str]:
        later = now + timedelta(hours=hours)
        listed = unheld(journal, "desk", now=later, older_than=timedelta())
        return sorted([reservation.persistence_id async for _, reservation in listed])

    async with runner(shared) as one:
        await one.handle(Booked("A", ["1", "2"]))
        await one.handle(Leave("A", "2"))
        await one.handle(Booked("B", ["3"]))
        await one.handle(Shut("B"))
        await one.settle()
        number = await journal.highest_sequence_nr("saga::desk::B")
        await journal.purge([("saga::desk::B", number)])  # nothing tells any more that its step is over
        assert await found(0.0) == ["key::desk::seat=2"]
        assert await found(2.0) == ["key::desk::seat=2", "key::desk::seat=3"]
        async for reservations, reservation in unheld(
            journal, None, now=now + timedelta(hours=2), older_than=timedelta()
        ):
            assert await reservations.forget(reservation)
            assert not await reservations.forget(reservation) or reservation.deleted  # it is gone
        assert await journal.ids_by_prefix("key::") == ["key::desk::seat=1"]
        await one.settle()  # its worker purges what is due
        assert await journal.highest_sequence_nr("saga::desk::B") == 1  # fenced: what would begin it comes too late
        assert (await one.handle(Booked("C", ["2", "3"]))).handled
        with pytest.raises(KeyTakenError):
            await one.handle(Booked("D", ["1"]))


async def test_a_caller_who_withdraws_leaves_nothing_that_lasts(quick: Bench) -> None:
    journal = Watched(quick.journal)
    reached = asyncio.Event()

    async def hang(persistence_id: str) -> None:
        if persistence_id == RESERVATION:
            reached.set()
            await never()

    journal.after = hang
    async with runner(quick, journal) as one:
        taking = asyncio.ensure_future(one.handle(Booked("A", ["1"])))
        await reached.wait()
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        journal.after = lambda persistence_id: None
        assert (await one.handle(Booked("B", ["1"]))).handled
        assert (await one.handle(Booked("A"))).handled


async def test_a_key_costs_one_write_more_and_none_where_it_is_held_already(tmp_path: Any) -> None:
    bench = Bench(SqliteJournal(tmp_path / "desks.db"))
    journal = Watched(bench.journal)
    async with runner(bench, journal) as one:
        await one.handle(Booked("A", ["1"]))
        assert journal.written == [RESERVATION, STEP]
        await one.handle(Take("A", "1"))
        await one.handle(Leave("A", "1"))
        assert journal.written == [RESERVATION, STEP, STEP, STEP]
    await bench.journal.close()  # type: ignore[union-attr]


async def test_a_damaged_reservation_is_taken_for_held(quick: Bench) -> None:
    from sagalog import PersistentRepr

    journal: Any = quick.journal
    await journal.write_messages([PersistentRepr(RESERVATION, 1, b"{]", "saga-key")])
    async with runner(quick) as one:
        with pytest.raises(KeyTakenError, match="the stored reservation of a key is damaged"):
            await one.handle(Booked("A", ["1"]))
