"""Files of older versions become the newest when they are opened, whole or not at all; dumped ones are no strangers."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sagalog import PersistentRepr, SqliteJournal
from sagalog.conformance.records import replay, write
from sagalog.journal.sqlite import layout

FILES = Path(__file__).parent / "files"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ODD = 'saga::order::ä\0"'


async def check(journal: SqliteJournal) -> None:
    """Compare with what was written into the file by version 1."""
    tags = ("saga::order",)
    found = [message async for message in journal.replay_messages("saga::order::A-1")]
    assert found == [
        PersistentRepr("saga::order::A-1", n, b'{"n":%d}' % n, "saga-state", "saga-1", tags=tags, due_at=due)
        for n, due in ((1, None), (2, None), (3, NOW))
    ]
    assert await journal.latest_message(ODD) == PersistentRepr(
        ODD, 1, '{"name":"Zoë \\"x\\""}'.encode(), "m", "saga-2", tags=("a", "ü"), due_at=NOW + timedelta(days=1)
    )
    assert await replay(journal, "plain") == [3]
    assert await journal.ids_by_prefix("", deleted=True) == ["saga::order::gone"]
    assert await journal.due_ids("", NOW + timedelta(days=1)) == [
        ("saga::order::gone", NOW),
        ("saga::order::A-1", NOW + timedelta(minutes=5)),
        (ODD, NOW + timedelta(days=1)),
    ]
    assert [message.sequence_nr async for _, message in journal.events_by_tag("ü")] == [1]
    await write(journal, "plain", 4)
    await journal.purge([("saga::order::gone", 2)])
    assert await journal.highest_sequence_nr("saga::order::gone") == 0


@pytest.mark.parametrize("file", sorted(FILES.glob("version-*.sqlite")), ids=lambda file: file.stem)
async def test_a_file_of_an_older_version_is_carried_over_when_it_is_opened(tmp_path: Path, file: Path) -> None:
    shutil.copy(file, tmp_path / "journal.db")
    async with SqliteJournal(tmp_path / "journal.db") as journal:
        await check(journal)
    async with SqliteJournal(tmp_path / "journal.db") as journal:
        assert await replay(journal, "plain") == [3, 4]
        await journal.write_batch([PersistentRepr("plain", 5, b"x", terms=("x=1",))])
        assert [one.sequence_nr for one in (await journal.latest_by_terms(["x=1"]))[0]] == [5]


def shape(path: Path) -> tuple[object, ...]:
    connection = sqlite3.connect(path)
    try:
        return (
            sorted(
                " ".join(sql.split()) for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql <> ''")
            ),
            connection.execute("PRAGMA user_version").fetchone(),
            connection.execute("PRAGMA application_id").fetchone(),
            connection.execute("PRAGMA journal_mode").fetchone(),
        )
    finally:
        connection.close()


def opened(path: Path) -> None:
    asyncio.run(SqliteJournal(path).close())


@pytest.mark.parametrize("file", sorted(FILES.glob("version-*.sqlite")), ids=lambda file: file.stem)
def test_a_file_that_was_carried_over_is_as_a_new_one(tmp_path: Path, file: Path) -> None:
    shutil.copy(file, tmp_path / "old.db")
    opened(tmp_path / "old.db")
    opened(tmp_path / "new.db")
    assert shape(tmp_path / "old.db") == shape(tmp_path / "new.db")


@pytest.mark.parametrize("step", range(len(layout.steps_from(1))))
def test_a_migration_that_is_killed_has_changed_nothing(tmp_path: Path, step: int) -> None:
    path = tmp_path / "journal.db"
    shutil.copy(FILES / "version-1.sqlite", path)
    code = """
import os, signal, sys
from sagalog import SqliteJournal
from sagalog.journal.sqlite import layout
steps = layout.steps_from(1)
def killed(version):
    for nr, sql in enumerate(steps):
        yield sql
        if nr == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
layout.steps_from = killed
SqliteJournal(sys.argv[1])
"""
    done = subprocess.run([sys.executable, "-c", code, str(path), str(step)], timeout=30)
    assert done.returncode == -signal.SIGKILL

    async def look() -> None:
        async with SqliteJournal(path) as journal:
            await check(journal)

    asyncio.run(look())


def test_processes_that_carry_one_file_over_together_all_find_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    shutil.copy(FILES / "version-1.sqlite", path)
    code = "import asyncio, sys; from sagalog import SqliteJournal; asyncio.run(SqliteJournal(sys.argv[1]).close())"
    workers = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(5)]
    assert [worker.wait(30) for worker in workers] == [0] * 5

    async def look() -> None:
        async with SqliteJournal(path) as journal:
            await check(journal)

    asyncio.run(look())


@pytest.mark.parametrize("version", [1, 2, 3])
async def test_a_file_that_was_dumped_and_restored_is_recognised(tmp_path: Path, version: int) -> None:
    shutil.copy(FILES / f"version-{min(version, 2)}.sqlite", tmp_path / "old.db")
    if version == 3:
        await SqliteJournal(tmp_path / "old.db").close()
    old, new = sqlite3.connect(tmp_path / "old.db"), sqlite3.connect(tmp_path / "new.db")
    new.executescript("\n".join(old.iterdump()))
    new.close()
    old.close()
    # SQLite's dump ends a text at a zero, so the id that holds one is another afterwards.
    async with SqliteJournal(tmp_path / "new.db") as journal:
        assert await replay(journal, "saga::order::A-1") == [1, 2, 3]
        await write(journal, "plain", 4)
    opened_again = await asyncio.to_thread(shape, tmp_path / "new.db")
    assert opened_again[1:] == ((layout.VERSION,), (0x53414741,), ("wal",))
