"""One file, opened more than once: by journals of one process, under several names, by other programs, across a fork."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sagalog import SqliteJournal, open_journal
from sagalog.conformance.records import replay, write
from sagalog.journal import open_existing


def looked_at_from_outside(path: Path) -> int:
    """Open and close the file in another process, as any command does; return the highest number of 'p'."""
    code = """
import sqlite3, sys
print(sqlite3.connect(sys.argv[1]).execute('select max(sequence_nr) from record').fetchone()[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=30, check=True
    )
    return int(done.stdout)


@pytest.mark.parametrize("again", ["same", "link", "relative", "existing", "refused", "closed"])
async def test_what_is_written_after_the_file_was_opened_twice_is_seen_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    path = tmp_path / "journal.db"
    (tmp_path / "link.db").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    async with SqliteJournal(path) as journal:
        await write(journal, "p", 1)
        if again == "refused":
            with pytest.raises(Exception, match="history"):
                SqliteJournal(path, history="some")
        else:
            names = {"link": "link.db", "relative": "./journal.db"}
            url = f"sqlite:///{names.get(again, path)}"
            async with open_existing(url) if again == "existing" else open_journal(url) as other:
                assert await replay(other, "p") == [1]
                if again == "link":
                    await write(other, "q", 1)
        assert looked_at_from_outside(path) == 1
        await write(journal, "p", *range(2, 30))
        assert looked_at_from_outside(path) == 29
    assert looked_at_from_outside(path) == 29


async def test_no_code_of_ours_opens_the_file_but_through_sqlite(tmp_path: Path) -> None:
    """What the interpreter opens by itself, it reports; sqlite3 opens in C and does not. The log has no locks to lose."""
    path = tmp_path / "journal.db"
    async with SqliteJournal(path) as journal:
        await write(journal, "p", 1)
        opened: list[str] = []
        watching = [True]

        def hear(event: str, arguments: tuple[object, ...]) -> None:
            if watching and event == "open" and str(arguments[0]).startswith(str(path)):
                opened.append(str(arguments[0]))

        sys.addaudithook(hear)
        async with SqliteJournal(path) as other:
            await write(other, "p", 2)
            await other.examine()
        watching.clear()
        assert set(opened) <= {f"{path}-wal"}


async def test_a_new_file_and_its_log_are_the_owner_s_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with SqliteJournal(tmp_path / "journal.db") as journal:
            await write(journal, "p", 1)
            modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == {"journal.db": 0o600, "journal.db-wal": 0o600, "journal.db-shm": 0o600}


async def test_a_file_that_is_shared_on_purpose_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "journal.db").touch()
    (tmp_path / "journal.db").chmod(0o660)
    async with SqliteJournal(tmp_path / "journal.db") as journal:
        await write(journal, "p", 1)
        assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == {0o660}
