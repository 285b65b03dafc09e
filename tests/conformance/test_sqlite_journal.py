from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sagalog import PersistentRepr, SqliteJournal
from sagalog.conformance import Capability, JournalConformance
from sagalog.conformance.records import replay, write


class TestSqliteJournal(JournalConformance):
    capabilities = frozenset(Capability) - {Capability.TRANSACTIONS, Capability.BREAKABLE}

    @classmethod
    def make(cls, place: Path) -> SqliteJournal:
        return SqliteJournal(place / "journal.db")


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
