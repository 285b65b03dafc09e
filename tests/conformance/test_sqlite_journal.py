from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sagalog import PersistentRepr, SequenceOutOfOrder, SqliteJournal

from .journal_contract import IDS, JournalContract, record, replay, write


class TestSqliteJournal(JournalContract):
    @pytest.fixture
    async def journal(self, tmp_path: Path) -> AsyncIterator[SqliteJournal]:
        journal = SqliteJournal(tmp_path / "journal.db")
        yield journal
        await journal.close()


async def test_everything_is_there_after_closing_and_opening_again(tmp_path: Path) -> None:
    async with SqliteJournal(tmp_path / "journal.db") as journal:
        for key in IDS:
            await write(journal, key, 1, 2)
    async with SqliteJournal(tmp_path / "journal.db") as journal:
        for key in IDS:
            assert await replay(journal, key) == [1, 2]


async def test_two_journals_on_one_file_race_and_each_number_is_won_once(tmp_path: Path) -> None:
    async with SqliteJournal(tmp_path / "journal.db") as one, SqliteJournal(tmp_path / "journal.db") as two:
        wins = {one: 0, two: 0}

        async def writer(journal: SqliteJournal) -> None:
            while (number := await journal.highest_sequence_nr("p") + 1) <= 60:
                try:
                    await journal.write_messages([record("p", number)])
                    wins[journal] += 1
                except SequenceOutOfOrder:
                    continue

        await asyncio.gather(writer(one), writer(two))
        assert sum(wins.values()) == 60
        assert await replay(one, "p") == list(range(1, 61))


@pytest.mark.parametrize(("history", "kept"), [("all", range(1, 13)), (0, [12]), (1, None), (3, None)])
async def test_history_is_kept_as_long_as_the_setting_says(tmp_path: Path, history: str | int, kept: object) -> None:
    async with SqliteJournal(tmp_path / "journal.db", history=history) as journal:
        await write(journal, "p", *range(1, 13))
        found = await replay(journal, "p")
        if kept is not None:
            assert found == list(kept)  # type: ignore[call-overload]
        else:
            assert isinstance(history, int)
            assert history + 1 <= len(found) <= 2 * history
            assert found == list(range(13 - len(found), 13))
        assert await journal.highest_sequence_nr("p") == 12


WRITER = """
import asyncio, sys
from sagalog import PersistentRepr, SqliteJournal

async def main(path, worker):
    journal = SqliteJournal(path)
    async def write(key):
        number = await journal.highest_sequence_nr(key)
        while True:
            number += 1
            await journal.write_messages([PersistentRepr(key, number, b"x" * 100)])
            print(key, number, flush=True)
    await asyncio.gather(*(write(f"k{n}") for n in range(8)))

asyncio.run(main(*sys.argv[1:]))
"""


async def test_what_was_acknowledged_before_a_kill_is_there(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    for turn in range(12):
        acknowledged: dict[str, int] = {}
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), "w"], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            for _ in range(20 + 37 * turn):
                key, number = writer.stdout.readline().split()
                acknowledged[key] = int(number)
            os.kill(writer.pid, signal.SIGKILL)
            for line in writer.stdout:
                if line.endswith("\n"):
                    key, number = line.split()
                    acknowledged[key] = int(number)
        async with SqliteJournal(path) as journal:
            for key, number in acknowledged.items():
                highest = await journal.highest_sequence_nr(key)
                assert number <= highest <= number + 1
                assert await replay(journal, key) == list(range(1, highest + 1))


async def test_processes_that_open_a_new_file_together_make_one_journal(tmp_path: Path) -> None:
    code = """
import asyncio, sys
from sagalog import PersistentRepr, SqliteJournal
async def main(path, key):
    async with SqliteJournal(path) as journal:
        await journal.write_messages([PersistentRepr(key, 1, b"x")])
asyncio.run(main(*sys.argv[1:]))
"""
    path = str(tmp_path / "journal.db")
    workers = [subprocess.Popen([sys.executable, "-c", code, path, f"k{n}"]) for n in range(6)]
    assert [worker.wait(30) for worker in workers] == [0] * 6
    async with SqliteJournal(path) as journal:
        assert await journal.ids_by_prefix("k") == [f"k{n}" for n in range(6)]


async def test_a_person_can_read_the_records_with_sqlite(tmp_path: Path) -> None:
    import sqlite3

    async with SqliteJournal(tmp_path / "journal.db") as journal:
        await journal.write_messages([PersistentRepr("saga::order::1", 1, b'{"status":"running"}')])
        connection = sqlite3.connect(tmp_path / "journal.db")
        try:
            rows = connection.execute("SELECT persistence_id, json_extract(record, '$.status') FROM saga").fetchall()
        finally:
            connection.close()
    assert rows == [("saga::order::1", "running")]
