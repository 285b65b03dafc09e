"""Batches: each record is told by itself; lookups and moves of many ids; epochs; moments at the ends of the calendar."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from sagalog import (
    InMemoryJournal,
    InvalidEventError,
    JournalUnavailableError,
    PersistentRepr,
    SequenceOutOfOrder,
    SqliteJournal,
)
from sagalog.conformance.records import IDS, NOW, record, write
from sagalog.journal.protocol import Journal, MovedDue


@pytest.fixture(params=["memory", "sqlite on the loop", "sqlite on its thread"])
async def journal(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Journal]:
    on_loop = timedelta(minutes=1) if "loop" in request.param else timedelta(0)
    opened = InMemoryJournal() if request.param == "memory" else SqliteJournal(tmp_path / "j.db", on_loop=on_loop)
    async with opened as one:
        yield one


def kinds(answers: object) -> list[type | None]:
    return [None if answer is None else type(answer) for answer in answers]  # type: ignore[attr-defined]


async def test_each_record_of_a_batch_is_told_by_itself(journal: Journal) -> None:
    await write(journal, "old", 1, 2)
    batch = [record("old", 2), record("new", 1), record("late", 2), record("\ud800", 1), record("old2", 0)]
    batch += [record(key, 1, key.encode()) for key in IDS]
    lost = SequenceOutOfOrder
    assert kinds(await journal.write_batch(batch)) == [lost, None, lost, InvalidEventError, lost] + [None] * len(IDS)
    found = await journal.latest_messages(["old", "late", *IDS, "new", "old"])
    assert [one and (one.persistence_id, one.sequence_nr) for one in found] == [
        ("old", 2), None, *((key, 1) for key in IDS), ("new", 1), ("old", 2),
    ]  # fmt: skip


async def test_a_batch_of_any_size_is_stored(journal: Journal) -> None:
    assert await journal.write_batch([]) == []
    assert set(await journal.write_batch([record(f"k{n}", 1, due_at=NOW) for n in range(5000)])) == {None}
    found = await journal.latest_messages([f"k{n}" for n in range(5000)])
    assert [one and one.persistence_id for one in found] == [f"k{n}" for n in range(5000)]


async def test_a_short_batch_needs_no_suspension_on_the_loop(tmp_path: Path) -> None:
    async with SqliteJournal(tmp_path / "j.db", on_loop=timedelta(milliseconds=60_000)) as journal:
        with pytest.raises(StopIteration) as stopped:
            journal.write_batch([record(f"k{n}", 1) for n in range(64)]).send(None)
        assert stopped.value.value == [None] * 64


async def test_an_epoch_stays_until_the_id_is_purged(journal: Journal) -> None:
    batch = [record("p", 1, epoch=7), record("q", 1)]
    assert kinds(await journal.write_batch(batch)) == [None, None]
    batch = [record("p", 2, epoch=8), record("q", 2, epoch=2**63 - 1)]
    assert kinds(await journal.write_batch(batch)) == [SequenceOutOfOrder, None]
    await write(journal, "p", 2)
    found = await journal.latest_messages(["p", "q"])
    assert [one and one.epoch for one in found] == [7, 2**63 - 1]
    await journal.write_messages([record("p", 3, deleted=True, epoch=7)])
    await journal.purge([("p", 3), ("q", 2), ("unknown", 1)])
    assert await journal.latest_messages(["p"]) == [None]
    assert kinds(await journal.write_batch([record("p", 1, epoch=8)])) == [None]


async def test_only_ids_whose_newest_record_is_that_number_are_moved(journal: Journal) -> None:
    for key in IDS:
        await write(journal, key, 1)
    later = NOW + timedelta(hours=1)
    moves = [MovedDue(key, 1, later) for key in IDS]
    assert await journal.move_due([*moves, MovedDue("a", 2, NOW), MovedDue("unknown", 1, NOW)]) == [
        *[True] * len(IDS), False, False,
    ]  # fmt: skip
    assert sorted(await journal.due_ids("", later)) == sorted((key, later) for key in IDS)
    assert await journal.move_due([MovedDue("a", 1, None), MovedDue("a\x00b", 1, NOW)]) == [True, True]
    assert await journal.due_ids("", NOW) == [("a\x00b", NOW)]
    assert await journal.move_due([]) == []


@pytest.mark.parametrize(
    "at",
    [
        datetime.max.replace(tzinfo=UTC),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
        datetime(9999, 12, 31),  # noqa: DTZ001
    ],
)
async def test_a_moment_that_no_journal_can_carry_is_refused_by_all(journal: Journal, at: datetime) -> None:
    with pytest.raises(InvalidEventError, match=r"due_at.*othing was stored"):
        await journal.write_messages([record("p", 1, due_at=at)])
    assert kinds(await journal.write_batch([record("p", 1, due_at=at)])) == [InvalidEventError]
    assert await journal.highest_sequence_nr("p") == 0


async def test_a_closed_journal_answers_a_batch(journal: Journal) -> None:
    await journal.close()
    assert kinds(await journal.write_batch([record("p", 1)])) == [JournalUnavailableError]


async def test_the_view_is_json_whatever_the_payload_holds(tmp_path: Path) -> None:
    async with SqliteJournal(tmp_path / "j.db") as journal:
        payloads = ['{"a":"\\"ä\\n"}'.encode(), b"\xff\x00", b"", b"no json"]
        await journal.write_batch([record(f"k{n}", 1, payload) for n, payload in enumerate(payloads)])
    connection = sqlite3.connect(tmp_path / "j.db")
    rows = connection.execute("SELECT json_valid(record), json_extract(record, '$.a') FROM saga").fetchall()
    connection.close()
    assert [valid for valid, _ in rows] == [1, 1, 1, 1]
    assert rows[0][1] == '"ä\n'


@pytest.mark.parametrize("odd", [None, 1, b"p", ["p"]])
async def test_odd_ids_are_refused(journal: Journal, odd: object) -> None:
    assert kinds(await journal.write_batch([record(odd, 1)])) == [InvalidEventError]  # type: ignore[arg-type]
    await asyncio.sleep(0)


async def test_a_writer_whose_first_record_lost_is_read_back_as_any_other(tmp_path: Path) -> None:
    async with SqliteJournal(tmp_path / "j.db") as journal:
        one, two = (PersistentRepr("a", 1, b"{}", "m", writer) for writer in ("one", "two"))
        answers = await asyncio.gather(
            journal.write_messages([one]), journal.write_messages([two]), return_exceptions=True
        )
        assert [type(answer) for answer in answers] == [type(None), SequenceOutOfOrder]
        await journal.write_messages([PersistentRepr("b", 1, b"{}", "m", "two")])
        latest = await journal.latest_message("b")
        assert latest is not None
        assert latest.writer_uuid == "two"
