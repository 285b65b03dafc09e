"""A unique key is held by one live instance at a time, whoever dies, is slow, or is faster, on every journal."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any

import pytest

from sagalog import (
    DefinitionError,
    InMemoryJournal,
    JournalSagaStateStore,
    JournalUnavailableError,
    Key,
    KeyTakenError,
    SagaRunner,
    open_journal,
)
from sagalog.journal import reservations
from sagalog.operating.transfer import Brought, bring, export_lines, read_export
from sagalog.waiting import Waiting

from ..keyed import Ask, Booked, DeskSaga, Later, Leave, Scanned, Shut, Take
from .conftest import Bench, FourMethodStore
from .desks import HANDLED, STEP, impatient, log, record, runner, seats  # noqa: F401  (a fixture)


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
        assert "its answer, a Take, cannot be handled" in found.parked
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


async def test_a_store_of_four_methods_has_no_place_for_unique_keys() -> None:
    for source in (FourMethodStore(), {"desk": FourMethodStore()}):
        with pytest.raises(DefinitionError, match="unique key 'seat', and a FourMethodStore cannot reserve it"):
            SagaRunner(source, sagas=[DeskSaga], dispatch=lambda command: None)


async def test_a_store_over_a_journal_has(quick: Bench) -> None:
    assert quick.journal is not None
    async with runner(quick, JournalSagaStateStore(quick.journal, "desk")) as one:
        await one.handle(Booked("A", ["1"]))
        with pytest.raises(KeyTakenError):
            await one.handle(Booked("B", ["1"]))


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
        with pytest.raises(JournalUnavailableError, match="others keep trying to take its unique key;"):
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
