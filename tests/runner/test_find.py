"""Live instances are found by the fields of their saga's index: on each journal, at once after a step, and no others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import Any

import pytest

from sagalog import (
    Action,
    CodecError,
    Compensate,
    Complete,
    DefinitionError,
    InMemoryJournal,
    JournalSagaStateStore,
    Saga,
    SagaRunner,
    Send,
    SqliteJournal,
    open_journal,
    starts,
)
from sagalog import on as reacts
from sagalog.decision.record import decode_record
from sagalog.decision.repair import edit
from sagalog.operating.apply import apply
from sagalog.operating.reindex import Indexed, reindex
from sagalog.operating.transfer import bring, export_lines, read_export

from .conftest import Bench


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Opened:
    case: str
    customer: str | None = ""


@dataclass
class Changed:
    case: str
    customer: str | None = None
    colour: Colour = Colour.RED


@dataclass
class Shut:
    case: str
    undo: bool = False


@dataclass
class Do:
    case: str


@dataclass
class Undo:
    case: str


@dataclass
class Case:
    customer: str | None = None
    colour: Colour = Colour.RED
    opened: date = date(2030, 1, 1)


class CaseSaga(Saga[Case]):
    name = "case"
    index = ("customer", "colour", "opened")

    @starts(Opened, key="case")
    def opened(self, case: Case, event: Opened) -> Iterator[Action]:
        case.customer = event.customer
        yield Send(Do(event.case), undo=Undo(event.case))

    @reacts(Changed, key="case")
    def changed(self, case: Case, event: Changed) -> None:
        if event.customer == "boom":
            raise RuntimeError("boom")
        case.customer, case.colour = event.customer, event.colour

    @reacts(Shut, key="case")
    def shut(self, case: Case, event: Shut) -> Action:
        return Compensate() if event.undo else Complete()


class OldSaga(CaseSaga):
    """The same, before it had an index."""

    name = "case"
    index = ()


class OtherSaga(CaseSaga):
    name = "case-2"


def runner(bench: Bench, source: Any = None, sagas: Any = (CaseSaga,), **more: Any) -> SagaRunner:
    return bench.runner(source, sagas=sagas, dispatch=lambda command: None, **more)


async def found(one: SagaRunner, saga: Any = CaseSaga, /, **fields: Any) -> list[str]:
    return sorted([instance.correlation_id async for instance in one.find(saga, **fields)])


async def test_instances_are_found_by_each_field_and_by_several(bench: Bench) -> None:
    async with runner(bench) as one:
        for name, customer in (("A", "c-7"), ("B", "c-7"), ("C", "c-8"), ("D", None)):
            await one.handle(Opened(name, customer))
        await one.handle(Changed("B", "c-7", Colour.BLUE))
        assert await found(one, customer="c-7") == ["A", "B"]
        assert await found(one, customer="c-7", colour=Colour.BLUE, opened=date(2030, 1, 1)) == ["B"]
        assert await found(one, customer=None) == ["D"]
        assert await found(one, customer="") == await found(one, customer="c") == []
        assert await found(one, colour=Colour.RED) == ["A", "C", "D"]
        (only,) = [instance async for instance in one.find(CaseSaga, customer="c-8")]
        assert (only.state, only.version, only.incarnation, only.parked) == (Case("c-8"), only.version, 1, "")
        assert only.state is not only.state
        assert "c-8" not in repr(only)


async def test_who_has_changed_is_found_by_what_is_new_and_who_has_ended_is_not(bench: Bench) -> None:
    async with runner(bench) as one:
        for name in "ABC":
            await one.handle(Opened(name, "c-7"))
        await one.settle()
        await one.handle(Changed("A", "c-9"))
        await one.handle(Shut("B"))
        await one.handle(Shut("C", undo=True))
        await one.settle()
        assert await found(one, customer="c-7") == []
        assert await found(one, customer="c-9") == ["A"]
        await one.handle(Opened("B", "c-7"))  # its next life
        await one.settle()
        assert await found(one, customer="c-7") == ["B"]


async def test_a_parked_instance_is_found_and_says_so(bench: Bench) -> None:
    async with runner(bench) as one:
        await one.handle(Opened("A", "c-7"))
        await one.handle(Changed("A", "boom"))
        (only,) = [instance async for instance in one.find(CaseSaga, customer="c-7")]
        assert "RuntimeError" in only.parked


async def test_many_are_found_page_by_page_and_each_once(bench: Bench) -> None:
    async with runner(bench, sagas=[CaseSaga] if bench.journal is None else [CaseSaga, OtherSaga]) as one:
        await asyncio.gather(*(one.handle(Opened(f"A{n:03}", f"c-{n % 2}")) for n in range(250)))
        assert await found(one, customer="c-1") == [f"A{n:03}" for n in range(1, 250, 2)]
        if bench.journal is not None:
            assert await found(one, OtherSaga, customer="c-1") == [f"A{n:03}" for n in range(1, 250, 2)]


async def test_what_cannot_be_found_is_an_error_before_anything_is_looked_for(bench: Bench) -> None:
    async with runner(bench) as one:
        for wrong, said in (
            ({"custmer": "c"}, "has no index on 'custmer'"),
            ({"customer": 7}, "by customer as str, not as int"),
            ({"colour": "red"}, "by colour as Colour, not as str"),
            ({}, "needs at least one field"),
        ):
            with pytest.raises(DefinitionError, match=said):
                one.find(CaseSaga, **wrong)


async def test_a_record_that_this_code_cannot_read_is_found_by_an_index_and_says_so(tmp_path: Any) -> None:
    bench = Bench(SqliteJournal(tmp_path / "cases.db"))
    async with runner(bench) as one:
        await one.handle(Opened("A", "c-7"))
        await one.settle()
        assert bench.journal is not None
        store = JournalSagaStateStore(bench.journal, "case")
        saved = await store.load("A")
        assert saved is not None
        newer = saved.payload.replace(b'"format":1', b'"format":9')
        await store.save("A", newer, expected_version=saved.version)
        (only,) = [instance async for instance in one.find(CaseSaga, customer="c-7")]
        assert "format 9" in only.unreadable
        with pytest.raises(CodecError, match="'A' cannot be read"):
            only.state
    await bench.journal.close()


async def test_an_index_that_came_later_takes_in_an_instance_with_its_next_step_or_by_reindexing(shared: Bench) -> None:
    async with runner(shared, sagas=[OldSaga]) as old:
        for name in "ABC":
            await old.handle(Opened(name, "c-7"))
        await old.settle()
        await old.handle(Shut("C"))
        await old.settle()
    journal = shared.journal
    assert journal is not None
    async with runner(shared) as new:
        assert await found(new, customer="c-7") == []
        await new.handle(Changed("A", "c-7"))
        assert await found(new, customer="c-7") == ["A"]
        assert await reindex(journal, CaseSaga(), "B", dry_run=True) is Indexed.INDEXED
        assert await found(new, customer="c-7") == ["A"]
        for name, expected in (("A", "AS_IT_WAS"), ("B", "INDEXED"), ("C", "GONE"), ("D", "GONE")):
            assert (await reindex(journal, CaseSaga(), name)).name == expected
        assert await found(new, customer="c-7") == ["A", "B"]
        assert await reindex(journal, CaseSaga(), "B", force=True) is Indexed.INDEXED
        await new.handle(Changed("B", "c-8"))
        assert await found(new, customer="c-8") == ["B"]
    async with runner(shared, sagas=[OldSaga]) as old:  # an index that is given up again
        await old.handle(Changed("A", "c-9"))
    async with runner(shared) as new:
        assert await found(new, customer="c-7") == []


async def test_an_edit_and_an_import_are_found_as_a_step_is(shared: Bench) -> None:
    journal = shared.journal
    assert journal is not None
    async with runner(shared) as one:
        await one.handle(Opened("A", "c-7"))
        await one.settle()
        saga, state = CaseSaga(), Case("c-8")
        index = type(saga).index_table().texts
        repair = edit(saga.encode_state(state), index=lambda phase: index(state, phase))
        await apply(journal, "case", "A", repair)
        assert await found(one, customer="c-7") == []
        assert await found(one, customer="c-8") == ["A"]
        lines = [line + b"\n" async for line in export_lines(journal, at=shared.clock.now())]
    other = InMemoryJournal()
    for records in read_export(lines):
        await bring(other, records)
    async with runner(shared, other) as one:
        assert await found(one, customer="c-8") == ["A"]


async def test_a_saga_without_an_index_writes_no_terms(tmp_path: Any) -> None:
    """And one with it only where they change."""
    bench = Bench(SqliteJournal(tmp_path / "cases.db"))
    assert bench.journal is not None
    written: list[Any] = []
    real = bench.journal.write_batch

    async def write_batch(records: Any) -> Any:
        written.extend(record.terms for record in records)
        return await real(records)

    bench.journal.write_batch = write_batch  # type: ignore[method-assign]
    async with runner(bench, sagas=[OldSaga]) as one:
        await one.handle(Opened("A", "c-7"))
        await one.settle()
        assert set(written) == {None}
    written.clear()
    async with runner(bench) as one:
        await one.handle(Opened("B", "c-7"))
        await one.settle()
        await one.handle(Changed("B", "c-7"))
        await one.handle(Changed("B", "c-8"))
        await one.settle()
        assert [terms for terms in written if terms is not None] == [
            ("case customer=c-7", "case colour=red", "case opened=2030-01-01"),
            ("case customer=c-8", "case colour=red", "case opened=2030-01-01"),
        ]
    await bench.journal.close()


async def test_a_step_within_a_transaction_is_found_when_that_commits_and_not_if_it_is_rolled_back(
    postgres_schema: str,
) -> None:
    import asyncpg

    connection = await asyncpg.connect(postgres_schema.partition("?")[0])
    async with open_journal(postgres_schema) as journal, runner(Bench(journal)) as one:
        transaction = connection.transaction()
        await transaction.start()
        await one.handle(Opened("A", "c-7"), connection=connection)
        assert await found(one, customer="c-7") == []
        await transaction.rollback()
        assert await found(one, customer="c-7") == []
        async with connection.transaction():
            await one.handle(Opened("B", "c-7"), connection=connection)
            await one.handle(Changed("B", "c-8"), connection=connection)
        assert await found(one, customer="c-8") == ["B"]
        await one.settle()
    await connection.close()


async def test_what_a_record_is_found_by_stands_in_it(bench: Bench) -> None:
    async with runner(bench) as one:
        await one.handle(Opened("A", "x" * 300))
        saved = await (
            bench.plain.load("A") if bench.journal is None else JournalSagaStateStore(bench.journal, "case").load("A")
        )
        assert saved is not None
        index = decode_record(saved.payload).index
        assert index["customer"] is not None
        assert index["customer"].startswith("sha256:")
        assert await found(one, customer="x" * 300) == ["A"]
