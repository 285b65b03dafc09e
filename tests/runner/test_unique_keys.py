"""A unique key is held by one live instance at a time, whoever dies, is slow, or is faster, on every journal."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from sagalog import (
    DefinitionError,
    InMemoryJournal,
    JournalSagaStateStore,
    JournalUnavailableError,
    Key,
    KeyTakenError,
    Outcome,
    OutcomeUnknownError,
    SagaRunner,
    SqliteJournal,
    open_journal,
)
from sagalog.decision.record import FINAL, SagaRecord, decode_record
from sagalog.journal import reservations
from sagalog.operating.transfer import Brought, bring, export_lines, read_export
from sagalog.operating.unheld import unheld
from sagalog.waiting import Waiting

from ..keyed import Ask, Booked, Desk, DeskSaga, Later, Leave, Scanned, Shut, Take
from .conftest import Bench, FourMethodStore

HANDLED, DUPLICATE, NO_INSTANCE = Outcome.HANDLED, Outcome.DUPLICATE, Outcome.NO_INSTANCE


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that may be on its way is waited for a twentieth of the time."""
    monkeypatch.setattr(reservations, "_PATIENCE", Waiting(first=0.002, most=0.02, seconds=0.05))


def runner(bench: Bench, source: Any = None, dispatch: Any = None, **more: Any) -> SagaRunner:
    return bench.runner(source, sagas=[DeskSaga], dispatch=dispatch or (lambda command: None), **more)


async def log(one: SagaRunner, name: str) -> list[str]:
    state: Desk = await one.state(DeskSaga, name)
    return state.log


async def record(bench: Bench, name: str) -> SagaRecord:
    assert bench.journal is not None
    found = await bench.journal.latest_message(f"saga::desk::{name}")
    assert found is not None
    return decode_record(found.payload)


async def seats(bench: Bench, *names: str) -> dict[str, tuple[str, ...]]:
    found = {name: (await record(bench, name)) for name in names}
    return {name: one.unique_keys.get("seat", ()) for name, one in found.items() if one.status not in FINAL}


async def test_a_key_that_another_instance_holds_is_a_conflict_that_changes_nothing(shared: Bench) -> None:
    async with runner(shared) as one:
        await one.handle(Booked("A", ["1", "2"]))
        await one.handle(Booked("B"))
        before = await record(shared, "B")
        with pytest.raises(KeyTakenError) as raised:
            await one.handle(Take("B", "1"), message_id="m")
        assert str(raised.value) == (
            "saga 'desk', id 'B': its key 'seat' is taken, the instance 'A' holds it. Nothing was stored."
        )
        assert (raised.value.key, raised.value.holder) == ("seat", "A")
        assert await record(shared, "B") == before
        with pytest.raises(KeyTakenError):
            await one.handle(Booked("C", ["3", "2"]))
        assert shared.journal is not None
        assert await shared.journal.latest_message("saga::desk::C") is None
        assert (await one.handle(Take("B", "3"))).handled  # what went before the conflict was given back
        await one.handle(Leave("A", "1"))
        assert (await one.handle(Take("B", "1"), message_id="m")).handled
        assert await seats(shared, "A", "B") == {"A": ("2",), "B": ("3", "1")}


async def test_an_event_reaches_the_one_that_holds_the_key(shared: Bench) -> None:
    async with runner(shared) as one:
        await one.handle(Booked("A", ["1"]))
        receipt = await one.handle(Scanned("1"), message_id="m")
        assert receipt.instances == {"desk": {"A": HANDLED}}
        assert (await one.handle(Scanned("1"), message_id="m")).duplicate
        await one.handle(Leave("A", "1"))
        assert (await one.handle(Scanned("1"))).ignored
        await one.handle(Booked("B", ["1"]))
        assert (await one.handle(Scanned("1"))).instances == {"desk": {"B": HANDLED}}
        await one.handle(Scanned("1", close=True), message_id="last")
        assert (await one.handle(Scanned("1", close=True), message_id="last")).duplicate  # its tombstone knows it
        assert (await one.handle(Scanned("1"))).ignored
        assert (await one.handle(Scanned("9"))).ignored


@pytest.mark.parametrize("undo", [False, True])
async def test_keys_end_with_the_life_and_another_may_take_them(shared: Bench, undo: bool) -> None:
    async with runner(shared) as one:
        await one.handle(Booked("A", ["1"]))
        await one.handle(Shut("A", undo))
        await one.handle(Booked("B", ["1"]))
        await one.handle(Booked("A"))  # its second life does not inherit
        with pytest.raises(KeyTakenError):
            await one.handle(Take("A", "1"))
        await one.handle(Shut("B", undo))
        assert (await one.handle(Take("A", "1"))).handled


async def test_an_operator_who_cancels_an_instance_frees_its_keys(shared: Bench) -> None:
    async with runner(shared) as one:
        await one.handle(Booked("A", ["1"]))
        await one.cancel("desk", "A")
        assert (await one.handle(Booked("B", ["1"]))).handled


async def test_many_that_want_one_key_at_once_one_gets_it(shared: Bench) -> None:
    async with runner(shared) as one, runner(shared) as two:
        names = [f"D{n}" for n in range(20)]
        told = await asyncio.gather(
            *((one, two)[n % 2].handle(Booked(name, ["1"])) for n, name in enumerate(names)), return_exceptions=True
        )
        assert sorted(type(one).__name__ for one in told) == ["KeyTakenError"] * 19 + ["Receipt"]
        (winner,) = [name for name, one in zip(names, told, strict=True) if not isinstance(one, BaseException)]
        assert await seats(shared, winner) == {winner: ("1",)}


async def test_two_that_want_two_keys_each_in_other_orders_do_not_wait_for_each_other(shared: Bench) -> None:
    async with runner(shared) as one, runner(shared) as two:
        for n in range(5):
            told = await asyncio.gather(
                one.handle(Booked(f"A{n}", [f"x{n}", f"y{n}"])),
                two.handle(Booked(f"B{n}", [f"y{n}", f"x{n}"])),
                return_exceptions=True,
            )
            assert all(not isinstance(one, BaseException) or isinstance(one, KeyTakenError) for one in told)


async def test_the_others_of_a_batch_are_handled(quick: Bench) -> None:
    async with runner(quick) as one:
        await one.handle(Booked("A", ["1"]))
        await one.handle(Booked("B"))
        told = await asyncio.gather(
            one.handle(Take("B", "2")),
            one.handle(Take("B", "1")),
            one.handle(Take("B", "3")),
            return_exceptions=True,
        )
        assert [type(one).__name__ for one in told] == ["Receipt", "KeyTakenError", "Receipt"]
        assert await log(one, "B") == ["booked", "takes 2", "takes 3"]
        assert await seats(quick, "A", "B") == {"A": ("1",), "B": ("2", "3")}


async def test_a_timer_that_wants_a_taken_key_parks_and_a_retry_gets_it_when_it_is_free(quick: Bench) -> None:
    async with runner(quick) as one:
        await one.handle(Booked("A", ["1"]))
        await one.handle(Booked("B"))
        await one.handle(Later("B", "1"))
        quick.advance(minutes=2)
        await one.settle()
        reason = (await record(quick, "B")).parked
        assert reason == "saga 'desk', id 'B': its key 'seat' is taken, the instance 'A' holds it. Nothing was stored."
        assert "its key 'seat' is taken" in (await one.retry("desk", "B")).parked
        await one.handle(Leave("A"))
        assert (await one.retry("desk", "B")).parked == ""
        assert await seats(quick, "A", "B") == {"A": (), "B": ("1",)}


async def test_an_answer_that_wants_a_taken_key_parks_who_asked(quick: Bench) -> None:
    async with runner(quick, dispatch=lambda command: Take(command.desk, command.seat)) as one:
        await one.handle(Booked("A", ["1"]))
        await one.handle(Booked("B"))
        await one.handle(Ask("B", "1"))
        await one.settle()
        found = await record(quick, "B")
        assert "its answer, a Take, cannot be taken" in found.parked
        assert "its key 'seat' is taken, the instance 'A' holds it" in found.parked
        await one.handle(Shut("A"))
        await one.retry("desk", "B")
        await one.settle()
        assert await seats(quick, "B") == {"B": ("1",)}


async def test_a_handler_that_fails_after_it_asked_for_a_key_has_taken_none(quick: Bench) -> None:
    async with runner(quick) as one:
        await one.handle(Booked("A"))
        assert (await one.handle(Take("A", "1", fail=True))).held
        assert (await one.handle(Booked("B", ["1"]))).handled


class Watched:
    """A journal in front of another: its writes can be stopped, lost, or followed by something else."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.before: Callable[[str], Any] = lambda persistence_id: None
        self.after: Callable[[str], Any] = lambda persistence_id: None
        self.written: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def write_batch(self, records: Any) -> Any:
        for one in records:
            told = self.before(one.persistence_id)
            if asyncio.iscoroutine(told):
                told = await told
            if told is not None:
                return [told] * len(records)
        answers = await self.inner.write_batch(records)
        self.written += [one.persistence_id for one in records]
        for one in records:
            told = self.after(one.persistence_id)
            if asyncio.iscoroutine(told):
                told = await told
            if told is not None:
                return [told] * len(records)
        return answers


async def never() -> None:
    await asyncio.Event().wait()


STEP, RESERVATION = "saga::desk::A", "key::desk::seat=1"


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
        with pytest.raises(JournalUnavailableError, match="while a unique key was reserved; nothing of the step"):
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
        assert await journal.highest_sequence_nr("saga::desk::B") == 1  # fenced: what would begin it comes too late
        assert (await one.handle(Booked("C", ["2", "3"]))).handled
        with pytest.raises(KeyTakenError):
            await one.handle(Booked("D", ["1"]))


async def test_a_store_of_four_methods_has_no_place_for_unique_keys() -> None:
    for source in (FourMethodStore(), {"desk": FourMethodStore()}):
        with pytest.raises(
            DefinitionError, match="unique key 'seat', and a FourMethodStore has no place to reserve it"
        ):
            SagaRunner(source, sagas=[DeskSaga], dispatch=lambda command: None)


async def test_a_store_over_a_journal_has(quick: Bench) -> None:
    assert quick.journal is not None
    async with runner(quick, JournalSagaStateStore(quick.journal, "desk")) as one:
        await one.handle(Booked("A", ["1"]))
        with pytest.raises(KeyTakenError):
            await one.handle(Booked("B", ["1"]))


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


async def test_within_a_transaction_a_key_is_taken_when_it_commits(
    postgres_schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncpg

    monkeypatch.setattr(reservations, "_CONTENDED", Waiting(first=0.002, most=0.1, seconds=0.5))

    connection = await asyncpg.connect(postgres_schema.partition("?")[0])
    async with open_journal(postgres_schema) as journal, runner(Bench(journal)) as one:
        bench = Bench(journal)
        await one.handle(Booked("B"))
        transaction = connection.transaction()
        await transaction.start()
        await one.handle(Booked("A", ["1"]), connection=connection)
        assert (await one.handle(Scanned("1"), connection=connection)).handled
        await one.handle(Booked("C", ["2"]), connection=connection)
        with pytest.raises(KeyTakenError, match="the instance 'C' holds it"):
            await one.handle(Take("A", "2"), connection=connection)
        with pytest.raises(JournalUnavailableError, match="others are about to take its unique key"):
            await one.handle(Take("B", "2"))  # nobody knows yet whether that transaction will commit
        await transaction.rollback()
        assert (await one.handle(Take("B", "1"))).handled
        async with connection.transaction():
            await one.handle(Booked("A", ["3"]), connection=connection)
        with pytest.raises(KeyTakenError):
            await one.handle(Take("B", "3"))
        assert await seats(bench, "A", "B") == {"A": ("3",), "B": ("1",)}
        await one.settle()
    await connection.close()


async def test_within_a_transaction_of_sqlite_a_key_is_taken_with_the_step(tmp_path: Any) -> None:
    path = tmp_path / "desks.db"
    async with open_journal(f"sqlite:///{path}") as journal, runner(Bench(journal)) as one:
        await one.handle(Booked("B", ["2"]))
        await one.settle()
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        await one.handle(Booked("A", ["1"]), connection=connection)
        assert (await one.handle(Scanned("1"), connection=connection)).instances == {"desk": {"A": HANDLED}}
        with pytest.raises(KeyTakenError):
            await one.handle(Take("A", "2"), connection=connection)
        connection.execute("ROLLBACK")
        assert (await one.handle(Take("B", "1"))).handled
        connection.execute("BEGIN IMMEDIATE")
        await one.handle(Booked("A", ["3"]), connection=connection)
        connection.execute("COMMIT")
        with pytest.raises(KeyTakenError):
            await one.handle(Take("B", "3"))
        await one.settle()
        connection.close()


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


def test_the_error_can_be_pickled() -> None:
    import pickle

    error = KeyTakenError("desk", "B", "seat", "A")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


async def test_an_import_brings_its_keys_along_and_stores_nothing_where_one_is_taken(quick: Bench) -> None:
    assert quick.journal is not None
    async with runner(quick) as one:
        await one.handle(Booked("A", ["1"]))
        await one.handle(Booked("B", ["2"]))
        lines = [line + b"\n" async for line in export_lines(quick.journal, at=quick.clock.now())]
    other = InMemoryJournal()
    async with runner(quick, other) as one:
        await one.handle(Booked("C", ["2"]))
        for dry_run in (True, False):
            brought, taken = [], []
            for records in read_export(lines):
                try:
                    brought.append(await bring(other, records, dry_run=dry_run))
                except KeyTakenError as error:
                    taken.append((error.correlation_id, error.holder))
            assert (brought, taken) == ([Brought.IMPORTED], [("B", "C")])
            imported = await other.latest_message("saga::desk::A"), await other.latest_message("key::desk::seat=1")
            assert [one is None for one in imported] == [dry_run] * 2
        assert await other.latest_message("saga::desk::B") is None
        with pytest.raises(KeyTakenError):
            await one.handle(Take("C", "1"))
        assert (await one.handle(Scanned("1"))).instances == {"desk": {"A": HANDLED}}
        assert [await bring(other, records) for records in read_export(lines) if records[0].persistence_id == STEP] == [
            Brought.DIFFERS  # it has gone on
        ]


class LooseSeats(DeskSaga):
    """The same desks, since many may have a seat."""

    name = "desk"
    keys = (Key("seat"), Key("floor"))


async def test_a_key_that_is_unique_no_more_reaches_an_instance_once_it_is_added_again(quick: Bench) -> None:
    async with runner(quick) as one:
        await one.handle(Booked("A", ["1"]))
    async with quick.runner(sagas=[LooseSeats], dispatch=lambda command: None) as one:
        await one.handle(Booked("B", ["1"]))
        assert (await one.handle(Scanned("1"))).instances == {"desk": {"B": HANDLED}}
        await one.handle(Take("A", "1"))
        assert (await one.handle(Scanned("1"))).instances == {"desk": {"A": HANDLED, "B": HANDLED}}
