from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from sagalog import CodecError, InMemoryJournal, Journal, JournalUnavailableError, PersistentRepr, SqliteJournal
from sagalog.journal.protocol import FIRST_MOMENT, LAST_MOMENT
from sagalog.operating.transfer import Brought, Totals, bring, export_lines, read_export

from ..orders import Closed, Failing, Noted, OrderSaga, Placed
from .conftest import Bench

AT = datetime(2030, 1, 1, tzinfo=UTC)


async def exported(journal: Journal, **options: Any) -> list[bytes]:
    return [text + b"\n" async for text in export_lines(journal, at=AT, **options)]


async def everything(journal: Journal, beside: Journal | None = None) -> dict[str, list[PersistentRepr]]:
    """Return all records as `beside`, too, can hold them: a journal without an index keeps no terms."""
    indexed = all(hasattr(one, "latest_by_terms") for one in (journal, beside or journal))
    found: dict[str, list[PersistentRepr]] = {}
    for deleted in (False, True):
        for key in await journal.ids_by_prefix("saga::", limit=1000, deleted=deleted):
            # Epochs are of one journal, and are not carried over.
            found[key] = [
                structs.replace(message, epoch=0, terms=message.terms if indexed else None)
                async for message in journal.replay_messages(key)
            ]
    return found


async def some_orders(bench: Bench) -> None:
    OrderSaga.fail_times = 99
    async with bench.runner() as runner:
        for key in ("a", "b::c", "ü\x00\n"):
            await runner.handle(Placed(key), message_id="1")
            await runner.handle(Noted(key, "x"), message_id="2")
            await runner.settle()
        await runner.handle(Closed("a"), message_id="3")
        await runner.handle(Failing("b::c"), message_id="3")
        await runner.settle()


async def test_an_imported_journal_holds_the_same_and_goes_on(shared: Bench) -> None:
    source = Bench(InMemoryJournal())
    source.clock = shared.clock
    await some_orders(source)
    assert source.journal is not None
    assert shared.journal is not None
    lines = await exported(source.journal)
    instances = list(read_export(lines))
    assert [await bring(shared.journal, one) for one in instances] == [Brought.IMPORTED] * 3
    before, after = await everything(source.journal, shared.journal), await everything(shared.journal)
    newest = {key: messages[-1] for key, messages in before.items()}
    assert {key: messages[-1] for key, messages in after.items()} == newest
    assert {key: [m.payload for m in messages] for key, messages in after.items()} == {
        key: [m.payload for m in messages] for key, messages in before.items()
    }
    assert [await bring(shared.journal, one) for one in instances] == [Brought.THERE] * 3
    async with shared.runner() as runner:
        assert (await runner.handle(Noted("a"), message_id="3")).duplicate  # also what has ended is known
        assert (await runner.handle(Noted("ü\x00\n", "y"), message_id="1")).duplicate
        shared.advance(hours=1)
        await runner.settle()  # its timer came along
    assert (await shared.log("ü\x00\n"))[-1] == "overdue"


async def test_where_history_is_cut_the_numbers_stay(shared: Bench, tmp_path: Path) -> None:
    source = Bench(SqliteJournal(tmp_path / "cut.db", history=2))
    async with source.runner() as runner:
        await runner.handle(Placed("a"))
        for number in range(8):
            await runner.handle(Noted("a", str(number)))
            await runner.settle()
    assert source.journal is not None
    assert shared.journal is not None
    (instance,) = read_export(await exported(source.journal))
    assert instance[0].sequence_nr > 3
    assert await bring(shared.journal, instance) is Brought.IMPORTED
    assert [m.sequence_nr async for m in shared.journal.replay_messages("saga::order::a")] == [
        message.sequence_nr for message in instance
    ]
    assert await bring(shared.journal, instance) is Brought.THERE
    shared.clock = source.clock
    async with shared.runner() as runner:
        await runner.handle(Noted("a", "here"))
        await runner.settle()
    assert shared.world.seen[-1][0] == f"saga::order::a/{instance[-1].sequence_nr + 1}/0"
    await source.journal.close()


async def test_only_the_newest_records_can_be_moved(shared: Bench) -> None:
    source = Bench(InMemoryJournal())
    await some_orders(source)
    assert source.journal is not None
    assert shared.journal is not None
    totals = Totals()
    instances = list(read_export(await exported(source.journal, latest=True, totals=totals)))
    assert (totals.instances, totals.records) == (3, 3)
    for instance in instances:
        assert await bring(shared.journal, instance) is Brought.IMPORTED
    newest = {key: messages[-1] for key, messages in (await everything(source.journal, shared.journal)).items()}
    assert await everything(shared.journal) == {key: [message] for key, message in newest.items()}


@pytest.mark.parametrize(
    "due_at", [FIRST_MOMENT, datetime(1969, 12, 31, tzinfo=UTC), datetime(9500, 1, 1, tzinfo=UTC), LAST_MOMENT]
)
async def test_what_is_due_at_any_moment_that_journals_carry_can_be_moved(shared: Bench, due_at: datetime) -> None:
    source, early = Bench(InMemoryJournal()), InMemoryJournal()
    async with source.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.settle()
    assert source.journal is not None
    assert shared.journal is not None
    for number, message in enumerate((await everything(source.journal))["saga::order::a"], 1):
        await early.write_messages([structs.replace(message, sequence_nr=number, due_at=due_at)])
    (instance,) = read_export(await exported(early))
    assert await bring(shared.journal, instance) is Brought.IMPORTED
    newest = await shared.journal.latest_message("saga::order::a")
    assert newest is not None
    assert newest.due_at == due_at


@pytest.mark.parametrize("writes", [0, 1, 2, 3])
async def test_an_import_that_dies_goes_on_where_it_stopped(writes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Bench(InMemoryJournal())
    await some_orders(source)
    assert source.journal is not None
    instance = next(iter(read_export(await exported(source.journal))))[2:]
    monkeypatch.setattr("sagalog.operating.transfer._CHUNK_RECORDS", 1)
    target = InMemoryJournal()
    real, left = target.write_messages, iter(range(writes))

    async def write(messages: Any, *, atomic: bool = False) -> None:
        if next(left, None) is None:
            raise JournalUnavailableError("it died")
        await real(messages, atomic=atomic)

    monkeypatch.setattr(target, "write_messages", write)
    with pytest.raises(JournalUnavailableError):
        await bring(target, instance)
    assert await target.due_ids("saga::", datetime.max.replace(tzinfo=UTC)) == []  # no worker takes half of it
    monkeypatch.setattr(target, "write_messages", real)
    assert await bring(target, instance) is Brought.IMPORTED
    (kept,) = (await everything(target)).values()
    assert [m.payload for m in kept] == [m.payload for m in instance]


async def test_two_that_import_the_same_at_once_help_each_other(shared: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Bench(InMemoryJournal())
    await some_orders(source)
    assert source.journal is not None
    assert shared.journal is not None
    instances = list(read_export(await exported(source.journal)))
    monkeypatch.setattr("sagalog.operating.transfer._CHUNK_RECORDS", 1)
    for instance in (instances[0][2:], *instances[1:]):  # of the first, the history is cut
        brought = await asyncio.gather(*(bring(shared.journal, instance) for _ in range(3)))
        assert set(brought) <= {Brought.IMPORTED, Brought.THERE}
    assert await bring(shared.journal, instances[1]) is Brought.THERE


async def test_nothing_is_overwritten(shared: Bench) -> None:
    source = Bench(InMemoryJournal())
    await some_orders(source)
    assert source.journal is not None
    assert shared.journal is not None
    async with shared.runner() as runner:
        await runner.handle(Placed("a", 99))
        await runner.settle()
    before = await everything(shared.journal)
    instance = next(one for one in read_export(await exported(source.journal)) if one[0].persistence_id.endswith("::a"))
    assert await bring(shared.journal, instance, dry_run=True) is Brought.DIFFERS
    assert await bring(shared.journal, instance) is Brought.DIFFERS
    assert await everything(shared.journal) == before


async def _lines() -> list[bytes]:
    source = Bench(InMemoryJournal())
    await some_orders(source)
    assert source.journal is not None
    return await exported(source.journal)


def _changed(lines: list[bytes], number: int, **fields: Any) -> list[bytes]:
    line = {**json.loads(lines[number]), **fields}
    return [*lines[:number], json.dumps(line).encode() + b"\n", *lines[number + 1 :]]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: lines[1:], "line 1: this is not an export of sagas"),
        (lambda lines: _changed(lines, 0, version=2), "has version 2; this code knows 1: upgrade"),
        (lambda lines: [b"hello\n"], "line 1: this is not a line of an export"),
        (lambda lines: [], "ends after line 0"),
        (lambda lines: lines[:-1], "without its totals: it was cut off"),
        (lambda lines: [*lines[:2], *lines[3:]], "line 3: a record is missing before this one"),
        (lambda lines: _changed(lines, 1, payload='{"total":1}'), "do not match their number and checksum"),
        (lambda lines: _changed(lines, 1, id="other::x"), "line 2: this is not a record of a saga"),
        (lambda lines: _changed(lines, 1, payload=None, base64="%"), "not base64"),
        (lambda lines: [lines[0], lines[-1]], "the totals do not match what came before:"),
        (lambda lines: _changed(lines, 1, nr=10**15), "line 2: the record has number 1,000,000,000,000,000"),
        (lambda lines: _changed(lines, 1, nr=10**30), "line 2: the record has number"),
        (lambda lines: _changed(lines, 1, nr="1"), "line 2: this is not a line"),
        (lambda lines: _changed(lines, 1, id="saga::<script>::x"), "line 2: this is not a record of a saga"),
        (lambda lines: _changed(lines, 1, id="saga::a\n::x"), "line 2: this is not a record of a saga"),
        (lambda lines: _changed(lines, 1, id="saga::order::" + "x" * 2000), "line 2: this is not a record of a saga"),
        (lambda lines: _changed(lines, 1, due_at="9999-12-31T23:59:59-14:00"), "line 2: "),
        (lambda lines: _changed(lines, 1, due_at="2030-01-01T00:00:00"), "line 2: its due time"),
        (lambda lines: _changed(lines, 1, tags=["x"] * 1000), "line 2: "),
        (lambda lines: _changed(lines, 1, manifest="x" * 10_000), "line 2: a manifest"),
        (lambda lines: _changed(lines, 1, manifest="saga-import-gap"), "line 2: this is not a record"),
        (lambda lines: [lines[0], b"[" * 2_000_000], "line 2: this is not a line"),
        (lambda lines: [lines[0], b'{"x":' * 200_000 + b"1" + b"}" * 200_000], "line 2: this is not a line"),
        (lambda lines: [*lines, lines[1]], "there is more after the totals"),
    ],
)
async def test_a_damaged_export_is_refused_and_the_line_is_named(damage: Any, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        list(read_export(damage(await _lines())))


def test_a_line_without_end_is_refused_before_it_is_in_memory() -> None:
    class Endless:
        given = 0

        def __iter__(self) -> Any:
            raise AssertionError("it would be read whole")

        def readline(self, most: int) -> bytes:
            self.given += most
            return b"x" * most

    lines = Endless()
    with pytest.raises(CodecError, match=r"line 1: it is longer than 67,108,864 bytes"):
        list(read_export(lines))  # type: ignore[arg-type]
    assert lines.given < 70_000_000
