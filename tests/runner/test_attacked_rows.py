"""A row that is damaged keeps no other instance from its events and timers; its own is parked, and left as it is."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from sagalog import SagaParkedError, SqliteJournal

from ..orders import Noted, Placed
from .conftest import Bench

RECORD = (
    "UPDATE record SET {} WHERE record_id = (SELECT record_id FROM instance WHERE persistence_id = 'saga::order::k1')"
)
INSTANCE = "UPDATE instance SET {} WHERE persistence_id = 'saga::order::k1'"
UNREADABLE = {
    "an empty payload": RECORD.format("payload = x''"),
    "a text as payload": RECORD.format("payload = 'text'"),
    "a number as payload": RECORD.format("payload = 5"),
    "a text as epoch": INSTANCE.format("epoch = 'x'"),
}
NEVER_FOUND = {
    "a moment before all time": INSTANCE.format("due_at = -9223372036854775808"),
    "a fraction as moment": INSTANCE.format("due_at = 1.5"),
    "an id that is no text": INSTANCE.format("persistence_id = CAST(x'736167613a3a6f726465723a3aff' AS TEXT)"),
}


async def _damaged(path: Path, statement: str) -> Bench:
    bench = Bench(SqliteJournal(path))
    assert bench.journal is not None
    async with bench.runner() as runner:
        await runner.handle_many([Placed(f"k{n}") for n in range(5)])
        await runner.settle()
    await bench.journal.close()
    with closing(sqlite3.connect(path)) as other, other:
        assert other.execute(statement).rowcount == 1
    bench.journal = SqliteJournal(path)
    return bench


@pytest.mark.parametrize("damage", [*UNREADABLE, *NEVER_FOUND])
async def test_a_damaged_row_keeps_no_timer_of_others_from_firing(tmp_path: Path, damage: str) -> None:
    bench = await _damaged(tmp_path / "file.db", (UNREADABLE | NEVER_FOUND)[damage])
    assert bench.journal is not None
    async with bench.runner() as runner:
        bench.advance(minutes=15)
        await runner.settle()
        for key in ("k0", "k2", "k3", "k4"):
            assert "overdue" in await bench.log(key)
    await bench.journal.close()


@pytest.mark.parametrize("damage", UNREADABLE)
async def test_an_instance_whose_row_is_damaged_is_parked_and_left_as_it_is(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "file.db"
    bench = await _damaged(path, UNREADABLE[damage])
    assert bench.journal is not None
    with closing(sqlite3.connect(path)) as other:
        before = other.execute("SELECT * FROM record").fetchall()
    async with bench.runner() as runner:
        for event in (Noted("k1"), Placed("k1")):
            with pytest.raises(SagaParkedError, match="damaged"):
                await runner.handle(event)
        assert "'k1' first" in " ".join((await runner.health()).reasons)
        await runner.handle(Noted("k2", "goes on"))
        await runner.settle()
    await bench.journal.close()
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT * FROM record").fetchall()[: len(before)] == before
        assert other.execute("SELECT count(*) FROM record WHERE instance_id = 2").fetchone() == (2,)
